"""What two models on the same samples show about a margin: by counts of flips, or by a bootstrap.

Both give the same four things: the drop, its interval, a verdict, and how many samples would decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from edgekd.gate import statistics
from edgekd.types import Status


class Estimate(Protocol):
    """A statistic with bounds: `bootstrap.Bootstrap`, `auc.Normal`."""

    @property
    def estimate(self) -> float:
        """Its value."""

    @property
    def standard_error(self) -> float:
        """How far it is off, typically."""

    def bound(self, level: float) -> float:
        """It is below this with probability `level`."""


@dataclass(frozen=True)
class Evidence:
    """How far a metric fell, and what that shows.

    Attributes:
        drop: positive is a loss; a fraction of samples, or in the metric's own unit.
        interval: two-sided at level 1 - 2 alpha; the verdict goes by its ends.
        margin: the largest drop allowed.
        units: samples, or queries or clusters of samples.
        status: PASS, FAIL or INCONCLUSIVE.
        shown_inferior: whether its lower bound reaches the margin.
        p_inferior: p value of the drop being below the margin: small where it is not.
        needed_lossless: units by which one that lost nothing passes with 90% power.
        counts: b, c and n, where these alone decide.
    """

    drop: float
    interval: tuple[float, float]
    margin: float
    units: int
    status: Status
    shown_inferior: bool
    p_inferior: float
    needed_lossless: float
    counts: tuple[int, int, int] | None = None

    def needed_at(self, drop: float) -> float:
        """Units by which a candidate with this true drop passes with 90% power; infinite at the margin."""
        return self.needed_lossless / (1 - drop / self.margin) ** 2 if drop < self.margin else math.inf


def by_counts(
    b: int, c: int, n: int, margin: float, alpha: float, alpha_fail: float | None = None
) -> Evidence:
    """By Tango's score test of the paired drop (b - c) / n.

    Args:
        b: teacher right, candidate wrong.
        c: the reverse.
        n: samples.
        margin: a fraction.
        alpha: one-sided level of a PASS.
        alpha_fail: of a FAIL, which then needs its lower bound at the margin (slices); left out: `alpha`, and
            a drop at the margin on enough samples fails too.

    Raises:
        DataError: the counts are not those of a paired table.
        UsageError: margin or alpha out of range.
    """
    (found,) = by_counts_each([b], [c], [n], margin, alpha, alpha_fail)
    return found


def by_counts_each(
    b: ArrayLike, c: ArrayLike, n: ArrayLike, margin: float, alpha: float, alpha_fail: float | None = None
) -> list[Evidence]:
    """As `by_counts` for many tables (K,) at once."""
    z = statistics.score_z(b, c, n, margin)
    shown = z >= statistics.normal_quantile(1 - (alpha if alpha_fail is None else alpha_fail))
    passed = statistics.non_inferior(b, c, n, margin, alpha)
    failed = shown if alpha_fail is not None else statistics.inferior(b, c, n, margin, alpha)
    low, high = statistics.tango_bounds(b, c, n, 1 - 2 * alpha)
    lost, won, total = (np.asarray(x, np.int64) for x in (b, c, n))
    needed = statistics.samples_needed((lost + won) / total, margin, alpha)
    status = np.where(passed, Status.PASS, np.where(failed, Status.FAIL, Status.INCONCLUSIVE))
    return [
        Evidence(
            drop=float((lost[i] - won[i]) / total[i]),
            interval=(float(low[i]), float(high[i])),
            margin=margin,
            units=int(total[i]),
            status=Status(status[i]),
            shown_inferior=bool(shown[i]),
            p_inferior=float(ndtr(-z[i])),
            needed_lossless=float(needed[i]),
            counts=(int(lost[i]), int(won[i]), int(total[i])),
        )
        for i in range(len(total))
    ]


def by_estimate(
    found: Estimate, units: int, margin: float, alpha: float, alpha_fail: float | None = None
) -> Evidence:
    """By the bounds of an estimated drop; arguments as of `by_counts`.

    Units are those of the estimate: its error shrinks with their root.
    """
    low, high = found.bound(alpha), found.bound(1 - alpha)
    z = statistics.normal_quantile(1 - alpha) + statistics.normal_quantile(0.9)
    needed = units * (z * found.standard_error / margin) ** 2
    shown = found.bound(alpha if alpha_fail is None else alpha_fail) >= margin
    status = Status.INCONCLUSIVE
    if high < margin:
        status = Status.PASS
    elif shown or (alpha_fail is None and found.estimate >= margin and units >= needed):
        status = Status.FAIL
    # The normal approximation: a p value by bounds would need a bound for each of many levels.
    error = found.standard_error
    apart = (
        (found.estimate - margin) / error if error > 0 else math.copysign(math.inf, found.estimate - margin)
    )
    return Evidence(found.estimate, (low, high), margin, units, status, shown, float(ndtr(-apart)), needed)
