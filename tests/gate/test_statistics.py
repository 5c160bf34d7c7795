"""The statistics against second implementations: scipy, statsmodels, enumeration, numerical likelihood."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from edgekd.errors import DataError, UsageError
from edgekd.gate.statistics import (
    bootstrap_quantile,
    bootstrap_ratio_of_medians,
    clopper_pearson_lower,
    clopper_pearson_upper,
    inferior,
    mcnemar_exact_p,
    non_inferior,
    percentile_interval,
    ratio_of_medians,
    samples_needed,
    samples_needed_at_drop,
    score_z,
    tango_interval,
)

# From the design of the gate: (b, c, n), 90% interval, 95% interval.
GOLDEN = [
    ((9, 3, 32), (0.01019013, 0.35744514), (-0.02709046, 0.38969749)),
    ((0, 1, 44), (-0.09566243, 0.03651694), (-0.11807710, 0.05939323)),
    ((0, 0, 500), (-0.00538196, 0.00538196), (-0.00762434, 0.00762434)),
    ((12, 0, 3212), (0.00233515, 0.00597216), (0.00213847, 0.00651913)),
    ((240, 180, 9300), (0.00283602, 0.01010291), (0.00214215, 0.01081161)),
    ((5, 40, 1000), (-0.04695616, -0.02485973), (-0.04952178, -0.02301860)),
]


@st.composite
def tables(draw, largest=400):
    n = draw(st.integers(1, largest))
    b = draw(st.integers(0, n))
    return b, draw(st.integers(0, n - b)), n


@pytest.mark.parametrize(("table", "ninety", "ninety_five"), GOLDEN)
def test_tango_golden(table, ninety, ninety_five):
    assert tango_interval(*table, 0.90) == pytest.approx(ninety, abs=6e-9)
    assert tango_interval(*table, 0.95) == pytest.approx(ninety_five, abs=6e-9)


def likelihood_z(b, c, n, margin):
    """Z by maximising the multinomial likelihood numerically, knowing nothing of the closed form."""

    def loss(q):
        cells = ((b, q + margin), (c, q), (n - b - c, 1 - 2 * q - margin))
        return -sum(k * math.log(max(p, 1e-300)) for k, p in cells if k)

    lowest, highest = max(0.0, -margin), (1 - margin) / 2
    found = optimize.minimize_scalar(
        loss, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-12}
    )
    q = min((found.x, lowest, highest), key=loss)
    return (b - c - n * margin) / math.sqrt(n * (2 * q + margin - margin**2))


TABLES = [
    (9, 3, 32),
    (0, 1, 44),
    (12, 0, 3212),
    (240, 180, 9300),
    (5, 40, 1000),
    (0, 7, 60),
    (30, 30, 61),
    (20, 0, 20),
]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("margin", [-0.3, -0.02, 0.001, 0.01, 0.05, 0.4])
def test_score_z_is_that_of_the_likelihood(table, margin):
    assert float(score_z(*table, margin)) == pytest.approx(likelihood_z(*table, margin), rel=2e-5, abs=2e-5)


@pytest.mark.parametrize("table", TABLES[:-1])
@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.99])
def test_tango_inverts_the_likelihood_test(table, confidence):
    b, c, n = table
    z, seen = scipy_stats.norm.ppf((1 + confidence) / 2), (b - c) / n
    # A hair beside the estimate, where the statistic is not 0 / 0.
    low = optimize.brentq(lambda m: likelihood_z(*table, m) - z, -1 + 1e-6, seen - 1e-9, xtol=1e-13)
    high = optimize.brentq(lambda m: likelihood_z(*table, m) + z, seen + 1e-9, 1 - 1e-6, xtol=1e-13)
    assert tango_interval(*table, confidence) == pytest.approx((low, high), abs=2e-6)


def test_tango_without_discordance_is_the_quadratic_worked_by_hand():
    # b = c = 0: Z(m) = -sqrt(n m / (1 - m)), so the bound is z^2 / (n + z^2).
    for n, confidence in itertools.product((1, 17, 500, 10**6), (0.9, 0.95)):
        z2 = scipy_stats.norm.ppf((1 + confidence) / 2) ** 2
        assert tango_interval(0, 0, n, confidence) == pytest.approx(
            (-z2 / (n + z2), z2 / (n + z2)), rel=1e-12
        )


def test_tango_where_every_sample_flips():
    low, high = tango_interval(20, 0, 20, 0.9)
    assert high == 1.0
    # b = n: the likelihood wants q as large as it goes, (1 - m) / 2, so Z(m) = sqrt(n (1 - m) / (1 + m)) = z.
    z2 = scipy_stats.norm.ppf(0.95) ** 2
    assert low == pytest.approx((20 - z2) / (20 + z2), rel=1e-12)


def test_score_z_at_the_ends():
    assert score_z(0, 0, 10, 0.0) == 0
    assert score_z(10, 0, 10, 1.0) == 0
    assert score_z(9, 0, 10, 1.0) == -math.inf
    assert score_z(0, 9, 10, -1.0) == math.inf
    # Margin 0 is McNemar's statistic.
    assert float(score_z(30, 14, 500, 0.0)) == pytest.approx(16 / math.sqrt(44))


def test_score_z_takes_arrays():
    b, c, n = (np.array(x) for x in zip(*TABLES, strict=True))
    each = [float(score_z(*t, 0.01)) for t in TABLES]
    assert score_z(b, c, n, 0.01).tolist() == each
    margins = np.array([-0.1, 0.0, 0.1])
    assert score_z(9, 3, 32, margins).tolist() == [float(score_z(9, 3, 32, m)) for m in margins]


@pytest.mark.parametrize("n", [1, 2, 5, 23, 60])
def test_score_z_is_monotone(n):
    """Falls with the margin, never falls with b, never rises with c: no verdict is bought by an error."""
    pairs = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    b, c = (np.array(x)[:, None] for x in zip(*pairs, strict=True))
    margins = np.linspace(-0.99, 0.99, 199)
    z = score_z(b, c, n, margins[None])
    assert np.all(np.diff(z, axis=1) < 1e-9)
    row = {pair: k for k, pair in enumerate(pairs)}
    for (i, j), k in row.items():
        if (i + 1, j) in row:
            assert np.all(z[row[i + 1, j]] >= z[k] - 1e-9)
        if (i, j + 1) in row:
            assert np.all(z[row[i, j + 1]] <= z[k] + 1e-9)


@settings(deadline=None, max_examples=60)
@given(tables(), st.floats(0.5, 0.999))
def test_swapping_roles_mirrors_the_interval(table, confidence):
    b, c, n = table
    low, high = tango_interval(b, c, n, confidence)
    assert tango_interval(c, b, n, confidence) == pytest.approx((-high, -low), abs=1e-12)
    assert -1 <= low <= (b - c) / n <= high <= 1


@settings(deadline=None, max_examples=60)
@given(tables(), st.integers(2, 50))
def test_more_of_the_same_data_narrows(table, times):
    few = tango_interval(*table, 0.9)
    many = tango_interval(*(times * k for k in table), 0.9)
    assert many[1] - many[0] < few[1] - few[0]
    assert few[0] - 1e-12 <= many[0] and many[1] <= few[1] + 1e-12


@settings(deadline=None, max_examples=60)
@given(tables(), st.floats(0.5, 0.99))
def test_higher_confidence_contains_lower(table, confidence):
    inner, outer = tango_interval(*table, confidence), tango_interval(*table, confidence + 0.005)
    assert outer[0] <= inner[0] and inner[1] <= outer[1]


@settings(deadline=None, max_examples=60)
@given(tables(5000), st.floats(0.001, 0.3), st.sampled_from([0.01, 0.025, 0.05, 0.2]))
def test_non_inferior_is_an_upper_bound_below_the_margin(table, margin, alpha):
    low, high = tango_interval(*table, 1 - 2 * alpha)
    if abs(high - margin) > 1e-9:
        assert bool(non_inferior(*table, margin, alpha)) == (high < margin)
    if low >= margin + 1e-9:
        assert inferior(*table, margin, alpha)
    assert not (non_inferior(*table, margin, alpha) and inferior(*table, margin, alpha))


def test_inferior_by_the_drop_seen_needs_n90():
    # Discordance 6%, drop exactly the margin of 1 pp: n90 is 5,207.
    assert not inferior(182, 130, 5200, 0.01, 0.05)
    assert inferior(186, 133, 5300, 0.01, 0.05)
    # One right answer more, and the drop is below the margin: not failed.
    assert not inferior(185, 133, 5300, 0.01, 0.05)


def test_a_drop_equal_to_the_margin_reaches_it_whatever_the_rounding():
    # 0.07 * 100 is 7.000000000000001 in floating point.
    for margin, n in ((0.07, 10_000), (0.011, 9000), (0.003, 99_000), (1.1 / 100, 9000)):
        b = round(margin * n)
        assert inferior(b, 0, n, margin, 0.05), (margin, n)
        assert not non_inferior(b, 0, n, margin, 0.05)


@pytest.mark.parametrize(
    ("b", "c", "n"),
    [
        (-1, 0, 10),
        (0, -1, 10),
        (6, 5, 10),
        (0, 0, 0),
        (0.5, 0, 10),
        (math.nan, 0, 10),
        (0, 0, math.nan),
        (0, 0, math.inf),
    ],
)
def test_counts_that_are_no_table_are_refused(b, c, n):
    for call in (
        lambda: score_z(b, c, n, 0.01),
        lambda: tango_interval(b, c, n, 0.9),
        lambda: non_inferior(b, c, n, 0.01, 0.05),
        lambda: inferior(b, c, n, 0.01, 0.05),
    ):
        with pytest.raises(DataError, match="paired comparison"):
            call()


@pytest.mark.parametrize("bad", [0, -0.1, 1.0, math.nan, math.inf])
def test_levels_out_of_range_are_refused(bad):
    with pytest.raises(UsageError, match="margin"):
        non_inferior(1, 1, 10, bad, 0.05)
    with pytest.raises(UsageError, match="margin"):
        inferior(1, 1, 10, bad, 0.05)
    with pytest.raises(UsageError, match="alpha"):
        non_inferior(1, 1, 10, 0.01, bad)
    with pytest.raises(UsageError, match="alpha"):
        clopper_pearson_upper(1, 10, bad)
    with pytest.raises(UsageError, match="alpha"):
        clopper_pearson_lower(1, 10, bad)
    with pytest.raises(UsageError, match="alpha"):
        percentile_interval(np.arange(9.0), bad)
    with pytest.raises(UsageError, match="confidence"):
        tango_interval(1, 1, 10, bad)
    with pytest.raises(UsageError, match="margin"):
        samples_needed(0.1, bad, 0.05)
    with pytest.raises(UsageError, match="power"):
        samples_needed(0.1, 0.01, 0.05, bad)


def test_other_values_out_of_range_are_refused():
    for margin in (1.5, -2, math.nan):
        with pytest.raises(UsageError, match="margin"):
            score_z(1, 1, 10, margin)
    for discordance in (-0.1, 1.1, math.nan):
        with pytest.raises(UsageError, match="discordance"):
            samples_needed(discordance, 0.01, 0.05)
    for drop in (math.nan, -math.inf):
        with pytest.raises(UsageError, match="drop"):
            samples_needed_at_drop(0.06, drop, 0.01, 0.05)


@pytest.mark.parametrize(
    ("b", "c"), [(0, 0), (1, 0), (0, 5), (9, 3), (20, 20), (31, 30), (240, 180), (5, 40)]
)
def test_mcnemar_is_that_of_statsmodels_and_scipy(b, c):
    expected = mcnemar([[500, b], [c, 77]], exact=True).pvalue if b + c else 1.0
    assert mcnemar_exact_p(b, c) == pytest.approx(expected, rel=1e-9)
    if b + c:
        assert mcnemar_exact_p(b, c) == pytest.approx(scipy_stats.binomtest(b, b + c).pvalue, rel=1e-9)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 32), (240, 9300), (1, 10**6)])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_clopper_pearson_is_that_of_scipy_and_statsmodels(k, n, alpha):
    upper = scipy_stats.binomtest(k, n, alternative="less").proportion_ci(1 - alpha, "exact").high
    lower = scipy_stats.binomtest(k, n, alternative="greater").proportion_ci(1 - alpha, "exact").low
    assert clopper_pearson_upper(k, n, alpha) == pytest.approx(upper, rel=1e-9)
    assert clopper_pearson_lower(k, n, alpha) == pytest.approx(lower, rel=1e-9)
    two_sided = proportion_confint(k, n, 2 * alpha, "beta")
    assert (clopper_pearson_lower(k, n, alpha), clopper_pearson_upper(k, n, alpha)) == pytest.approx(
        two_sided, rel=1e-9
    )


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0), (math.nan, 5)])
def test_clopper_pearson_refuses_impossible_counts(k, n):
    for bound in (clopper_pearson_upper, clopper_pearson_lower):
        with pytest.raises(DataError):
            bound(k, n, 0.05)


def test_samples_needed_worked_by_hand():
    # psi 0.06, m 0.01: B = -0.04, q = (sqrt(0.0016 + 0.002376) + 0.04) / 4 = 0.02576388, v0 = 0.06142776.
    by_hand = (1.6448536 * math.sqrt(0.06142776) + 1.2815516 * math.sqrt(0.06)) ** 2 / 0.0001
    assert float(samples_needed(0.06, 0.01, 0.05)) == pytest.approx(by_hand, rel=1e-6)
    assert float(samples_needed(0.06, 0.01, 0.05)) == pytest.approx(5200, rel=0.005)
    # No discordance at all: only the margin's own variance is left.
    assert float(samples_needed(0.0, 0.01, 0.05)) == pytest.approx(1.6448536**2 * 0.99 / 0.01, rel=1e-6)


@pytest.mark.parametrize(("drop", "design"), [(0.003, 10_500), (0.005, 20_500), (0.008, 128_000)])
def test_samples_needed_at_a_drop(drop, design):
    found = samples_needed_at_drop(0.06, drop, 0.01, 0.05)
    assert found == pytest.approx(float(samples_needed(0.06, 0.01, 0.05)) / (1 - drop / 0.01) ** 2)
    # The design rounds, and leaves the margin's own variance out: 1.7% less.
    assert found == pytest.approx(design, rel=0.02)


def test_no_number_of_samples_passes_a_drop_at_the_margin():
    assert samples_needed_at_drop(0.06, 0.01, 0.01, 0.05) == math.inf
    assert samples_needed_at_drop(0.06, 0.02, 0.01, 0.05) == math.inf
    assert samples_needed_at_drop(0.06, -0.01, 0.01, 0.05) == pytest.approx(
        float(samples_needed(0.06, 0.01, 0.05)) / 4
    )


def probabilities(n, psi, drop, margin=0.01, alpha=0.05):
    """Exact probability of each answer: the trinomial of (b, c) enumerated out to 8 standard deviations."""
    p_b, p_c = (psi + drop) / 2, (psi - drop) / 2

    def span(p):
        reach = 8 * math.sqrt(n * p) + 8
        return np.arange(max(0, math.floor(n * p - reach)), math.ceil(n * p + reach) + 1)

    b, c = (x.ravel() for x in np.meshgrid(span(p_b), span(p_c), indexing="ij"))
    b, c = b[b + c <= n], c[b + c <= n]
    weight = scipy_stats.binom.pmf(b, n, p_b) * scipy_stats.binom.pmf(c, n - b, p_c / (1 - p_b))
    assert weight.sum() == pytest.approx(1, abs=1e-9)
    chance = {
        "point": b - c <= n * margin + 1e-9,
        # The design's column is the asymptotic test; the exact one passes a little more often.
        "mcnemar": b - c < scipy_stats.norm.ppf(1 - alpha) * np.sqrt(np.maximum(b + c, 1)),
        "mcnemar_exact": scipy_stats.binom.sf(b - 1, b + c, 0.5) > alpha,
        "pass": non_inferior(b, c, n, margin, alpha),
        "fail": inferior(b, c, n, margin, alpha),
    }
    return {name: 100 * float(weight[hit].sum()) for name, hit in chance.items()}


@pytest.mark.parametrize(
    ("n", "drop", "point", "mcnemar_passes", "gate"),
    [
        (300, 0.010, 55, 83, 4.8),
        (1000, 0.010, 53, 64, 4.9),
        (1000, 0.015, 28, 38, 1.1),
        (1000, 0.0, 91, 95, 35.3),
        (5000, 0.0, 99.8, 95, 89.1),
        (50_000, 0.005, 100, 0.2, 99.8),
    ],
)
def test_first_simulation_table(n, drop, point, mcnemar_passes, gate):
    found = probabilities(n, 0.06, drop)
    # Rounded to 0.5 or 0.05; beside that the design's Monte-Carlo error, 3 of 0.11.
    assert found["point"] == pytest.approx(point, abs=0.8)
    assert found["mcnemar"] == pytest.approx(mcnemar_passes, abs=0.8)
    assert found["mcnemar_exact"] >= found["mcnemar"]
    assert found["pass"] == pytest.approx(gate, abs=0.35)


@pytest.mark.parametrize(
    ("drop", "psi", "passes", "fails"),
    [
        (0.000, 0.03, 100, 0),
        (0.000, 0.06, 99.3, 0),
        (0.000, 0.10, 93.6, 0.1),
        (0.003, 0.03, 99.1, 0),
        (0.003, 0.06, 88.6, 0.2),
        (0.003, 0.10, 71.4, 1.4),
        (0.005, 0.03, 88.6, 0.2),
        (0.005, 0.06, 65.1, 2.2),
        (0.005, 0.10, 47.5, 5.9),
        (0.008, 0.03, 30.7, 13.0),
        (0.008, 0.06, 20.3, 21.4),
        (0.008, 0.10, 15.7, 26.7),
        (0.010, 0.03, 4.9, 51.0),
        (0.010, 0.06, 5.0, 51.0),
        (0.010, 0.10, 4.9, 50.8),
    ],
)
def test_second_simulation_table(drop, psi, passes, fails):
    found = probabilities(10_000, psi, drop)
    assert found["pass"] == pytest.approx(passes, abs=0.38)
    assert found["fail"] == pytest.approx(fails, abs=0.38)


@pytest.mark.parametrize("n", [200, 500, 1000, 2000, 5000])
@pytest.mark.parametrize(("times", "largest"), [(1.0, 6.8), (1.5, 5.35), (3.0, 5.35), (6.0, 5.35)])
def test_exact_size_at_the_margin(n, times, largest):
    assert probabilities(n, times * 0.01, 0.01)["pass"] <= largest


@pytest.mark.parametrize("psi", [0.03, 0.06, 0.10])
@pytest.mark.parametrize("drop", [0.0, 0.003, 0.005])
def test_power_at_the_number_of_samples_needed(psi, drop):
    n = math.ceil(samples_needed_at_drop(psi, drop, 0.01, 0.05))
    assert probabilities(n, psi, drop)["pass"] == pytest.approx(90, abs=1.0)


def test_a_seeded_simulation_agrees_with_the_enumeration():
    b, c, _ = np.random.default_rng(7).multinomial(1000, [0.035, 0.025, 0.94], 40_000).T
    expected = probabilities(1000, 0.06, 0.01)
    error = 4 * 100 * math.sqrt(0.05 * 0.95 / 40_000)
    assert 100 * non_inferior(b, c, 1000, 0.01, 0.05).mean() == pytest.approx(expected["pass"], abs=error)


def rng():
    return np.random.default_rng(0)


def test_bootstrap_of_one_group_is_the_exact_distribution_of_an_order_statistic():
    values = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    found = bootstrap_quantile(values[::-1].copy(), np.zeros(11, np.int64), 0.9, rng(), replicates=40_000)
    # p90 of 11 values is the 10th smallest; it is at most j where at least 10 of 11 draws are.
    for j in range(6, 12):
        assert np.mean(found <= j) == pytest.approx(scipy_stats.binom.sf(9, 11, j / 11), abs=0.01)


def test_bootstrap_resamples_groups_first():
    # Groups that are constant: the maximum is 3 where any of 3 draws of a group is the last: 1 - (2/3)^3.
    values, groups = np.repeat([1.0, 2.0, 3.0], 5), np.repeat([7, 3, 5], 5)
    found = bootstrap_quantile(values, groups, 1.0, rng(), replicates=40_000)
    assert np.mean(found == 3) == pytest.approx(1 - 8 / 27, abs=0.01)
    assert np.mean(found == 1) == pytest.approx(1 / 27, abs=0.005)


def test_bootstrap_agrees_with_a_plain_loop():
    draw = np.random.default_rng(5)
    groups = np.repeat([0, 1, 2, 3], [40, 10, 25, 30])
    values = draw.gamma(9.0, 1.0, len(groups)) + groups
    order = draw.permutation(len(groups))
    found = bootstrap_quantile(values[order], groups[order], 0.5, rng(), replicates=8000)
    looped = []
    for _ in range(8000):
        sample = []
        for size in (40, 10, 25, 30):
            members = values[groups == draw.integers(4)]
            sample.extend(members[draw.integers(0, len(members), size)])
        looped.append(np.median(sample))
    assert np.mean(found) == pytest.approx(np.mean(looped), abs=0.03)
    assert np.std(found) == pytest.approx(np.std(looped), rel=0.05)
    assert percentile_interval(found, 0.05) == pytest.approx(
        percentile_interval(np.array(looped), 0.05), abs=0.12
    )


def test_ratio_of_medians_by_hand():
    groups = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    over = np.array([3.0, 1, 2, 30, 10, 20, 5, 5, 5])  # medians 2, 20, 5
    under = np.array([4.0, 4, 9, 50, 40, 1, 2, 1, 3])  # medians 4, 40, 2
    assert ratio_of_medians((over, groups), (under, groups)) == 0.5
    # Other numbers of runs on the two sides change nothing.
    assert ratio_of_medians((over, groups), (np.repeat(under, 3), np.repeat(groups, 3))) == 0.5


def test_bootstrap_of_a_ratio_agrees_with_a_plain_loop():
    draw = np.random.default_rng(9)
    over_groups, under_groups = np.repeat([0, 1, 2], [91, 81, 61]), np.repeat([0, 1, 2], [61, 81, 39])
    factor = np.array([1.0, 1.3, 1.1])  # the processes truly differ
    over = draw.gamma(9.0, 1.0, 233) * factor[over_groups]
    under = draw.gamma(9.0, 3.0, 181)
    found = bootstrap_ratio_of_medians((over, over_groups), (under, under_groups), rng(), replicates=8000)
    looped = []
    for _ in range(8000):
        ratios = []
        for chosen in draw.integers(0, 3, 3):
            x, y = over[over_groups == chosen], under[under_groups == chosen]
            ratios.append(np.median(draw.choice(x, len(x))) / np.median(draw.choice(y, len(y))))
        looped.append(np.median(ratios))
    assert np.mean(found) == pytest.approx(np.mean(looped), rel=0.005)
    assert np.std(found) == pytest.approx(np.std(looped), rel=0.05)


@pytest.mark.parametrize(
    ("slowdown", "sizes"),
    [
        ([1, 1, 1.9], [200, 200, 200]),
        ([1, 1, 1, 1.9], [200] * 4),
        ([1, 1, 1.9, 1.9], [200] * 4),
        ([1, 1.3], [200, 200]),
        # As many seconds each: the slow processes have fewer runs.
        ([1, 1.9, 1.9], [400, 200, 200]),
        ([1, 4, 2, 3, 1, 1], [200] * 6),
    ],
)
def test_a_slow_process_cancels_in_a_ratio(slowdown, sizes):
    draw = np.random.default_rng(3)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    slow = np.array(slowdown)[groups]
    over, under = ((level + 0.02 * draw.random(len(groups))) * slow for level in (0.6, 1))
    found = bootstrap_ratio_of_medians((over, groups), (under, groups), rng())
    low, high = percentile_interval(found, 0.05)
    assert 0.59 < low < ratio_of_medians((over, groups), (under, groups)) < high < 0.62


def test_bootstrap_of_a_ratio_refuses_other_groups():
    values, groups = np.ones(6), np.repeat([0, 1], 3)
    with pytest.raises(DataError, match="same groups"):
        bootstrap_ratio_of_medians((values, groups), (values, groups + 1), rng())


def test_bootstrap_is_repeatable_and_constant_values_stay_constant():
    values, groups = np.random.default_rng(1).random(60), np.arange(60) % 3
    assert np.array_equal(
        bootstrap_quantile(values, groups, 0.9, rng()), bootstrap_quantile(values, groups, 0.9, rng())
    )
    assert set(bootstrap_quantile(np.full(30, 2.5), groups[:30], 0.9, rng())) == {2.5}


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [1.0, math.inf], [1.0, 2.0, 3.0]])
def test_bootstrap_refuses_values_that_are_missing_or_not_finite(values):
    with pytest.raises(DataError, match="bootstrap"):
        bootstrap_quantile(np.array(values), np.zeros(min(2, len(values)), np.int64), 0.5, rng())


def test_percentile_interval_is_two_sided_at_twice_alpha():
    assert percentile_interval(np.arange(101.0), 0.05) == pytest.approx((5, 95))
