"""A short Markdown summary for the page of a CI job: the verdict, a line a target, and why not.

It is appended to what other steps wrote, so its headings start at the second level. It has no links: the
files of a job lie behind addresses that nobody knows while it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekd.report import tables, verdicts, words
from edgekd.report.fitting import Block, fitted, shortened
from edgekd.report.markdown import escape, table
from edgekd.report.schema import Report, SliceRecord
from edgekd.report.verdicts import Checked
from edgekd.types import Status

MARKS = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "❔"}
CELL_CHARACTERS = 400
ELSEWHERE = "report.json"


@dataclass(frozen=True)
class Summary:
    """What a summary tells, of a report or of predictions alone.

    Attributes:
        name: recipe, or what was judged.
        status: the overall verdict.
        headline: why, in a sentence.
        head, rows, numeric: the table of targets or candidates.
        matrix: head and rows of device by file; None where there is one device.
        checks: (required, check), of all checks.
        alarms: (target, slice) of slices that need not pass.
        notes: what a reader should know besides.
        elsewhere: where the rest stands.
    """

    name: str
    status: Status
    headline: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[int]
    matrix: tuple[Sequence[str], Sequence[Sequence[str]]] | None
    checks: Sequence[tuple[bool, Checked]]
    alarms: Sequence[tuple[str, SliceRecord]]
    notes: Sequence[str]
    elsewhere: str


def summary(report: Report) -> str:
    """The summary of a report, in at most 65,536 characters."""
    metric = words.primary(report)
    value, drop = words.unit_sign(metric.unit), words.drop_unit(metric.unit)
    head = ["Target", words.headed(words.metric_title(metric.name), value)]
    head += [f"{words.headed('Drop', drop)} ({words.confidence(report)} interval)", "Size, kB", "p90, ms"]
    head += ["Verdict"]
    rows = [
        (
            f"{row.name}{' (required)' if row.required else ''}",
            row.value,
            row.drop_text,
            row.size_kb,
            f"{row.p90_ms}{'' if row.kind in ('', 'measured') else f' ({row.kind})'}",
            marked(verdicts.verdict_of(report, row.name)),
        )
        for row in tables.artifact_rows(report)
        if not row.reference
    ]
    found = verdicts.matrix(report)
    facts = " · ".join(f"{name}: {text}" for name, text in tables.facts(report))
    return written(
        Summary(
            name=report.recipe.name,
            status=Status(report.verdict.status),
            headline=words.headline(report),
            head=head,
            rows=rows,
            numeric=(1, 2, 3, 4),
            matrix=found.lines(words.ABSENT) if len(found.devices) > 1 < len(found.files) else None,
            checks=[(verdicts.is_required(report, c.target), c) for c in report.verdict.checks],
            alarms=[(str(a.target), one) for a in report.artifacts for one in a.slices if one.alarm],
            notes=[facts, *words.cautions(report)],
            elsewhere=ELSEWHERE,
        )
    )


def marked(status: Status) -> str:
    """`✅ PASS`."""
    return f"{MARKS.get(status, '')} {status.replace('_', ' ')}".strip()


def written(found: Summary) -> str:
    """A summary as Markdown."""

    def told(text: str) -> str:
        return escape(shortened(text, CELL_CHARACTERS))

    blocks = [
        Block(f"## edgekd: {told(found.name)}: {marked(found.status)}"),
        Block(told(found.headline)),
        table(found.head, found.rows, found.numeric, most=CELL_CHARACTERS, name="targets"),
    ]
    if found.matrix is not None:
        blocks.append(Block("### Device by file"))
        blocks.append(table(*found.matrix, most=CELL_CHARACTERS, name="device by file"))
    blocks += _not_passed(found)
    blocks += [Block(f"> {told(note)}", name="notes") for note in found.notes]
    return fitted(blocks, found.elsewhere)


def _not_passed(found: Summary) -> Iterable[Block]:
    """The checks that decide, then those of targets that are not required, and alarms."""
    for required, title in ((True, "Not passed"), (False, "Not passed, not required")):
        alike: dict[tuple[Status, str, str], list[str]] = {}
        for status in (Status.FAIL, Status.INCONCLUSIVE):
            for of, check in found.checks:
                if of is required and check.status is status:
                    alike.setdefault((status, check.name, check.detail), []).append(check.target or "the run")
        lines = [
            f"- **{status}** {escape(words.check_title(name))} on "
            f"{escape(shortened(words.listed(targets), CELL_CHARACTERS))}: "
            f"{escape(shortened(detail, CELL_CHARACTERS))}"
            for (status, name, detail), targets in alike.items()
        ]
        if lines:
            yield Block(f"### {title}\n", tuple(lines), name=title.lower())
    if found.alarms:
        rows = [
            (target, f"{one.column} = {one.value}", f"{one.n:,}", words.plain(one.drop), f"{one.margin:g}")
            for target, one in found.alarms
        ]
        head = ("Target", "Slice", "Samples", "Drop", "Margin")
        title = "### Alarms of slices that need not pass\n\n"
        yield table(head, rows, (2, 3, 4), most=CELL_CHARACTERS, name="alarms", before=title)
