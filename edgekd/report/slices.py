"""Slices: what the policy asked of parts of the test split, and which of the others raise an alarm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.metric_names import metric_named
from edgekd.report import words
from edgekd.report.schema import Report, SliceRecord
from edgekd.report.sharing import shared

MOST_ROWS = 30
_FEW = 20  # so many are shown together, whatever their verdicts
_ORDER = {"FAIL": 0, "INCONCLUSIVE": 1, "PASS": 2, "NOT_APPLICABLE": 3}


@dataclass(frozen=True)
class SliceRow:
    """One slice of one file, or of several that answer alike; every number as text."""

    name: str
    target: str
    n: str
    drop: str
    interval: str
    margin: str
    status: str
    reason: str


@dataclass(frozen=True)
class Slices:
    """Both kinds of slices.

    Attributes:
        unit: of drops and margins.
        mandatory: those that the release depends on, the worst verdict first.
        passing: of many of those, the ones that pass.
        mandatory_said: how many there are with each verdict.
        alarms: of the others, those shown to have lost more than their margin.
        others_said: how many others raised none.
    """

    unit: str
    mandatory: tuple[SliceRow, ...]
    passing: tuple[SliceRow, ...]
    mandatory_said: str
    alarms: tuple[SliceRow, ...]
    others_said: str

    def must_pass(self, most: int) -> tuple[SliceRow, ...]:
        """The worst of those that the release depends on, in one list."""
        return (*self.mandatory, *self.passing)[:most]


def slices(report: Report, most: int = MOST_ROWS) -> Slices | None:
    """The slices of all files; None where the policy asks for none.

    Args:
        report: whose files were judged.
        most: rows of each table.
    """
    groups = shared(report.artifacts, lambda a: a.slices or None)
    found = [(group.name, one) for group in groups for one in group.first.slices]
    metric = words.policy(report).get("metric")
    return ordered(found, metric_named(metric).unit == "percent" if isinstance(metric, str) else True, most)


def ordered(found: Sequence[tuple[str, SliceRecord]], percent: bool, most: int = MOST_ROWS) -> Slices | None:
    """Slices by verdict and drop; None where there are none.

    Args:
        found: what each is of, and the slice.
        percent: whether drops are percentage points.
        most: rows of each table.
    """
    if not found:
        return None
    must = sorted((f for f in found if f[1].mandatory), key=lambda f: (_ORDER[f[1].status], -_drop(f[1])))
    alarms = sorted((f for f in found if f[1].alarm), key=lambda f: -_drop(f[1]))
    quiet = [one for _, one in found if not one.mandatory and not one.alarm]
    few = len(must) <= min(_FEW, most)
    open_ones = [f for f in must if few or f[1].status != "PASS"]
    passing = [f for f in must if not few and f[1].status == "PASS"]
    return Slices(
        unit="pp" if percent else "",
        mandatory=tuple(_row(name, one, percent) for name, one in open_ones[:most]),
        passing=tuple(_row(name, one, percent) for name, one in passing[:most]),
        mandatory_said=_verdicts([one for _, one in must], len(must) > most),
        alarms=tuple(_row(name, one, percent) for name, one in alarms[:most]),
        others_said=_quiet(quiet, len(alarms), most),
    )


def _drop(one: SliceRecord) -> float:
    return -float("inf") if one.drop is None else one.drop


def _row(target: str, one: SliceRecord, percent: bool) -> SliceRow:
    decimals = 2 if percent else 4
    return SliceRow(
        name=f"{one.column} = {one.value}",
        target=target,
        n=f"{one.n:,}",
        drop=words.signed(one.drop, decimals),
        interval=words.interval(one.interval, decimals),
        margin=words.number(one.margin, decimals),
        status="ALARM" if one.alarm else str(one.status.value),
        reason=one.reason,
    )


def _verdicts(found: list[SliceRecord], cut: bool) -> str:
    if not found:
        return ""
    counts = {
        status: sum(one.status == status for one in found) for status in ("PASS", "FAIL", "INCONCLUSIVE")
    }
    said = words.listed(f"{n:,} {status}" for status, n in counts.items() if n)
    listed = "; the worst of each are listed" if cut else ""
    return f"{_slices(len(found))} must pass, each with its own margin: {said}{listed}."


def _quiet(quiet: list[SliceRecord], alarms: int, most: int) -> str:
    """How many slices that need not pass raised no alarm, and how many of them could not be looked at."""
    if not quiet and not alarms:
        return ""
    unknown = sum(one.drop is None or bool(one.reason) for one in quiet)
    said = f"{_slices(len(quiet))} that need not pass raised no alarm"
    said += f", {unknown:,} of them for want of samples" if unknown else ""
    raised = f"{alarms:,} raised one" + (f", the first {most} are listed" if alarms > most else "")
    return f"{said}; {raised}." if alarms else f"{said}."


def _slices(n: int) -> str:
    return words.count(n, "slice")
