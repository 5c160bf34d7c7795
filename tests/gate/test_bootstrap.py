"""Bootstrap bounds against scipy's, which resamples samples one by one."""

import numpy as np
import pytest
from scipy import stats

from edgekd.errors import DataError, UsageError
from edgekd.gate import auc as roc
from edgekd.gate.bootstrap import Bootstrap, jackknife_acceleration, paired

SIZE = 60


def values(seed=0, size=SIZE):
    """Skewed, so that BCa is far from the percentiles."""
    rng = np.random.default_rng(seed)
    first = rng.exponential(1.0, size)
    return first, first * rng.uniform(0.5, 1.2, size)


def ratio_of_sums(sums):
    return sums[..., 0] / sums[..., 1]


def test_bca_bounds_are_those_of_scipy():
    x, y = values()
    found = paired(
        np.c_[x, y], np.ones(SIZE, np.int64), ratio_of_sums, np.random.default_rng(1), replicates=40_000
    )
    expected = stats.bootstrap(
        (x, y),
        lambda x, y, axis: x.sum(axis) / y.sum(axis),
        paired=True,
        n_resamples=40_000,
        confidence_level=0.9,
        method="BCa",
        rng=np.random.default_rng(2),
    )
    low, high = expected.confidence_interval
    width = high - low
    assert found.bound(0.05) == pytest.approx(low, abs=0.03 * width)
    assert found.bound(0.95) == pytest.approx(high, abs=0.03 * width)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=0.03)
    # The plain percentiles are not within that: the correction is there.
    plain = np.quantile(found.replicates, (0.05, 0.95))
    assert abs(plain[0] - low) > 0.03 * width or abs(plain[1] - high) > 0.03 * width


def test_bounds_from_the_same_replicates_are_those_of_scipy_to_the_last_digit():
    x, _ = values()
    expected = stats.bootstrap(
        (x,), np.mean, n_resamples=999, confidence_level=0.9, method="BCa", rng=np.random.default_rng(0)
    )
    without = np.array([np.delete(x, i).mean() for i in range(SIZE)])
    mine = Bootstrap(
        float(x.mean()), expected.bootstrap_distribution, jackknife_acceleration(without, np.ones(SIZE, int))
    )
    assert (mine.bound(0.05), mine.bound(0.95)) == pytest.approx(
        tuple(expected.confidence_interval), rel=1e-12
    )


def test_rows_that_are_equal_may_be_counted():
    x, y = np.array([[1.0, 2.0], [3.0, 1.0], [0.5, 0.5]]), np.array([20, 7, 13])
    apart = np.repeat(x, y, axis=0)
    bounds = [
        [paired(rows, counts, ratio_of_sums, np.random.default_rng(s), 40_000).bound(p) for p in (0.05, 0.95)]
        for s, (rows, counts) in enumerate(((x, y), (apart, np.ones(40, np.int64))))
    ]
    assert bounds[0] == pytest.approx(bounds[1], rel=0.01)


def test_many_rows_are_drawn_as_often_as_there_are_units(monkeypatch):
    monkeypatch.setattr("edgekd.gate.bootstrap._BLOCK", 5000)  # several blocks
    rng = np.random.default_rng(0)
    rows = np.c_[rng.normal(size=1500), np.ones(1500)]
    found = paired(rows, np.ones(1500, np.int64), lambda s: s[..., 1], rng, 20)
    assert (found.replicates == 1500).all() and found.estimate == 1500
    assert found.bound(0.95) == 1500, "without variance the bound is the estimate"
    spread = paired(rows, np.ones(1500, np.int64), ratio_of_sums, np.random.default_rng(0), 400)
    assert spread.standard_error == pytest.approx(rows[:, 0].std() / np.sqrt(1500), rel=0.1)


def test_bounds_beyond_all_replicates_are_the_outermost():
    found = Bootstrap(10.0, np.arange(5.0), 0.0)
    assert found.bound(0.95) == pytest.approx(4.0, abs=1e-3)


def test_a_bound_further_out_never_comes_back():
    replicates = np.r_[np.full(1995, 0.5), np.linspace(0.9, 1.0, 5), -1.0]
    bounds = [Bootstrap(0.9, replicates, 1 / 6).bound(level) for level in (0.9, 0.99, 0.999, 0.99999)]
    assert bounds == sorted(bounds)
    bounds = [Bootstrap(-0.5, -replicates, -1 / 6).bound(level) for level in (0.1, 0.01, 0.001, 0.00001)]
    assert bounds == sorted(bounds, reverse=True)


