"""The report as Markdown, for a pull request or a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from edgekd.report import tables, verdicts, words
from edgekd.report.bounds import ABOUT, bound_table, bound_tables, bounds_notes
from edgekd.report.classes import change_tables
from edgekd.report.details import detail_tables
from edgekd.report.fitting import BODY, Block, fitted, shortened, whole
from edgekd.report.further import further_tables
from edgekd.report.schema import Report
from edgekd.report.sensitivity import sensitivity_tables
from edgekd.report.slices import SliceRow, slices
from edgekd.report.waterfall import Row, Waterfall, waterfall, worst_sentence

BAR_CELLS = 24
CELL_CHARACTERS = 300
# GitHub and GitLab make links of these wherever they stand; behind an invisible space they do not.
_LINKS = re.compile(r"(?<!\w)@(?=\w)|\bwww(?=\.)|\b(?:https?|ftp):(?=//)", re.IGNORECASE)
FEW_CHECKS = 10  # more are folded where they pass
SLICE_ROWS = 30  # of each kind; a comment on a pull request holds 65,536 characters
_ESCAPES = {ord(c): f"\\{c}" for c in "\\`*_[]|#"} | {
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    ord("\n"): " ",
    ord("\r"): " ",
}


def markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown, short enough for a comment; text from outside is escaped.

    Where all of it would be too long, texts are shortened, and rows and details left out with a line that
    says so; the header and the checks that decided stand first.
    """
    text = whole(_blocks(report, None))
    return text if len(text) <= BODY else fitted(_blocks(report, CELL_CHARACTERS), "report.html")


def _blocks(report: Report, most: int | None) -> list[Block]:
    """The parts; where `most` is given, texts of so many characters, and checks that did not pass first."""
    return [
        *(Block(part, name="the verdict") for part in _header(report, most)),
        *_matrix(report),
        Block("## What each step cost"),
        *_waterfall(waterfall(report), report, most),
        Block("## Files"),
        *_files(report, most),
        Block("## Checks"),
        *_checks(report, most),
        *_slices(report, most),
        *_bounds(report, most),
        Block("## Details"),
        *_details(report, most),
    ]


def escape(text: str) -> str:
    """Text that Markdown and HTML leave as it is, and that mentions nobody and links to nothing."""
    return _LINKS.sub(lambda found: f"{found[0]}\u200b", text).translate(_ESCAPES)


