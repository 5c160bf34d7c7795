"""Paired bootstrap of what is no proportion: replicates of a statistic of sums, and BCa bounds.

A statistic of sums over samples needs no samples to be resampled: only how often each kind of
sample is drawn. Of a classifier there are few kinds, so a million samples cost no more than a thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from edgekd.errors import DataError, UsageError

Floats = NDArray[np.float64]
REPLICATES = 2000
# Up to here it is faster to draw how often each row comes than to draw the rows themselves.
_FEW_ROWS = 1000
# Numbers in one block of replicates: 64 MB.
_BLOCK = 8_000_000


@dataclass(frozen=True)
class Bootstrap:
    """A statistic, its replicates (R,) and the acceleration of its BCa bounds."""

    estimate: float
    replicates: Floats
    acceleration: float

    @property
    def standard_error(self) -> float:
        """Standard deviation of the replicates."""
        return float(np.std(self.replicates, ddof=1))

    def bound(self, level: float) -> float:
        """The BCa bound: the statistic is below it with probability `level`, which may be below a half.

        Where all replicates are the same it is the estimate.

        Paper: Efron, "Better bootstrap confidence intervals", JASA 82, 1987.

        Raises:
            UsageError: level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise UsageError(f"level {level!r} is not between 0 and 1")
        if np.ptp(self.replicates) == 0:
            return self.estimate
        # A replicate that equals the estimate counts half: of counts there are many.
        below = np.mean(self.replicates < self.estimate) + np.mean(self.replicates == self.estimate) / 2
        # All on one side of the estimate: as far out as this many replicates can tell.
        edge = 0.5 / len(self.replicates)
        shift = ndtri(np.clip(below, edge, 1 - edge))
        moved = shift + ndtri(level)
        left = 1 - self.acceleration * moved
        # Where the correction has no end, the outermost replicate.
        adjusted = ndtr(shift + moved / left) if left > 0 else float(moved > 0)
        return float(np.quantile(self.replicates, adjusted))


def paired(
    rows: Floats,
    counts: NDArray[np.int64],
    statistic: Callable[[Floats], Floats],
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> Bootstrap:
    """Bootstrap of a statistic of sums, resampling units (samples, or clusters of samples).

    Args:
        rows: (U, D), finite: what a unit adds to each of D sums, of both models side by side.
        counts: (U,), how many units add this same row.
        statistic: sums (..., D) to values (...).
        rng: source of randomness; seed it for a repeatable verdict.
        replicates: how many.

    Raises:
        DataError: no units, or values that are not finite.
    """
    if len(rows) == 0 or len(rows) != len(counts) or not np.isfinite(rows).all():
        raise DataError("bootstrap: values are missing or not finite")
    total = counts @ rows
    found = np.concatenate([statistic(w @ rows) for w in _weights(counts, rng, replicates)])
    # Blocks of the jackknife too: each row is a whole set of sums.
    step = max(1, _BLOCK // rows.shape[1])
    without = np.concatenate([statistic(total - rows[i : i + step]) for i in range(0, len(rows), step)])
    estimate = float(statistic(total))
    if not (np.isfinite(estimate) and np.isfinite(found).all()):
        raise DataError("bootstrap: the metric has no value on some of the resampled sets")
    return Bootstrap(estimate, found, jackknife_acceleration(without, counts))


def jackknife_acceleration(without: Floats, counts: NDArray[np.int64]) -> float:
    """Acceleration from the values (U,) without one unit of each kind; 0 where they do not vary.

    A kind without which there is no value (the only unit) tells nothing, and is left out.
    """
    known = np.isfinite(without)
    values, weights = without[known], counts[known]
    if not weights.sum():
        return 0.0
    apart = np.average(values, weights=weights) - values
    spread = float(np.sum(weights * apart**2))
    return float(np.sum(weights * apart**3)) / (6 * spread**1.5) if spread > 0 else 0.0


def _weights(counts: NDArray[np.int64], rng: np.random.Generator, replicates: int) -> Iterator[Floats]:
    """Blocks (r, U) of how often each row is drawn in as many draws as there are units."""
    step = max(1, _BLOCK // len(counts))
    for start in range(0, replicates, step):
        yield _drawn(counts, rng, min(step, replicates - start))


def _drawn(counts: NDArray[np.int64], rng: np.random.Generator, size: int) -> Floats:
    units, kinds = int(counts.sum()), len(counts)
    if kinds <= _FEW_ROWS:
        return rng.multinomial(units, counts / units, size).astype(np.float64)
    kind = np.repeat(np.arange(kinds), counts)
    drawn = [np.bincount(kind[rng.integers(0, units, units)], minlength=kinds) for _ in range(size)]
    return np.asarray(drawn, np.float64)
