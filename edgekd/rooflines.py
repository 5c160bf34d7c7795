"""How fast each file that ships could be at best on its target, worked out from the file and the profile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekd.config import Target
from edgekd.errors import MeasurementError
from edgekd.measure.roofline import OperatorBound, Roofline, roofline_of
from edgekd.report.roofline_records import (
    MOST_OPERATORS,
    OperatorBoundRecord,
    PeakRecord,
    RooflineRecord,
)
from edgekd.report.schema import ArtifactRecord, Report


def with_rooflines(report: Report, folder: Path, targets: Sequence[Target]) -> Report:
    """The report with the bound of each file that ships, or why it has none.

    Args:
        report: whose files lie in `folder`, and whose measurements say what was reached.
        folder: the report's.
        targets: the profiles of its targets.
    """
    profiles = {target.name: target for target in targets}
    artifacts = [
        a.model_copy(update=_bound(a, report, folder, profiles[a.target])) if a.target else a
        for a in report.artifacts
    ]
    return report.model_copy(update={"artifacts": tuple(artifacts)})


def _bound(artifact: ArtifactRecord, report: Report, folder: Path, target: Target) -> dict[str, object]:
    if target.peak is None:
        return {"roofline": None, "roofline_absent": "no [peak] in the profile"}
    try:
        found = roofline_of(
            folder / artifact.files[0].path,
            artifact.format,
            target.peak,
            target.runtime.num_threads,
            halves=target.runtime.delegate == "gpu",
        )
    except MeasurementError as error:  # no run is lost for a bound
        return {"roofline": None, "roofline_absent": error.message}
    medians = [
        m.median_ms
        for m in report.measurements
        if (m.artifact_id, m.target, m.kind) == (artifact.id, target.name, "measured")
    ]
    peak = PeakRecord(**target.peak.model_dump())
    return {"roofline": record(found, peak, medians[0] if medians else None), "roofline_absent": ""}


def record(found: Roofline, peak: PeakRecord, median_ms: float | None) -> RooflineRecord:
    """A roofline as report.json has it.

    Args:
        found: the bounds.
        peak: the rates that they follow from.
        median_ms: of runs on the target itself, None where there were none.
    """
    ordered = sorted(found.operators, key=lambda o: -o.bound_ms)
    shown, others = ordered[:MOST_OPERATORS], ordered[MOST_OPERATORS:]
    return RooflineRecord(
        peak=peak,
        num_threads=found.num_threads,
        bound_ms=found.bound_ms,
        compute_ms=found.compute_ms,
        macs=found.macs,
        operations=sum(o.work.operations for o in found.operators),
        moved_bytes=sum(o.moved_bytes for o in found.operators),
        operators=tuple(map(_operator, shown)),
        other_operators=len(others),
        other_ms=sum(o.bound_ms for o in others),
        uncounted=found.uncounted,
        reached=found.bound_ms / median_ms if median_ms else None,
    )


def _operator(o: OperatorBound) -> OperatorBoundRecord:
    return OperatorBoundRecord(
        layer=o.work.name,
        op_type=o.work.op_type,
        dtype=o.work.dtype,
        macs=o.work.macs,
        operations=o.work.operations,
        moved_bytes=o.moved_bytes,
        bound_ms=o.bound_ms,
        limit=o.limit,
    )
