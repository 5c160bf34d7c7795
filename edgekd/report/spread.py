"""How the timed runs of each file are spread: a histogram a file, each on an axis of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgekd.report import words
from edgekd.report.axes import Axis, axis
from edgekd.report.details import Table
from edgekd.report.figure_records import QUANTILES
from edgekd.report.schema import ArtifactRecord, LatencyDistribution, MeasurementRecord, Report
from edgekd.report.sharing import shown_name


@dataclass(frozen=True)
class Bin:
    """A bar, in percent: from `x`, `width` wide, `height` high."""

    x: float
    width: float
    height: float


@dataclass(frozen=True)
class Spread:
    """The runs of one measurement, or of several that share their runs."""

    name: str
    note: str
    bins: tuple[Bin, ...]
    x: Axis
    median_x: float
    p90_x: float | None
    said: str
    alternative: str


@dataclass(frozen=True)
class Spreads:
    """Histograms of the files that ship, and of the float references beside them."""

    files: tuple[Spread, ...]
    references: tuple[Spread, ...]


def spreads(report: Report) -> Spreads:
    """All measurements that have a distribution."""
    artifacts = {a.id: a for a in report.artifacts}
    by_runs: dict[str, list[MeasurementRecord]] = {}
    for m in report.measurements:
        if m.distribution is not None:
            by_runs.setdefault(m.raw_sha256, []).append(m)
    files: list[Spread] = []
    references: list[Spread] = []
    for same in by_runs.values():
        artifact = artifacts[same[0].artifact_id]
        (files if artifact.role == "target" else references).append(_spread(same, artifact))
    return Spreads(tuple(files), tuple(references))


def _spread(same: list[MeasurementRecord], artifact: ArtifactRecord) -> Spread:
    m, found = same[0], same[0].distribution
    assert found is not None  # chosen by it
    reference = artifact.role != "target"
    targets = words.listed(dict.fromkeys(each.target for each in same))
    x = _axis(found)
    tallest = max(found.counts) or 1
    width = (found.high_ms - found.low_ms) / len(found.counts)
    bins = tuple(
        Bin(
            at := x.at(found.low_ms + i * width),
            round(x.at(found.low_ms + (i + 1) * width) - at, 3),
            100 * n / tallest,
        )
        for i, n in enumerate(found.counts)
    )
    median, p90, worst = (found.quantiles_ms[QUANTILES.index(q)] for q in (50, 90, 100))
    outside = [f"{found.above:,} beyond the right end"] * (found.above > 0)
    outside += [f"{found.below:,} before the left end"] * (found.below > 0)
    said = f"median {_ms(median)} ms, p90 {_ms(p90)}, slowest {_ms(worst)}; {words.count(m.num_runs, 'run')}"
    said += f", {words.listed(outside)}" if outside else ""
    name = shown_name(artifact) if reference else targets
    return Spread(
        name=name,
        note=f"beside {targets}" if reference else f"{artifact.format} · {artifact.scheme}",
        bins=bins,
        x=x,
        median_x=x.at(median),
        p90_x=x.at(p90) if p90 <= found.high_ms else None,
        said=said,
        alternative=f"Latency of {name}: {said}.",
    )


def _ms(value: float) -> str:
    """Three significant digits."""
    return words.number(value, max(0, 2 - math.floor(math.log10(value)))) if value > 0 else "0"


def _axis(found: LatencyDistribution) -> Axis:
    return axis([found.low_ms, found.high_ms], most=4, air=0.0)


def spread_table(report: Report) -> tuple[Table, ...]:
    """The quantiles of every measurement."""
    artifacts = {a.id: a for a in report.artifacts}
    decimals = words.ms_decimals(m.median_ms for m in report.measurements)
    rows = tuple(
        (
            shown_name(artifacts[m.artifact_id]),
            m.target,
            f"{m.num_runs:,}",
            *(words.number(q, decimals) for q in m.distribution.quantiles_ms),
        )
        for m in report.measurements
        if m.distribution is not None
    )
    head = ("File", "Target", "Runs", *(f"{q}%, ms" for q in QUANTILES))
    return (Table("Quantiles of latency", head, rows, tuple(range(2, len(head)))),) if rows else ()
