"""Latency and memory of two reports: compared where they were taken alike, else it is said why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekd.gate.against import ratio_interval
from edgekd.gate.judge import MIN_PROCESSES
from edgekd.gate.timing import MAX_PROCESS_VARIATION
from edgekd.measurements import Measurement
from edgekd.report.compared import Change, Ends, Word
from edgekd.report.hosts import host_differences, machine_of
from edgekd.report.schema import ArtifactRecord, MeasurementRecord, Report
from edgekd.stored import read_measurement


@dataclass(frozen=True)
class Side:
    """A report and the folder that its files lie in."""

    report: Report
    folder: Path

    def file(self, target: str) -> ArtifactRecord:
        """What ships to a target."""
        return next(a for a in self.report.artifacts if a.target == target)

    def timing(self, artifact_id: str, target: str) -> MeasurementRecord | None:
        """How long a file took under a target's protocol."""
        found = (m for m in self.report.measurements if (m.artifact_id, m.target) == (artifact_id, target))
        return next(found, None)


def content(file: ArtifactRecord) -> tuple[str, ...]:
    """What tells two files apart."""
    return tuple(f.sha256 for f in file.files)


def memory(old: Side, new: Side, target: str) -> Change:
    """Peak memory of a process that only runs the file: one figure a run."""
    records = tuple(side.timing(side.file(target).id, target) for side in (old, new))
    before, after = (None if m is None else m.peak_memory_bytes for m in records)
    absent = Change("memory", "bytes", before, after, None, None, "not comparable", "not taken in both")
    if (obstacle := _otherwise(old, new, records, absent)) is not None:
        return obstacle
    if not before or not after:
        return absent
    word: Word = "same" if before == after else "unjudged"
    return replace(absent, change=after / before, word=word, basis="one figure a run, no interval")


def latency(old: Side, new: Side, target: str, quantile: float) -> Change:
    """Median or 90th percentile, against how the computer itself changed where that is known."""
    files = old.file(target), new.file(target)
    found = _timed(old, new, target, (files[0].id, files[1].id), quantile)
    if not isinstance(found, _Ratio):
        return found
    if content(files[0]) == content(files[1]):
        return replace(found.change, word="same", basis="the same file: a difference is the computer's")
    word, basis = _beyond(found, _control(old, new, target, quantile))
    return replace(found.change, word=word, basis=basis)


@dataclass(frozen=True)
class _Ratio:
    """Two measurements that can be compared, and a ratio of them with an interval."""

    timed: tuple[Measurement, Measurement]
    interval: Ends
    change: Change


def _control(old: Side, new: Side, target: str, quantile: float) -> _Ratio | None:
    """What a float file took that is the same in both, timed anew: how the computer itself changed."""
    for role in ("teacher_float", "student_float"):
        for first in (a for a in old.report.artifacts if a.role == role):
            for second in (a for a in new.report.artifacts if content(a) == content(first)):
                found = _timed(old, new, target, (first.id, second.id), quantile)
                if isinstance(found, _Ratio):
                    return found
    return None


def _timed(old: Side, new: Side, target: str, ids: tuple[str, str], quantile: float) -> _Ratio | Change:
    """The ratio of a quantile, new over old; a change that says why where there is none."""
    name = "median" if quantile == 0.5 else "p90"
    records = tuple(side.timing(i, target) for side, i in zip((old, new), ids, strict=True))
    first, second = records
    before, after = (None if m is None else m.median_ms if quantile == 0.5 else m.p90_ms for m in records)
    absent = Change(name, "ms", before, after, None, None, "not comparable", "")
    obstacle = _otherwise(old, new, records, absent)
    if obstacle is not None or first is None or second is None:
        return obstacle or absent
    for record, side, which in ((first, old, "old"), (second, new, "new")):
        if not (side.folder / record.raw_path).is_file():
            return replace(absent, basis=f"the {which} folder holds no raw timings")
    if first.raw_sha256 == second.raw_sha256:
        return replace(absent, change=1.0, word="same", basis="the same timings: nothing was timed anew")
    timed = read_measurement(first, old.folder), read_measurement(second, new.folder)
    ratio, interval = ratio_of(*timed, quantile)
    return _Ratio(timed, interval, replace(absent, change=ratio, interval=interval))


