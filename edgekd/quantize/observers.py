"""How a range is chosen from the activations that calibration shows.

A range is searched on a histogram: the full range shrunk in steps, the cost of each
step by the observer's own measure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 2048
LEVELS = 256
SHRINKS = np.linspace(0.2, 1.0, 81)


def choose_range(
    counts: NDArray[np.int64], low: float, high: float, observer: str, percentile: float
) -> tuple[float, float]:
    """(low, high) for 8 bits, always with zero inside, from a histogram over [low, high].

    Observers: `min_max` keeps all; `percentile` cuts the same share of values from both
    tails; `mse` takes the shrink with the least mean squared error; `entropy` that with
    the least KL divergence between the histogram and its quantized form (the TensorRT
    calibration of Migacz, GTC 2017).
    """
    if observer == "min_max" or high <= low:
        chosen = (low, high)
    elif observer == "percentile":
        chosen = _percentile(counts, low, high, percentile)
    else:
        cost = {"mse": _squared_error, "entropy": _divergence}[observer]
        if observer == "entropy":
            counts = _without_spike(counts, low, high)
        centres = low + (np.arange(len(counts)) + 0.5) * (high - low) / len(counts)
        # Zero lies in the range that comes out, so also in those that are tried.
        low, high = min(low, 0.0), max(high, 0.0)
        costs = [cost(counts, centres, low * s, high * s) for s in SHRINKS]
        best = SHRINKS[int(np.argmin(costs))]
        chosen = (low * best, high * best)
    return min(chosen[0], 0.0), max(chosen[1], 0.0)


def _percentile(counts: NDArray[np.int64], low: float, high: float, percentile: float) -> tuple[float, float]:
    edges = np.linspace(low, high, len(counts) + 1)
    share = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    tail = 1 - percentile / 100
    return float(np.interp(tail, share, edges)), float(np.interp(1 - tail, share, edges))


def _without_spike(counts: NDArray[np.int64], low: float, high: float) -> NDArray[np.int64]:
    """The histogram with no more zeros than its neighbours have values.

    Zero is on every grid, so the zeros that a ReLU makes cost nothing, but averaged with the bins
    around them they would count as most of the divergence and pull the range in.
    """
    if low > 0 or high < 0:
        return counts
    zero = min(int(-low / (high - low) * len(counts)), len(counts) - 1)
    capped = counts.copy()
    beside = [counts[i] for i in (zero - 1, zero + 1) if 0 <= i < len(counts)]
    capped[zero] = min(counts[zero], max(beside))
    return capped


def _quantized(centres: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    step = (high - low) / (LEVELS - 1)
    return np.round((np.clip(centres, low, high) - low) / step) * step + low


def _squared_error(counts: NDArray[np.int64], centres: NDArray[np.float64], low: float, high: float) -> float:
    return float((counts * (centres - _quantized(centres, low, high)) ** 2).sum())


def _divergence(counts: NDArray[np.int64], centres: NDArray[np.float64], low: float, high: float) -> float:
    """KL(p ‖ q): p the clipped histogram, q what is left of it when each level's bins are averaged."""
    p = counts.astype(float)
    inside = (centres >= low) & (centres <= high)
    if not p[inside].any():  # all that was seen lies outside
        return float("inf")
    clipped = np.where(inside, p, 0.0)
    edges = np.flatnonzero(inside)
    clipped[edges[0]] += p[: edges[0]].sum()
    clipped[edges[-1]] += p[edges[-1] + 1 :].sum()
    level = np.round((np.clip(centres, low, high) - low) / (high - low) * (LEVELS - 1)).astype(int)
    filled = inside & (p > 0)
    mass = np.bincount(level[filled], p[filled], LEVELS)
    bins = np.bincount(level[filled], minlength=LEVELS)
    q = np.where(filled, (mass / np.maximum(bins, 1))[level], 0.0)
    p, q = clipped / clipped.sum(), q / q.sum()
    used = p > 0
    return float((p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))).sum())
