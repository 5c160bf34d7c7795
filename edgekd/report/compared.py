"""What `edgekd compare` found: two reports side by side, figure by figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekd.types import Status

ALPHA = 0.05  # one-sided: intervals are of 90%, as the gate's
Word = Literal["better", "worse", "same", "noise", "unjudged", "not comparable"]
Ends = tuple[float, float]


@dataclass(frozen=True)
class Change:
    """One figure of one target, old and new.

    Attributes:
        figure: accuracy (or another metric), size, median, p90, memory.
        unit: of `old` and `new`.
        old, new: None where it was not taken.
        change: new less old for a metric, else new over old; None where they cannot be compared.
        interval: of `change`, 90%; None where there is none.
        old_interval, new_interval: of each alone, where they were compared by these.
        brief: why not, in a few words; `basis` where there are none.
        word: better or worse beyond noise; same; noise; unjudged: a figure without an interval.
        basis: by what they were compared, or why not.
    """

    figure: str
    unit: str
    old: float | None
    new: float | None
    change: float | None
    interval: Ends | None
    word: Word
    basis: str
    old_interval: Ends | None = None
    new_interval: Ends | None = None
    brief: str = ""


@dataclass(frozen=True)
class TargetChange:
    """What became of a target: its verdict and its figures."""

    target: str
    required: bool
    old_verdict: Status
    new_verdict: Status
    verdict: Word
    figures: tuple[Change, ...]


@dataclass(frozen=True)
class Comparison:
    """Two reports.

    Attributes:
        old, new: recipe of each.
        old_status, new_status: the overall verdicts.
        metric: the figure that the waterfall is drawn for.
        cautions: what differs between the two besides the files.
        cautioned: what each of them is about.
        targets: those in both.
        only_old, only_new: those in one.
    """

    old: str
    new: str
    old_status: str
    new_status: str
    metric: str
    cautions: tuple[str, ...]
    cautioned: tuple[str, ...]
    targets: tuple[TargetChange, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
