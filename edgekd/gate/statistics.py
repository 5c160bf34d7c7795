"""The statistics of the gate: paired non-inferiority, exact bounds, sample sizes, bootstrap.

On the same n samples, b counts those that the teacher has right and the
candidate wrong, c the reverse. The drop is (b - c) / n and the discordance
(b + c) / n. Every rate and margin in this module is a fraction.

Distribution functions come from `scipy.special`, not `scipy.stats`: the same
numbers, and a release pipeline does not wait for a second of imports.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, betaincinv, ndtri

from edgekd.errors import DataError, UsageError

Floats = NDArray[np.float64]
REPLICATES = 2000
# Halving an interval of length 2 this often leaves less than double precision can tell apart.
_HALVINGS = 60


def normal_quantile(probability: float) -> float:
    """The z such that a standard normal variable lies below it with this probability."""
    return float(ndtri(probability))


def score_z(b: ArrayLike, c: ArrayLike, n: ArrayLike, margin: ArrayLike) -> Floats:
    """Tango's score statistic Z(m) of the paired drop against a margin m, element by element.

    Z(m) = (b - c - n m) / sqrt(n (2 q + m (1 - m))), where q is the rate of c
    that is most likely if the true drop is m; it solves 2 q^2 + B q + C = 0 with
    B = (2 - (b - c) / n) m - (b + c) / n and C = -(c / n) m (1 - m). Z falls as m
    grows; a Z far below zero says that the drop is smaller than m.

    Paper: Tango, "Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design", Statistics in Medicine 17, 1998.

    Args:
        b: teacher right, candidate wrong; counts, any shape.
        c: teacher wrong, candidate right.
        n: samples.
        margin: the drop to test against, a fraction in [-1, 1].

    Raises:
        DataError: the counts are not those of a paired table.
    """
    b, c, n = _table(b, c, n)
    m = np.asarray(margin, np.float64)
    if not np.all(np.abs(m) <= 1):
        raise UsageError(f"margin {margin!r} is not a fraction between -1 and 1")
    # Z(b, c, m) = -Z(c, b, -m): the constrained rate needs m >= 0 only.
    lost, won = np.where(m < 0, c, b), np.where(m < 0, b, c)
    size = np.abs(m)
    q = _constrained_rate(lost / n, won / n, size)
    spread = np.sqrt(n * (2 * q + size * (1 - size)))
    gap = np.where(m < 0, -1.0, 1.0) * (lost - won - n * size)
    # No spread is left only at m = 0 without discordant samples and at m = 1: 0 by continuity, or certainty.
    certain = np.where(gap == 0, 0.0, np.copysign(np.inf, gap))
    return np.asarray(np.divide(gap, spread, out=certain, where=spread > 0), np.float64)


@functools.lru_cache(maxsize=1024)  # a report asks for the same table several times
def tango_interval(b: int, c: int, n: int, confidence: float) -> tuple[float, float]:
    """Tango's two-sided score interval of the paired drop (b - c) / n, as fractions.

    Its ends are the margins m with Z(m) = +z and Z(m) = -z (see `score_z`), z the
    normal quantile at (1 + confidence) / 2, found by bisection. It is defined for
    b = 0 and c = 0 too.

    Paper: Tango, Statistics in Medicine 17, 1998.

    Raises:
        DataError: the counts are not those of a paired table.
        UsageError: confidence is not between 0 and 1.
    """
    low, high = tango_bounds(b, c, n, confidence)
    return float(low), float(high)


def tango_bounds(b: ArrayLike, c: ArrayLike, n: ArrayLike, confidence: float) -> tuple[Floats, Floats]:
    """Lower and upper ends of `tango_interval` for counts of any shape, halved together."""
    if not 0 < confidence < 1:
        raise UsageError(f"confidence {confidence!r} is not between 0 and 1")
    lost, won, total = _table(b, c, n)
    z = normal_quantile((1 + confidence) / 2)
    # Z(b, c, m) = -Z(c, b, -m): the lower end is the mirrored upper one.
    return -_tango_upper(won, lost, total, z), _tango_upper(lost, won, total, z)


def non_inferior(b: ArrayLike, c: ArrayLike, n: ArrayLike, margin: float, alpha: float) -> NDArray[np.bool_]:
    """Whether the drop is shown to be below the margin: Z(margin) < -z(1 - alpha).

    This is the same as an upper bound below the margin, the bound being the upper
    end of the `tango_interval` with confidence 1 - 2 alpha. Counts of any shape.

    Raises:
        DataError: the counts are not those of a paired table.
        UsageError: margin or alpha out of range.
    """
    _check_level(margin, alpha)
    return np.asarray(score_z(b, c, n, margin) < -normal_quantile(1 - alpha))


def inferior(b: ArrayLike, c: ArrayLike, n: ArrayLike, margin: float, alpha: float) -> NDArray[np.bool_]:
    """Whether the candidate is to be failed, element by element.

    Either the lower bound reaches the margin (Z(margin) >= z(1 - alpha)), or the
    drop seen does on at least as many samples as a lossless candidate would have
    needed to pass with 90% power: then more samples are no remedy.

    Raises:
        DataError: the counts are not those of a paired table.
        UsageError: margin or alpha out of range.
    """
    _check_level(margin, alpha)
    b, c, n = _table(b, c, n)
    shown = score_z(b, c, n, margin) >= normal_quantile(1 - alpha)
    # A drop equal to the margin counts as reaching it, whatever rounding makes of n * margin.
    reached = b - c >= n * margin - 1e-9
    return np.asarray(shown | (reached & (n >= samples_needed((b + c) / n, margin, alpha))))


def mcnemar_exact_p(b: int, c: int) -> float:
    """Two-sided p of McNemar's exact test that b and c are equally likely.

    p = min(1, 2 P(X <= min(b, c))) with X binomial(b + c, 1/2). To be shown, never
    decided by: "no significant difference" rewards small test sets.

    Paper: McNemar, Psychometrika 12, 1947; exact form as in Fay & Lumbard, 2021.

    Raises:
        DataError: a count is negative or not a whole number.
    """
    _table(b, c, max(b + c, 1))
    return min(1.0, 2 * float(bdtr(min(b, c), int(b + c), 0.5)))


def clopper_pearson_upper(k: int, n: int, alpha: float) -> float:
    """Exact one-sided upper bound of a rate of which k in n were seen, at level 1 - alpha.

    The 1 - alpha quantile of Beta(k + 1, n - k); 1 where k = n.

    Paper: Clopper & Pearson, Biometrika 26, 1934.

    Raises:
        DataError: not 0 <= k <= n, or n < 1.
        UsageError: alpha is not between 0 and 0.5.
    """
    _check_alpha(alpha)
    _table(k, 0, n)
    return 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - alpha))


def clopper_pearson_lower(k: int, n: int, alpha: float) -> float:
    """Exact one-sided lower bound of a rate of which k in n were seen, at level 1 - alpha.

    One less the upper bound of the n - k that were not seen.

    Paper: Clopper & Pearson, Biometrika 26, 1934.

    Raises:
        DataError: not 0 <= k <= n, or n < 1.
        UsageError: alpha is not between 0 and 0.5.
    """
    _check_alpha(alpha)
    _table(k, 0, n)
    return 0.0 if k == 0 else float(betaincinv(k, n - k + 1, alpha))


def samples_needed(discordance: ArrayLike, margin: float, alpha: float, power: float = 0.9) -> Floats:
    """Samples that let a lossless candidate pass with this power (n90 at power 0.9), not rounded.

    n = (z(1 - alpha) sqrt(v0) + z(power) sqrt(psi))^2 / m^2 with psi the discordance
    and v0 = 2 q + m (1 - m) the variance under a drop of m, q as in `score_z` where
    b = c.

    Paper: variance as in Tango, Statistics in Medicine 17, 1998.

    Args:
        discordance: share of samples on which exactly one of the two is right; any shape.
        margin: the largest drop allowed, a fraction.
        alpha: one-sided level of the test.
        power: wanted probability of a pass.

    Raises:
        UsageError: an argument out of range.
    """
    _check_level(margin, alpha)
    psi = np.asarray(discordance, np.float64)
    if not (np.all((psi >= 0) & (psi <= 1)) and 0.5 <= power < 1):
        raise UsageError(f"discordance {discordance!r} or power {power!r} out of range")
    q = _constrained_rate(psi / 2, psi / 2, np.asarray(margin, np.float64))
    null = np.sqrt(2 * q + margin * (1 - margin))
    total = normal_quantile(1 - alpha) * null + normal_quantile(power) * np.sqrt(psi)
    return np.asarray((total / margin) ** 2, np.float64)


def samples_needed_at_drop(
    discordance: float, drop: float, margin: float, alpha: float, power: float = 0.9
) -> float:
    """Samples that let a candidate with this true drop pass: n90 / (1 - drop / margin)^2.

    Infinite where the drop is not below the margin: no test set makes that a pass.

    Raises:
        UsageError: an argument out of range.
    """
    lossless = float(samples_needed(discordance, margin, alpha, power))
    if not math.isfinite(drop):
        raise UsageError(f"drop {drop!r} is not a number")
    return lossless / (1 - drop / margin) ** 2 if drop < margin else math.inf


def bootstrap_quantile(
    values: Floats,
    groups: NDArray[np.int64],
    quantile: float,
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> Floats:
    """Replicates of a quantile, resampling groups and then values from the mixture of those drawn.

    Timed runs of one process share its memory layout and clock, so runs alone
    would make the interval too narrow. With one group it is the plain bootstrap.

    Paper: Efron, Annals of Statistics 7, 1979; two stages as in Davison & Hinkley,
    "Bootstrap Methods and their Application", 1997, section 3.8.

    Args:
        values: (N,), finite.
        groups: (N,), the group of each value.
        quantile: between 0 and 1.
        rng: source of randomness; seed it for a repeatable verdict.
        replicates: how many.

    Returns:
        (replicates,) values of the quantile.

    Raises:
        DataError: no values, or one that is not finite.
    """
    _check_timed(values, groups)
    order = np.argsort(values, kind="stable")
    ordered, total = values[order], len(values)
    _, group, size = np.unique(groups[order], return_inverse=True, return_counts=True)
    drawn = rng.integers(0, len(size), (replicates, len(size)))
    mass = np.zeros((replicates, len(size)))
    np.add.at(mass, (np.arange(replicates)[:, None], drawn), size.astype(float))
    # Of n uniform draws the k-th smallest is Beta(k, n + 1 - k): so a resampled quantile needs one
    # draw and a look-up, not n draws and a sort, and 100,000 runs cost no more than 100.
    rank = quantile * (total - 1) + 1
    places = rng.beta(rank, total + 1 - rank, replicates) * total
    found = np.empty(replicates)
    mixtures, which = np.unique(mass, axis=0, return_inverse=True)
    for i, mixture in enumerate(mixtures):
        cumulative = np.cumsum((mixture / size)[group])
        rows = which.reshape(-1) == i
        found[rows] = ordered[np.minimum(np.searchsorted(cumulative, places[rows]), total - 1)]
    return found


def ratio_of_medians(
    over: tuple[Floats, NDArray[np.int64]], under: tuple[Floats, NDArray[np.int64]]
) -> float:
    """The median over groups of the ratio of the two medians within the group.

    The two sides are taken in turns in the same groups (processes), so that what slowed a group
    slowed both, and cancels in its ratio.

    Args:
        over: values (N,), finite, and the group of each (N,).
        under: the same (M,) of the other side, with the same groups.

    Raises:
        DataError: values are missing or not finite, or the groups are not the same.
    """
    pairs = _by_group(over, under)
    return float(np.median([np.median(x) / np.median(y) for x, y in pairs]))


def bootstrap_ratio_of_medians(
    over: tuple[Floats, NDArray[np.int64]],
    under: tuple[Floats, NDArray[np.int64]],
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> Floats:
    """Replicates (replicates,) of `ratio_of_medians`, resampling groups and then values within each drawn.

    Paper and errors as in `bootstrap_quantile` and `ratio_of_medians`.
    """
    pairs = _by_group(over, under)
    drawn = rng.integers(0, len(pairs), (replicates, len(pairs)))
    ratios = np.empty(drawn.shape)
    for place, (x, y) in enumerate(pairs):
        here = drawn == place
        count = int(here.sum())
        ratios[here] = _resampled_median(x, count, rng) / _resampled_median(y, count, rng)
    return np.asarray(np.median(ratios, axis=1), np.float64)


def _by_group(
    over: tuple[Floats, NDArray[np.int64]], under: tuple[Floats, NDArray[np.int64]]
) -> list[tuple[Floats, Floats]]:
    """The values of both sides, sorted, group by group."""
    for values, groups in (over, under):
        _check_timed(values, groups)
    names = np.unique(over[1])
    if not np.array_equal(names, np.unique(under[1])):
        raise DataError("bootstrap: the two sides were not taken in the same groups")
    return [(np.sort(over[0][over[1] == g]), np.sort(under[0][under[1] == g])) for g in names]


def _resampled_median(ordered: Floats, count: int, rng: np.random.Generator) -> Floats:
    """`count` medians of as many values again, drawn with replacement; `ordered` is sorted."""
    total = len(ordered)
    rank = (total + 1) / 2
    places = rng.beta(rank, total + 1 - rank, count) * total  # as in `bootstrap_quantile`
    return ordered[np.minimum(places.astype(np.int64), total - 1)]


def _check_timed(values: Floats, groups: NDArray[np.int64]) -> None:
    if len(values) == 0 or len(values) != len(groups) or not np.isfinite(values).all():
        raise DataError("bootstrap: values are missing or not finite")


def percentile_interval(replicates: Floats, alpha: float) -> tuple[float, float]:
    """The bootstrap percentile interval, two-sided at level 1 - 2 alpha."""
    _check_alpha(alpha)
    low, high = np.quantile(replicates, (alpha, 1 - alpha))
    return float(low), float(high)


def _constrained_rate(lost: Floats, won: Floats, margin: Floats) -> Floats:
    """Most likely rate of `won` if lost - won is truly `margin` >= 0: root of 2 q^2 + B q + C."""
    linear = (2 - lost + won) * margin - lost - won
    product = won * margin * (1 - margin)
    root = np.sqrt(linear**2 + 8 * product)
    # Of the two forms of the same root, each is used where it does not subtract near-equals.
    stable = np.divide(2 * product, linear + root, out=np.zeros_like(root), where=linear > 0)
    return np.asarray(np.where(linear > 0, stable, (root - linear) / 4), np.float64)


def _tango_upper(lost: Floats, won: Floats, total: Floats, z: float) -> Floats:
    """Largest margin that the score test does not reject."""
    # Z falls as the margin grows: the drop seen is never rejected, and nothing lies above 1.
    inside = (lost - won) / total
    outside = np.ones_like(inside)
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        kept = score_z(lost, won, total, middle) > -z
        inside, outside = np.where(kept, middle, inside), np.where(kept, outside, middle)
    return np.asarray((inside + outside) / 2, np.float64)


def _table(b: ArrayLike, c: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Counts as float arrays, if they can be those of a paired table."""
    counts = np.asarray(b, np.float64), np.asarray(c, np.float64), np.asarray(n, np.float64)
    lost, won, total = counts
    whole = all(bool(np.all((x >= 0) & (np.floor(x) == x) & np.isfinite(x))) for x in counts)
    if not whole or not np.all((total >= 1) & (lost + won <= total)):
        raise DataError(
            f"b = {b!r}, c = {c!r}, n = {n!r} are not the counts of a paired comparison",
            hint="whole numbers with b + c <= n and n >= 1",
        )
    return counts


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 0.5:
        raise UsageError(f"alpha {alpha!r} is not between 0 and 0.5")


def _check_level(margin: float, alpha: float) -> None:
    if not 0 < margin < 1:
        raise UsageError(f"margin {margin!r} is not a fraction between 0 and 1")
    _check_alpha(alpha)