def _header(report: Report, most: int | None) -> list[str]:
    def told(text: str) -> str:
        return escape(text if most is None else shortened(text, most))

    status = report.verdict.status
    parts = [f"# {told(report.recipe.name)}: {status}", f"**{status}.** {told(words.headline(report))}"]
    detail = words.decisive_detail(report)
    if detail:
        parts.append(told(words.sentence(detail).rstrip(".") + "."))
    lines = [f"- {told(name)}: **{told(value)}**" for name, value in tables.facts(report)]
    why = words.why_margin(report)
    if why:
        lines.append(f"- Why this margin: {told(why)}")
    parts.append("\n".join(lines))
    parts += [f"> {told(caution)}" for caution in words.cautions(report)]
    return parts


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    numeric: Iterable[int] = (),
    *,
    most: int | None = None,
    name: str = "",
    before: str = "",
) -> Block:
    """A Markdown table of escaped text, its cells of at most `most` characters."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(escape(c if most is None else shortened(c, most)) for c in cells)} |"

    right = set(numeric)
    rule = " | ".join("---:" if i in right else "---" for i in range(len(head)))
    return Block(f"{before}{line(head)}\n| {rule} |", tuple(map(line, rows)), name=name)


def _folded(block: Block, title: str) -> Block:
    """The same under a title, to be opened by who wants to see it."""
    before = f"<details><summary>{escape(title)}</summary>\n\n{block.before}"
    return replace(block, before=before, after="\n\n</details>")


def _matrix(report: Report) -> list[Block]:
    """Device by file, where there are several devices."""
    found = verdicts.matrix(report)
    if len(found.devices) < 2:
        return []
    over = words.listed(d for d, required in zip(found.devices, found.required, strict=True) if required)
    about = f"Overall, over {escape(over)}: **{report.verdict.status}**."
    return [Block("## Devices"), Block(about), table(*found.lines(words.ABSENT), name="devices")]


def _waterfall(fall: Waterfall, report: Report, most: int | None) -> list[Block]:
    metric = fall.metric
    unit, decimals = words.drop_unit(metric.unit), words.value_decimals(metric.unit)
    head = ["Step", words.headed(words.metric_title(metric.name), words.unit_sign(metric.unit))]
    named = ("Drop", f"{words.confidence(report)} interval", "This step")
    head += [*(words.headed(name, unit) for name in named), "Drop so far"]
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
    return [
        Block(about + escape(worst_sentence(fall))),
        table(head, rows, (1, 2, 3, 4), most=most, name="what each step cost"),
    ]


def _label(row: Row) -> str:
    """Indented as the tree branches; spaces that Markdown keeps."""
    indent = "\u2003" * max(len(row.guides) - 1, 0) + ("└ " if row.guides else "")
    return f"{indent}{row.label}{' (required)' if row.required else ''}"


def _bar(drop: float | None, fall: Waterfall) -> str:
    """A bar of blocks as long as the drop, on the scale that the largest value sets."""
    if drop is None or drop <= 0:
        return ""
    return "█" * max(1, round(drop / fall.high * BAR_CELLS))


def _files(report: Report, most: int | None) -> list[Block]:
    metric = words.primary(report)
    unit = words.drop_unit(metric.unit)
    base = words.baseline_name(report)
    head = ["Target", "File", "Size, kB"]
    head += [words.headed(words.metric_title(metric.name), words.unit_sign(metric.unit))]
    head += [words.headed("Drop", unit), "Median, ms", "p90, ms", "Timed", f"Speed-up over the {base}, ×"]
    head += ["Speed-up over its own float, ×", "int8 operators, %", "Parity"]
    rows = []
    for row in tables.artifact_rows(report):
        rows.append(
            (
                f"{row.name}{' (required)' if row.required else ''}",
                f"{row.format}, {row.scheme}",
                row.size_kb,
                row.value,
                row.drop_text,
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
        table(head, rows, (2, 3, 4, 5, 6, 8, 9, 10), most=most, name="files"),
        *([Block(f"{words.sentence(legend)}.")] if legend else []),
    ]


def _checks(report: Report, most: int | None) -> list[Block]:
    """In one table; of many those that do not pass, the others folded below."""
    found = list(tables.check_rows(report))
    order = ["FAIL", "INCONCLUSIVE"]
    if most is not None:
        found.sort(key=lambda row: (order.index(row.status) if row.status in order else 2, not row.required))
    if len(found) <= FEW_CHECKS:
        return [_check_table(found, most)]
    open_ones = [row for row in found if row.status in order]
    rest = [row for row in found if row.status not in order]
    parts = [_check_table(open_ones, most)] if open_ones else []
    title = f"{words.count(len(rest), 'check')}: passed, or not applicable"
    return [*parts, _folded(_check_table(rest, most), title)] if rest else parts


def _check_table(found: Sequence[tables.CheckRow], most: int | None) -> Block:
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
        for row in found
    ]
    return table(head, rows, (3, 4), most=most, name="checks")


def _slices(report: Report, most: int | None) -> list[Block]:
    """Slices that must pass, and of the others those that raise an alarm."""
    found = slices(report, SLICE_ROWS)
    if found is None:
        return []
    parts = [Block("## Slices")]
    must = found.must_pass(SLICE_ROWS)
    for said, rows in ((found.mandatory_said, must), (found.others_said, found.alarms)):
        parts += [Block(escape(said))] if said else []
        parts += [_slice_table(rows, found.unit, words.confidence(report), most)] if rows else []
    return parts


def _slice_table(rows: Sequence[SliceRow], unit: str, confidence: str, most: int | None) -> Block:
    head = ["Status", "Slice", "File", "Samples", f"Drop, {unit}" if unit else "Drop"]
    head += [f"{confidence} interval", "Margin", "Reason"]
    cells = [(r.status, r.name, r.target, r.n, r.drop, r.interval, r.margin, r.reason) for r in rows]
    return table(head, cells, (3, 4, 5, 6), most=most, name="slices")


def _bounds(report: Report, most: int | None) -> list[Block]:
    """How fast each file could be at best."""
    found, notes = bound_table(report), bounds_notes(report)
    if found is None and not notes:
        return []
    parts = [Block("## Bounds")]
    if found is not None:
        parts += [
            Block(escape(ABOUT)),
            table(found.head, found.rows, found.numeric, most=most, name="bounds"),
        ]
    return [*parts, Block(escape(notes if most is None else shortened(notes, most)))] if notes else parts


def _details(report: Report, most: int | None) -> list[Block]:
    parts = []
    found = (*change_tables(report), *detail_tables(report), *further_tables(report))
    for one in (*found, *bound_tables(report), *sensitivity_tables(report)):
        shown = table(one.head, one.rows, one.numeric, most=most, name=one.title)
        parts.append(_folded(shown, one.title))
    recipe = words.toml(report.recipe.config)
    fence = "`" * max(3, _longest_run(recipe) + 1)
    text = Block(f"{fence}toml\n{recipe}\n{fence}", name="Recipe")
    return [*parts, _folded(text, "Recipe")]


def _longest_run(text: str) -> int:
    """The longest run of backticks, so that a fence can be longer."""
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return longest
