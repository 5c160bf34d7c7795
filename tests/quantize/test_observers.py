import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgekd.quantize.observers import BINS, SHRINKS, choose_range

OBSERVERS = ["min_max", "percentile", "mse", "entropy"]


def observe(values, observer, percentile=99.99):
    values = np.asarray(values, np.float64)
    counts, _ = np.histogram(values, BINS, (values.min(), values.max()))
    return choose_range(counts, float(values.min()), float(values.max()), observer, percentile)


def normal(n=20_000, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, n)


@given(st.integers(0, 10_000), st.sampled_from([-3.0, 0.0, 3.0]))
def test_min_max_keeps_all(seed, shift):
    values = normal(100, seed, shift)
    assert observe(values, "min_max") == (min(values.min(), 0.0), max(values.max(), 0.0))


@pytest.mark.parametrize("percentile", [99.0, 99.9, 95.0])
def test_percentile_is_that_of_numpy(percentile):
    # Of both tails the same share: 99 keeps what lies between the 1st and the 99th percentile.
    values = np.concatenate([normal(), [50.0, -30.0]])
    low, high = observe(values, "percentile", percentile)
    bin_width = 80 / BINS
    assert low == pytest.approx(np.percentile(values, 100 - percentile), abs=bin_width)
    assert high == pytest.approx(np.percentile(values, percentile), abs=bin_width)


def test_percentile_by_hand():
    # 100 values of which each falls into a bin of its own: 0, 1, ... 99.
    counts = np.ones(100, np.int64)
    low, high = choose_range(counts, -50.0, 50.0, "percentile", 90.0)
    assert (low, high) == (pytest.approx(-40.0), pytest.approx(40.0))
    assert choose_range(counts, -50.0, 50.0, "percentile", 100.0) == (-50.0, 50.0)


def rounding_error(values, low, high):
    """Squared error of the values themselves on a grid of 256 levels from low to high."""
    step = (high - low) / 255
    level = np.clip(np.round((values - low) / step), 0, 255)
    return float(((values - (level * step + low)) ** 2).sum())


@pytest.mark.parametrize(
    "spread", [1, 2, 3, 4], ids=["normal", "heavy tails", "an outlier", "nowhere near zero"]
)
def test_mse_is_as_good_as_a_direct_search(spread):
    rng = np.random.default_rng(spread)
    values = {
        1: normal(),
        2: rng.standard_t(2.5, 20_000),
        3: np.concatenate([rng.normal(0, 0.3, 20_000), [9.0, -7.0]]),
        4: 3 + rng.exponential(0.2, 20_000),
    }[spread]
    low, high = observe(values, "mse")
    ends = min(values.min(), 0), values.max()
    costs = [rounding_error(values, ends[0] * s, ends[1] * s) for s in np.linspace(0.2, 1, 200)]
    assert rounding_error(values, low, high) <= 1.02 * min(costs)
    # Both ends are shrunk alike.
    assert low == pytest.approx(ends[0] * high / ends[1])


def test_mse_keeps_the_range_where_nothing_is_gained():
    # Two thirds of all values at the ends: cutting them costs more than rounding.
    values = np.concatenate([np.full(1000, -1.0), np.full(1000, 1.0), np.linspace(-1, 1, 1000)])
    assert observe(values, "mse") == (-1.0, 1.0)


def divergence(counts, low, high, shrink):
    """KL of the clipped histogram and its 256-level form, written with dictionaries."""
    width = (high - low) / len(counts)
    bins = {}
    for i, count in enumerate(counts):
        bins[i] = (low + (i + 0.5) * width, float(count))
    inside = [i for i, (c, _) in bins.items() if low * shrink <= c <= high * shrink]
    p = {i: bins[i][1] for i in inside}
    p[inside[0]] += sum(bins[i][1] for i in bins if i < inside[0])
    p[inside[-1]] += sum(bins[i][1] for i in bins if i > inside[-1])
    levels = {}
    for i in inside:
        if bins[i][1] > 0:
            at = round((bins[i][0] - low * shrink) / ((high - low) * shrink) * 255)
            levels.setdefault(at, []).append(i)
    q = {}
    for members in levels.values():
        for i in members:
            q[i] = sum(bins[m][1] for m in members) / len(members)
    total_p, total_q = sum(p.values()), sum(q.values())
    return sum(
        v / total_p * np.log(v / total_p / max(q.get(i, 0.0) / total_q, 1e-12)) for i, v in p.items() if v > 0
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_entropy_is_the_least_divergence(seed):
    values = np.random.default_rng(seed).standard_t(3, 5000)
    low, high = values.min(), values.max()
    counts, _ = np.histogram(values, BINS, (low, high))
    shrinks = SHRINKS[::8]
    costs = [divergence(counts, low, high, s) for s in shrinks]
    chosen = observe(values, "entropy")
    best = divergence(counts, low, high, chosen[1] / high)
    assert best <= min(costs) + 1e-9
    assert chosen[0] / low == pytest.approx(chosen[1] / high)


@given(
    st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=2, max_size=60),
    st.sampled_from(OBSERVERS),
    st.sampled_from([90.0, 99.0]),
)
def test_zero_is_inside_and_nothing_is_beyond_what_was_seen(values, observer, percentile):
    assume(max(values) - min(values) > 1e-3)
    low, high = observe(values, observer, percentile)
    assert low <= 0 <= high
    assert low >= min(*values, 0) - 1e-9
    assert high <= max(*values, 0) + 1e-9
    assert high > low


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize(("value", "expected"), [(2.0, (0.0, 2.0)), (-2.0, (-2.0, 0.0)), (0.0, (0.0, 0.0))])
def test_one_value_only(observer, value, expected):
    assert choose_range(np.array([5]), value, value, observer, 99.0) == expected


@pytest.mark.parametrize("observer", OBSERVERS)
def test_values_after_a_relu_start_at_zero(observer):
    low, high = observe(np.maximum(normal(), 0), observer)
    assert low == 0.0
    assert 2.9 < high <= normal().max()


def test_entropy_does_not_mind_the_zeros_of_a_relu():
    one_sided = np.abs(normal())
    with_zeros = np.concatenate([one_sided, np.zeros(40_000)])
    assert observe(with_zeros, "entropy") == observe(one_sided, "entropy")


@pytest.mark.parametrize("observer", ["percentile", "mse", "entropy"])
def test_a_single_outlier_is_cut(observer):
    # Up to 100 in steps of 0.4, 200,000 values would lose 200,000 * 0.4^2 / 12 = 2,600;
    # cutting 100 to 60 loses 1,600.
    values = np.concatenate([normal(200_000), [100.0]])
    assert observe(values, observer, 99.9)[1] < 85