def _otherwise(
    old: Side, new: Side, records: Sequence[MeasurementRecord | None], absent: Change
) -> Change | None:
    """In what two measurements were not taken alike, as a change that says so; None where they were."""
    first, second = records
    if first is None or second is None:
        missing = [which for which, m in (("old", first), ("new", second)) if m is None]
        return replace(absent, basis=f"not timed in the {' and '.join(missing)} report")
    pairs = {
        "kind": (first.kind, second.kind),
        "device": (first.device, second.device),
        "runtime": (_runtime(first), _runtime(second)),
        "threads": (first.num_threads, second.num_threads),
        "warm-up runs": (first.warmup_runs, second.warmup_runs),
        "gpu": (first.gpu, second.gpu),
    }
    if first.conditions and second.conditions:  # older reports tell none
        pairs["cores"] = (_cores(first), _cores(second))
    differs = {what: both for what, both in pairs.items() if both[0] != both[1]}
    differs |= host_differences(*(machine_of(side.report, first.target) for side in (old, new)))
    if not differs:
        return None
    return replace(absent, basis=then_and_now(differs), brief=f"other {', '.join(differs)}")


def then_and_now(pairs: Mapping[str, tuple[object, object]]) -> str:
    """`threads: 1 then, 4 now; cpu: ...`."""
    return "; ".join(f"{what}: {_said(then)} then, {_said(now)} now" for what, (then, now) in pairs.items())


def _said(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    return "not known" if value is None else str(value)


def _cores(record: MeasurementRecord) -> list[int]:
    return sorted({core for conditions in record.conditions for core in conditions.cores})


def _runtime(record: MeasurementRecord) -> str:
    return f"{record.runtime} {record.runtime_version}, {record.delegate}"


def ratio_of(old: Measurement, new: Measurement, quantile: float) -> tuple[float, Ends]:
    """A quantile of latency, new over old, with its 90% interval, which is the gate's.

    Of simulated pairs of the same file, three processes a side, 5 to 9% had an interval that left out 1; held
    against that of a file that did not change: 1%.

    Raises:
        DataError: latencies are missing, not finite or not positive.
    """
    interval = ratio_interval(new, old, quantile)
    before, after = (float(np.quantile(m.latency_ms, quantile)) for m in (old, new))
    return after / before, interval


def _beyond(found: _Ratio, control: _Ratio | None) -> tuple[Word, str]:
    """What an interval of a ratio shows, and by what."""
    for measurement, which in zip(found.timed, ("old", "new"), strict=True):
        medians = measurement.process_medians_ms
        if len(medians) < MIN_PROCESSES:
            count = f"{len(medians)} of the {MIN_PROCESSES} processes that show how processes differ"
            return "unjudged", f"{which}: only {count}"
        variation = (max(medians) - min(medians)) / float(np.median(medians))
        if variation > MAX_PROCESS_VARIATION:
            return "noise", f"{which}: unstable, its processes differ by {variation:.0%}"
    low, high, basis = 1.0, 1.0, "the wider of a bootstrap over processes and runs and Welch's t-interval"
    if control is None:
        basis += "; no file that is the same in both tells how the computer itself changed"
    else:
        # The computer itself may have become faster or slower: only what goes beyond that counts.
        low, high = min(1.0, control.interval[0]), max(1.0, control.interval[1])
        ends = f"[{control.interval[0]:.3f}, {control.interval[1]:.3f}]"
        basis += (
            f"; a float file that is the same in both took {control.change.change:.3f} times {ends} as long"
        )
    return ("better" if found.interval[1] < low else "worse" if found.interval[0] > high else "noise"), basis