@pytest.mark.parametrize("rows", [np.zeros((0, 1)), np.array([[1.0], [np.nan]])])
def test_what_is_missing_is_refused(rows):
    with pytest.raises(DataError):
        paired(rows, np.ones(len(rows), np.int64), lambda s: s[..., 0], np.random.default_rng(0))


def test_a_metric_without_a_value_on_resampled_sets_is_refused():
    with pytest.raises(DataError, match="no value"), np.errstate(invalid="ignore", divide="ignore"):
        paired(np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([1, 1]), ratio_of_sums, np.random.default_rng(0))


@pytest.mark.parametrize("level", [0, 1, float("nan")])
def test_levels(level):
    with pytest.raises(UsageError, match="between 0 and 1"):
        Bootstrap(0.0, np.arange(9.0), 0.0).bound(level)


def scores(seed=0, positives=40, negatives=70):
    """Of two models that mostly agree, some scores equal."""
    rng = np.random.default_rng(seed)
    up, down = rng.normal(1.0, 1, (positives, 1)), rng.normal(0, 1, (negatives, 1))
    noise = [0.4 * rng.normal(size=(len(x), 2)) for x in (up, down)]
    return (up + noise[0]).round(1), (down + noise[1]).round(1)


def test_auc_counts_pairs():
    up, down = (x[:, 0] for x in scores())
    pairs = [1.0 if u > d else 0.5 if u == d else 0.0 for u in up for d in down]
    assert roc.auc(up, down) == pytest.approx(np.mean(pairs), rel=1e-12)


def test_delong_is_the_published_example():
    """The variance by its definition: covariances of structural components, pair by pair."""
    up, down = scores()
    kernel = (up[:, None, :] > down[None]) + 0.5 * (up[:, None, :] == down[None])  # P, N, 2
    v10, v01 = kernel.mean(axis=1), kernel.mean(axis=0)
    matrix = np.cov(v10.T) / len(up) + np.cov(v01.T) / len(down)
    contrast = np.array([1, -1])
    found = roc.delong(up, down)
    assert found.estimate == pytest.approx(kernel.mean((0, 1)) @ contrast, rel=1e-12)
    assert found.standard_error == pytest.approx(np.sqrt(contrast @ matrix @ contrast), rel=1e-12)
    assert found.bound(0.95) == pytest.approx(found.estimate + 1.6448536 * found.standard_error, rel=1e-6)


def test_auc_bounds_are_those_of_scipy():
    up, down = scores()

    def difference(i, j):
        return roc.auc(up[i, 0], down[j, 0]) - roc.auc(up[i, 1], down[j, 1])

    expected = stats.bootstrap(
        (np.arange(len(up)), np.arange(len(down))),
        difference,
        n_resamples=4000,
        confidence_level=0.9,
        method="BCa",
        vectorized=False,
        rng=np.random.default_rng(0),
    )
    found = roc.bootstrap(up, down, np.random.default_rng(1), replicates=10_000)
    low, high = expected.confidence_interval
    assert found.estimate == pytest.approx(difference(np.arange(len(up)), np.arange(len(down))), rel=1e-12)
    assert (found.bound(0.05), found.bound(0.95)) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_acceleration_of_auc_is_the_jackknifes():
    up, down = scores()
    theta = roc.auc(up[:, 0], down[:, 0]) - roc.auc(up[:, 1], down[:, 1])
    skew = spread = 0.0
    for kind, other in ((0, down), (1, up)):
        own = (up, down)[kind]
        n = len(own)
        for i in range(n):
            left = np.delete(own, i, axis=0)
            p, q = (left, other) if kind == 0 else (other, left)
            influence = (n - 1) * (theta - (roc.auc(p[:, 0], q[:, 0]) - roc.auc(p[:, 1], q[:, 1])))
            skew, spread = skew + influence**3 / n**3, spread + influence**2 / n**2
    assert roc.bootstrap(up, down, np.random.default_rng(0), 50).acceleration == pytest.approx(
        skew / (6 * spread**1.5), rel=1e-9
    )
