"""The report as Markdown, for a pull request or a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgekd.report import tables, words
from edgekd.report.classes import change_tables
from edgekd.report.details import detail_tables
from edgekd.report.further import further_tables
from edgekd.report.schema import Report
from edgekd.report.sensitivity import sensitivity_tables
from edgekd.report.slices import SliceRow, slices
from edgekd.report.waterfall import Row, Waterfall, waterfall, worst_sentence

BAR_CELLS = 24
SLICE_ROWS = 30  # of each kind; a comment on a pull request holds 65,536 characters
_ESCAPES = {ord(c): f"\\{c}" for c in "\\`*_[]|#"} | {
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    ord("\n"): " ",
    ord("\r"): " ",
}


def markdown(report: Report) -> str:
    """The whole report as GitHub-flavoured Markdown; text from outside is escaped."""
    parts = [
        *_header(report),
        "## What each step cost",
        *_waterfall(waterfall(report), report),
        "## Files",
        *_files(report),
        "## Checks",
        _checks(report),
        *_slices(report),
        "## Details",
        *_details(report),
    ]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    return text.translate(_ESCAPES)


def _header(report: Report) -> list[str]:
    status = report.verdict.status
    parts = [f"# {escape(report.recipe.name)}: {status}", f"**{status}.** {escape(words.headline(report))}"]
    detail = words.decisive_detail(report)
    if detail:
        parts.append(escape(words.sentence(detail).rstrip(".") + "."))
    lines = [f"- {escape(name)}: **{escape(value)}**" for name, value in tables.facts(report)]
    why = words.why_margin(report)
    if why:
        lines.append(f"- Why this margin: {escape(why)}")
    parts.append("\n".join(lines))
    parts += [f"> {escape(caution)}" for caution in words.cautions(report)]
    return parts


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = ()) -> str:
    """A Markdown table of escaped text."""
    right = set(numeric)
    rule = ["---:" if i in right else "---" for i in range(len(head))]
    lines = [[escape(h) for h in head], rule, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _waterfall(fall: Waterfall, report: Report) -> list[str]:
    metric = fall.metric
    unit, decimals = words.drop_unit(metric.unit), words.value_decimals(metric.unit)
    head = ["Step", f"{words.sentence(metric.name)}, {words.unit_sign(metric.unit)}", f"Drop, {unit}"]
    head += [f"{words.confidence(report)} interval, {unit}", f"This step, {unit}", "Drop so far"]
    rows = [
        (
            _label(row),
            words.number(row.value, decimals),
            words.signed(row.drop, decimals),
            words.interval(row.interval, decimals),
            words.signed(row.step, decimals),
            _bar(row.drop, fall),
        )
        for row in fall.rows
    ]
    about = (
        f"Every drop is against the {words.baseline_name(report)} on the same "
        f"{words.count(report.data.splits.test.n, 'test sample')}; above zero is a loss. "
    )
    return [about + escape(worst_sentence(fall)), _table(head, rows, (1, 2, 3, 4))]


def _label(row: Row) -> str:
    """Indented as the tree branches; spaces that Markdown keeps."""
    indent = "\u2003" * max(len(row.guides) - 1, 0) + ("└ " if row.guides else "")
    return f"{indent}{row.label}{' (required)' if row.required else ''}"


def _bar(drop: float | None, fall: Waterfall) -> str:
    """A bar of blocks as long as the drop, on the scale that the largest value sets."""
    if drop is None or drop <= 0:
        return ""
    return "█" * max(1, round(drop / fall.high * BAR_CELLS))


def _files(report: Report) -> list[str]:
    metric = words.primary(report)
    unit = words.drop_unit(metric.unit)
    base = words.baseline_name(report)
    head = ["Target", "File", "Size, kB", f"{words.sentence(metric.name)}, {words.unit_sign(metric.unit)}"]
    head += [f"Drop, {unit}", "Median, ms", "p90, ms", "Timed", f"Speed-up over the {base}, ×"]
    head += ["Speed-up over its own float, ×", "int8 operators, %", "Parity"]
    rows = []
    for row in tables.artifact_rows(report):
        drop = row.drop if row.drop == words.ABSENT else f"{row.drop} {row.drop_interval}"
        rows.append(
            (
                f"{row.name}{' (required)' if row.required else ''}",
                f"{row.format}, {row.scheme}",
                row.size_kb,
                row.value,
                drop,
                row.median_ms,
                row.p90_ms,
                row.kind or words.ABSENT,
                f"{row.over_teacher} {row.over_teacher_interval}".rstrip(),
                f"{row.over_float} {row.over_float_interval}".rstrip(),
                row.int8_percent,
                f"{row.parity} {row.parity_unit}".rstrip(),
            )
        )
    kinds = dict.fromkeys(m.kind for m in report.measurements)
    legend = "; ".join(f"{kind}: timed {tables.KIND_WORDS[kind]}" for kind in kinds)
    return [
        _table(head, rows, (2, 3, 4, 5, 6, 8, 9, 10)),
        *([f"{words.sentence(legend)}."] if legend else []),
    ]


def _checks(report: Report) -> str:
    head = ("Status", "Target", "Check", "Observed", "Limit", "Unit", "Detail")
    rows = [
        (
            row.status.replace("_", " "),
            f"{row.target}{' (required)' if row.required else ''}",
            row.name,
            row.observed,
            row.limit,
            row.unit,
            row.detail,
        )
        for row in tables.check_rows(report)
    ]
    return _table(head, rows, (3, 4))


def _slices(report: Report) -> list[str]:
    """Slices that must pass, and of the others those that raise an alarm."""
    found = slices(report, SLICE_ROWS)
    if found is None:
        return []
    parts = ["## Slices"]
    must = (*found.mandatory, *found.passing)[:SLICE_ROWS]
    for said, rows in ((found.mandatory_said, must), (found.others_said, found.alarms)):
        parts += [escape(said)] if said else []
        parts += [_slice_table(rows, found.unit, words.confidence(report))] if rows else []
    return parts


def _slice_table(rows: Sequence[SliceRow], unit: str, confidence: str) -> str:
    head = ["Status", "Slice", "File", "Samples", f"Drop, {unit}" if unit else "Drop"]
    head += [f"{confidence} interval", "Margin", "Reason"]
    cells = [(r.status, r.name, r.target, r.n, r.drop, r.interval, r.margin, r.reason) for r in rows]
    return _table(head, cells, (3, 4, 5, 6))


def _details(report: Report) -> list[str]:
    parts = []
    found = (*change_tables(report), *detail_tables(report), *further_tables(report))
    for table in (*found, *sensitivity_tables(report)):
        body = _table(table.head, table.rows, table.numeric)
        title = escape(table.title)
        parts.append(f"<details><summary>{title}</summary>\n\n{body}\n\n</details>")
    recipe = words.toml(report.recipe.config)
    fence = "`" * max(3, _longest_run(recipe) + 1)
    parts.append(f"<details><summary>Recipe</summary>\n\n{fence}toml\n{recipe}\n{fence}\n\n</details>")
    return parts


def _longest_run(text: str) -> int:
    """The longest run of backticks, so that a fence can be longer."""
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return longest
