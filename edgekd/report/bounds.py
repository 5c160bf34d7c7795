"""How fast each file could be at best: the bound at its target's peak rates, and what limits it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from edgekd.report import words
from edgekd.report.details import Table
from edgekd.report.roofline_records import RooflineRecord
from edgekd.report.schema import ArtifactRecord, Report

TITLE = "Bound of each file on its target: a bound, not a prediction"
ABOUT = (
    "The least time at the target’s peak rates: every operation at full rate, and from memory only what no "
    "cache can have kept. It is a bound, not a prediction: real runs take longer. What share of it was "
    "reached is told only of files that were timed on the target itself."
)


def bound_table(report: Report) -> Table | None:
    """A row a file that has a bound; what was reached only where a file was timed on its target."""
    found = [(a, a.roofline) for a in report.artifacts if a.roofline is not None]
    if not found:
        return None
    timed = [_median(report, a) for a, _ in found]
    decimals = _decimals([r.bound_ms for _, r in found])
    ms = words.ms_decimals(m for m in timed if m is not None)
    head = ["File", "Bound, ms", "Limited by compute, %", "Limited by memory, %", "MACs", "Cores"]
    rows = [[str(a.target), words.number(r.bound_ms, decimals), *_limits(r)] for a, r in found]
    if any(r.reached is not None for _, r in found):
        head += ["Median, ms", "Share of the bound reached, %"]
        for row, (_, r), median in zip(rows, found, timed, strict=True):
            share = None if r.reached is None else 100 * r.reached
            row += [words.number(median, ms), words.number(share, 1)]
    return Table(TITLE, tuple(head), tuple(map(tuple, rows)), tuple(range(1, len(head))))


def bounds_notes(report: Report) -> str:
    """Sentences on which files have no bound and why, and on bounds that leave something out or are none."""
    notes: dict[str, list[str]] = {}
    for a in report.artifacts:
        if a.target is not None and a.roofline_absent:
            notes.setdefault(f"No bound for {{}}: {a.roofline_absent}.", []).append(a.target)
    for name, r in _found(report):
        if r.reached is not None and r.reached > 1:
            said = "Faster than the bound: {}. The device has more than [peak] of its profile says."
            notes.setdefault(said, []).append(name)
        if r.uncounted:
            said = f"Not counted for {{}}: what is inside {words.listed(r.uncounted)}."
            notes.setdefault(said, []).append(name)
    return " ".join(said.replace("{}", words.listed(of), 1) for said, of in notes.items())


def bound_tables(report: Report) -> tuple[Table, ...]:
    """The operators that the bounds are made of, and the rates."""
    found = _found(report)
    if not found:
        return ()
    head = ("File", "Layer", "Operator", "Type", "MACs", "From memory, bytes", "Bound, µs", "Limited by")
    decimals = max(_decimals([r.bound_ms for _, r in found]) - 2, 1)
    operators = Table(
        "Operators of the longest bounds, not predictions",
        head,
        tuple(row for name, roofline in found for row in _operators(name, roofline, decimals)),
        (4, 5, 6),
    )
    return operators, _peaks(found)


def _median(report: Report, artifact: ArtifactRecord) -> float | None:
    """Of the runs on the target itself."""
    if artifact.roofline is None or artifact.roofline.reached is None:
        return None
    of = artifact.id, artifact.target
    return next((m.median_ms for m in report.measurements if (m.artifact_id, m.target) == of), None)


def _limits(r: RooflineRecord) -> tuple[str, ...]:
    compute = None if r.bound_ms == 0 else 100 * min(r.compute_ms / r.bound_ms, 1.0)
    memory = None if compute is None else 100 - compute
    return words.number(compute, 0), words.number(memory, 0), words.short(r.macs), str(r.num_threads)


def _found(report: Report) -> list[tuple[str, RooflineRecord]]:
    return [(str(a.target), a.roofline) for a in report.artifacts if a.roofline is not None]


def _operators(name: str, r: RooflineRecord, decimals: int) -> Iterator[tuple[str, ...]]:
    for o in r.operators:
        moved = words.number(o.moved_bytes, 0)
        bound = words.number(1000 * o.bound_ms, decimals)
        # What takes no time is limited by nothing.
        limit = o.limit if o.bound_ms else words.ABSENT
        yield name, o.layer, o.op_type, o.dtype, f"{o.macs:,}", moved, bound, limit
    if r.other_operators:
        others = words.count(r.other_operators, "more operator")
        macs = r.macs - sum(o.macs for o in r.operators)
        moved = words.number(max(r.moved_bytes - sum(o.moved_bytes for o in r.operators), 0), 0)
        yield name, others, "", "", f"{macs:,}", moved, words.number(1000 * r.other_ms, decimals), ""


def _peaks(found: list[tuple[str, RooflineRecord]]) -> Table:
    rows = tuple(
        (
            name,
            *(words.plain(v) for v in (r.peak.fp32_gflops, r.peak.fp16_gflops, r.peak.int8_gops)),
            words.plain(r.peak.memory_gb_per_s),
            words.plain(r.peak.cache_mb),
            r.peak.source,
        )
        for name, r in found
    )
    head = ("Target", "float32, GFLOP/s", "float16, GFLOP/s", "int8, GOP/s", "Memory, GB/s", "Caches, MB")
    return Table("Peak rates of one core, for the bounds", (*head, "Source"), rows, (1, 2, 3, 4, 5))


def _decimals(values: Iterable[float]) -> int:
    """Decimals that show three significant digits of the smallest, in milliseconds."""
    smallest = min((v for v in values if v > 0), default=1.0)
    return min(max(2 - math.floor(math.log10(smallest)), 1), 9)
