"""Area under the ROC curve of two models on the same samples.

AUC ranks every positive against every negative, so it is no function of sums. It is resampled within
class, its acceleration comes from placement values, and above 100,000 samples DeLong's interval is as
good and needs no replicates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from edgekd.errors import DataError
from edgekd.gate.bootstrap import Bootstrap, Floats

REPLICATES = 10_000
DELONG_FROM = 100_000
# Below this many positives or negatives every method passes models at the margin too often.
MIN_OF_A_CLASS = 200


@dataclass(frozen=True)
class Normal:
    """An estimate whose error is normal: what large samples need no replicates for."""

    estimate: float
    standard_error: float

    def bound(self, level: float) -> float:
        """The estimate is below it with probability `level`."""
        return self.estimate + float(ndtri(level)) * self.standard_error


def placements(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """Share of the other class that each sample stands right of: (P,) and (N,); their means are the AUC.

    Equal scores count half. Paper: DeLong, DeLong & Clarke-Pearson, Biometrics 44, 1988.
    """
    return _share_below(positive, negative), 1 - _share_below(negative, positive)


def auc(positive: Floats, negative: Floats) -> float:
    """The chance that a positive scores above a negative, equals counting half."""
    return float(placements(positive, negative)[0].mean())


def delong(positive: Floats, negative: Floats) -> Normal:
    """Difference of AUCs, the first column's less the second's, with DeLong's standard error.

    Args:
        positive: (P, 2), scores of positive samples by both models.
        negative: (N, 2).
    """
    ups, downs = _differences(positive, negative)
    variance = np.var(ups, ddof=1) / len(ups) + np.var(downs, ddof=1) / len(downs)
    return Normal(float(ups.mean()), float(np.sqrt(variance)))


def bootstrap(
    positive: Floats, negative: Floats, rng: np.random.Generator, replicates: int = REPLICATES
) -> Bootstrap:
    """Replicates of the difference of AUCs, positives and negatives resampled each by themselves.

    Arguments as of `delong`.
    """
    if min(len(positive), len(negative)) < 2:
        raise DataError("AUC: at least two positive and two negative samples are needed")
    ranked = [_Ranked(positive[:, i], negative[:, i]) for i in range(2)]
    found = np.empty(replicates)
    for i in range(replicates):
        ups = np.bincount(rng.integers(0, len(positive), len(positive)), minlength=len(positive))
        downs = np.bincount(rng.integers(0, len(negative), len(negative)), minlength=len(negative))
        first, second = (r.weighted(ups, downs) for r in ranked)
        found[i] = first - second
    up, down = _differences(positive, negative)
    return Bootstrap(float(up.mean()), found, _acceleration(up - up.mean(), down - down.mean()))


def _acceleration(up: Floats, down: Floats) -> float:
    """Of two samples: skewness of what each sample moves the estimate by.

    Paper: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 14, with two samples.
    """
    sizes = (len(up), len(down))
    spread = sum(float(np.sum(u**2)) / n**2 for u, n in zip((up, down), sizes, strict=True))
    skew = sum(float(np.sum(u**3)) / n**3 for u, n in zip((up, down), sizes, strict=True))
    return skew / (6 * spread**1.5) if spread > 0 else 0.0


def _differences(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    (up, down), (other_up, other_down) = (placements(positive[:, i], negative[:, i]) for i in range(2))
    return up - other_up, down - other_down


def _share_below(scores: Floats, others: Floats) -> Floats:
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return np.asarray(below / (2 * len(others)), np.float64)


class _Ranked:
    """The order of all scores, found once: a replicate then only counts."""

    def __init__(self, positive: Floats, negative: Floats) -> None:
        levels, place = np.unique(np.concatenate([positive, negative]), return_inverse=True)
        self._levels = len(levels)
        self._positive, self._negative = place[: len(positive)], place[len(positive) :]

    def weighted(self, ups: NDArray[np.int64], downs: NDArray[np.int64]) -> float:
        """AUC where each sample stands as often as its weight says."""
        up = np.bincount(self._positive, ups, self._levels)
        down = np.bincount(self._negative, downs, self._levels)
        below = np.cumsum(down) - down / 2
        return float(up @ below / (ups.sum() * downs.sum()))
