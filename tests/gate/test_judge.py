"""Every verdict of every check, every refusal, and each way in which a gate could wrongly pass."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from timed_runs import measured

from edgekd.config import GateConfig
from edgekd.errors import DataError, UsageError
from edgekd.gate import (
    compare,
    conclude,
    judge_drop,
    judge_int8_beats_float,
    judge_int8_share,
    judge_latency,
    judge_memory,
    judge_negative_flips,
    judge_size,
    samples_needed,
)
from edgekd.gate.evidence import by_counts
from edgekd.measurements import Protocol
from edgekd.types import Check, Inventory, Operator, Predictions, Status, Verdict

PASS, FAIL, INCONCLUSIVE, NOT_APPLICABLE = (
    Status.PASS,
    Status.FAIL,
    Status.INCONCLUSIVE,
    Status.NOT_APPLICABLE,
)
POLICY = GateConfig(max_drop_pp=1.0)


def predictions(right, prefix="s", classes=3):
    """Predictions that are right where told; a wrong one gives the next class."""
    right = np.asarray(right, bool)
    labels = np.arange(len(right)) % classes
    given = np.where(right, labels, (labels + 1) % classes)
    ids = np.array([f"{prefix}{i:06d}" for i in range(len(right))])
    return Predictions(ids, labels, np.eye(classes, dtype=np.float32)[given])


def pair(b, c, n, both_wrong=0):
    """Teacher and candidate with these counts."""
    both = n - b - c - both_wrong
    teacher = [True] * b + [False] * c + [True] * both + [False] * both_wrong
    candidate = [False] * b + [True] * c + [True] * both + [False] * both_wrong
    return predictions(teacher), predictions(candidate)


def judge_accuracy(comparison, policy, target):
    shown = by_counts(comparison.b, comparison.c, comparison.n, policy.margin, policy.alpha)
    return judge_drop(shown, policy, target)


def judge_flips(comparison, policy, target):
    return judge_negative_flips(comparison.b, comparison.n, policy, target)


def compared(b, c, n, margin=1.0, alpha=0.05):
    return compare(*pair(b, c, n), margin, alpha)


# ------------------------------------------------------------------------------------ pairing


def test_compare_counts_and_bounds():
    found = compare(*pair(240, 180, 9300, both_wrong=600), 1.0, 0.05)
    assert (found.b, found.c, found.n) == (240, 180, 9300)
    # Teacher wrong on c + 600 = 780, candidate on b + 600 = 840.
    assert found.drop.teacher == pytest.approx(100 * 8520 / 9300)
    assert found.drop.value == pytest.approx(100 * 8460 / 9300)
    assert found.drop.drop == pytest.approx(100 * 60 / 9300)
    assert found.drop.interval == pytest.approx((0.283602, 1.010291), abs=1e-6)
    assert found.drop.margin == 1.0
    assert found.drop.metric.name == "accuracy"
    # The wrong answers of both are the same ones here, so that only b and c disagree.
    assert found.agreement == pytest.approx(8880 / 9300)
    assert found.negative_flip_rate == pytest.approx(240 / 9300)
    assert found.alpha == 0.05


def test_compare_uses_its_alpha_and_needs_no_margin():
    found = compare(*pair(240, 180, 9300), None, 0.025)
    assert found.drop.margin is None
    assert found.drop.interval == pytest.approx((0.214215, 1.081161), abs=1e-6)


def test_agreement_tells_two_wrong_classes_apart():
    teacher = predictions([False, True])
    other = replace(teacher, scores=np.eye(3, dtype=np.float32)[[2, 1]])
    found = compare(teacher, other, 1.0, 0.05)
    assert (found.b, found.c, found.agreement) == (0, 0, 0.5)


def test_compare_aligns_by_sample_id():
    teacher, candidate = pair(9, 3, 32)
    order = np.random.default_rng(3).permutation(32)
    shuffled = Predictions(candidate.sample_ids[order], candidate.labels[order], candidate.scores[order])
    assert compare(teacher, shuffled, 1.0, 0.05) == compare(teacher, candidate, 1.0, 0.05)
    assert compare(shuffled, teacher, 1.0, 0.05).b == 3


def with_id(p, at, value):
    ids = p.sample_ids.astype("U20")
    ids[at] = value
    return replace(p, sample_ids=ids)


def with_label(p, at, value):
    labels = p.labels.copy()
    labels[at] = value
    return replace(p, labels=labels)


def with_score(p, at, value):
    scores = p.scores.copy()
    scores[at, 0] = value
    return replace(p, scores=scores)


def part(p, keep):
    return Predictions(p.sample_ids[keep], p.labels[keep], p.scores[keep])


BROKEN = {
    "empty": (lambda p: part(p, slice(0)), "no samples"),
    "twice": (lambda p: with_id(p, 1, "s000000"), "twice: 1, first s000000"),
    "nan": (lambda p: with_score(p, 4, math.nan), "not finite: 1, first s000004"),
    "inf": (lambda p: with_score(p, 4, math.inf), "not finite: 1, first s000004"),
    "label_too_large": (lambda p: with_label(p, 5, 3), "no class of the scores: 1, first s000005"),
    "label_negative": (lambda p: with_label(p, 5, -1), "no class of the scores: 1, first s000005"),
    "float_labels": (lambda p: replace(p, labels=p.labels.astype(float)), "not whole numbers"),
    "short_labels": (lambda p: replace(p, labels=p.labels[:-1]), "do not fit"),
    "short_scores": (lambda p: replace(p, scores=p.scores[:-1]), "do not fit"),
    "flat_scores": (lambda p: replace(p, scores=p.scores[:, 0]), "do not fit"),
    "one_class": (lambda p: replace(p, labels=0 * p.labels, scores=p.scores[:, :1]), "do not fit"),
}


def test_divergence_of_the_probabilities_by_another_implementation():
    from scipy.stats import entropy

    rng = np.random.default_rng(4)
    ids, labels = np.array([f"s{i}" for i in range(50)]), np.arange(50) % 3
    one, other = rng.normal(size=(2, 50, 3)) * 3
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (one, other))
    found = compare(Predictions(ids, labels, one), Predictions(ids, labels, other), 1.0, 0.05)
    assert found.kl_divergence == pytest.approx(np.mean(entropy(p, q, axis=1)))
    assert compare(Predictions(ids, labels, one), Predictions(ids, labels, one), 1.0, 0.05).kl_divergence == 0


@pytest.mark.parametrize("name", BROKEN)
def test_compare_refuses_either_side_broken(name):
    breaks, message = BROKEN[name]
    teacher, candidate = pair(2, 1, 20)
    with pytest.raises(DataError, match=f"teacher: .*{message}"):
        compare(breaks(teacher), candidate, 1.0, 0.05)
    with pytest.raises(DataError, match=f"candidate: .*{message}"):
        compare(teacher, breaks(candidate), 1.0, 0.05)


def test_compare_refuses_samples_that_do_not_pair():
    teacher, candidate = pair(2, 1, 20)
    with pytest.raises(DataError, match="candidate lacks samples: 5, first s000015, s000016, s000017"):
        compare(teacher, part(candidate, slice(15)), 1.0, 0.05)
    with pytest.raises(DataError, match="unknown to the teacher: 2, first s000018, s000019"):
        compare(part(teacher, slice(18)), candidate, 1.0, 0.05)
    with pytest.raises(DataError, match="candidate lacks samples: 1, first s000003"):
        compare(teacher, with_id(candidate, 3, "other"), 1.0, 0.05)
    with pytest.raises(DataError, match="other labels: 1, first s000007"):
        compare(teacher, with_label(candidate, 7, 0), 1.0, 0.05)
    wider = replace(candidate, scores=np.pad(candidate.scores, ((0, 0), (0, 1))))
    with pytest.raises(DataError, match="teacher scores 3 classes, candidate 4"):
        compare(teacher, wider, 1.0, 0.05)


def test_compare_refuses_a_margin_or_level_out_of_range():
    for margin in (0.0, -1.0, 100.0, math.nan):
        with pytest.raises(UsageError, match="margin_pp"):
            compare(*pair(1, 1, 10), margin, 0.05)
    for alpha in (0.0, 0.5, math.nan):
        with pytest.raises(UsageError):
            compare(*pair(1, 1, 10), 1.0, alpha)


# ----------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize(
    ("b", "c", "n", "status"),
    [
        # Upper bound .00597 (design's table) below .01.
        (12, 0, 3212, PASS),
        # Upper bound .0101 just above .01: a point estimate of .0065 does not pass.
        (240, 180, 9300, INCONCLUSIVE),
        (5, 40, 1000, PASS),
        # Lower bound .01019 above .01.
        (9, 3, 32, FAIL),
        (0, 1, 44, INCONCLUSIVE),
        (0, 0, 500, PASS),
        # Bound z^2 / (n + z^2) with z^2 = 2.7055 is below .01 from n = 268 on.
        (0, 0, 267, INCONCLUSIVE),
        (0, 0, 268, PASS),
        (0, 0, 1, INCONCLUSIVE),
        # The drop seen above 1 pp, lower bound below: FAIL on more than n90 = 5,207 samples or so only.
        (190, 130, 5300, FAIL),
        (190, 130, 5100, INCONCLUSIVE),
    ],
)
def test_accuracy_verdicts(b, c, n, status):
    check = judge_accuracy(compared(b, c, n), POLICY, "edge")
    assert check.status is status
    assert (check.name, check.target, check.unit, check.limit) == ("accuracy", "edge", "pp", 1.0)
    assert check.observed == pytest.approx(100 * (b - c) / n)


def test_accuracy_takes_margin_and_alpha_from_the_policy():
    comparison = compared(240, 180, 9300)
    assert judge_accuracy(comparison, GateConfig(max_drop_pp=1.02), "t").status is PASS
    assert judge_accuracy(comparison, GateConfig(max_drop_pp=1.02, alpha=0.025), "t").status is INCONCLUSIVE
    assert judge_accuracy(comparison, GateConfig(max_drop_pp=0.28), "t").status is FAIL
    # 95% upper bound 1.0812.
    strict = judge_accuracy(comparison, GateConfig(max_drop_pp=1.09, alpha=0.025), "t")
    assert strict.status is PASS
    assert "95% interval 0.21 to 1.08 pp" in strict.detail


def test_accuracy_detail_in_plain_words():
    detail = judge_accuracy(compared(240, 180, 9300), POLICY, "t").detail
    assert "accuracy drop 0.65 pp, 90% interval 0.28 to 1.01 pp, margin 1 pp" in detail
    assert "b = 240 lost, c = 180 won, n = 9300" in detail
    assert f"McNemar p = {scipy_stats.binomtest(240, 420).pvalue:.2g} (shown, not decided by)" in detail


def test_inconclusive_says_how_many_samples_would_decide():
    psi, drop = 420 / 9300, 60 / 9300
    lossless = float(samples_needed(psi, 0.01, 0.05))
    detail = judge_accuracy(compared(240, 180, 9300), POLICY, "t").detail
    assert f"about {math.ceil(lossless):,} decide if nothing was lost" in detail
    assert (
        f"about {math.ceil(lossless / (1 - drop / 0.01) ** 2):,} if the drop seen is the true one" in detail
    )


def test_inconclusive_above_the_margin_says_that_no_number_passes():
    detail = judge_accuracy(compared(190, 130, 5100), POLICY, "t").detail
    lossless = math.ceil(float(samples_needed(320 / 5100, 0.01, 0.05)))
    assert f"no number of samples would pass, and {lossless:,} would fail" in detail


def test_fail_says_which_of_its_two_reasons():
    assert "shown to be at or above the margin" in judge_accuracy(compared(9, 3, 32), POLICY, "t").detail
    assert "more samples would not help" in judge_accuracy(compared(190, 130, 5300), POLICY, "t").detail


def test_no_significant_difference_is_not_a_pass():
    comparison = compared(8, 5, 300)
    assert scipy_stats.binomtest(8, 13).pvalue > 0.5
    assert judge_accuracy(comparison, POLICY, "t").status is INCONCLUSIVE


def test_a_significant_difference_inside_the_margin_is_a_pass():
    comparison = compared(1625, 1375, 50_000)
    assert scipy_stats.binomtest(1625, 3000).pvalue < 0.001
    assert judge_accuracy(comparison, POLICY, "t").status is PASS


def test_accuracy_refuses_counts_that_are_no_table():
    for bad in ({"b": 400}, {"n": 0}, {"b": -1}, {"b": math.nan}):
        with pytest.raises(DataError):
            judge_accuracy(replace(compared(9, 3, 32), **bad), POLICY, "t")


RANK = {FAIL: 0, INCONCLUSIVE: 1, PASS: 2}


@given(st.data())
@settings(deadline=None)
def test_the_verdict_never_improves_when_a_right_answer_turns_wrong(data):
    n = data.draw(st.integers(20, 20_000))
    b = data.draw(st.integers(0, n // 10))
    c = data.draw(st.integers(0, n // 10))
    margin = data.draw(st.sampled_from([0.2, 0.5, 1.0, 3.0]))
    base = replace(compared(1, 1, 10), b=b, c=c, n=n)
    policy = GateConfig(max_drop_pp=margin)
    # The teacher had it right too (b + 1), or had it wrong (c - 1).
    worse = replace(base, b=b + 1) if data.draw(st.booleans()) else replace(base, c=c - 1)
    assume(worse.c >= 0)
    before, after = (judge_accuracy(k, policy, "t").status for k in (base, worse))
    if RANK[after] > RANK[before]:
        # The one way up: b + 1 raises the discordance, so n90, past n. It still blocks the release.
        assert (before, after) == (FAIL, INCONCLUSIVE)
        assert worse.n < samples_needed((worse.b + worse.c) / n, margin / 100, policy.alpha)


@pytest.mark.parametrize("n", [300, 1000])
@pytest.mark.parametrize("margin", [0.5, 1.0, 2.0])
def test_every_added_error_keeps_a_blocked_release_blocked(n, margin):
    policy, base = GateConfig(max_drop_pp=margin), compared(0, 0, 10)
    for c in (0, 7):
        passes = [judge_accuracy(replace(base, b=b, c=c, n=n), policy, "t").status is PASS for b in range(25)]
        # All passes come first.
        assert passes == sorted(passes, reverse=True)


# ----------------------------------------------------------------------------- negative flips


def flips(limit):
    return GateConfig(max_drop_pp=1.0, max_negative_flip_rate=limit)


def test_negative_flip_verdicts():
    # 3 of 1,000: bounds .000818 and .007732 (Clopper-Pearson, one-sided 95%).
    comparison = compared(3, 50, 1000)
    low = scipy_stats.binomtest(3, 1000, alternative="greater").proportion_ci(0.95, "exact").low
    high = scipy_stats.binomtest(3, 1000, alternative="less").proportion_ci(0.95, "exact").high
    for limit, status in (
        (high + 1e-9, PASS),
        (high - 1e-9, INCONCLUSIVE),
        (low + 1e-9, INCONCLUSIVE),
        (low - 1e-9, FAIL),
    ):
        check = judge_flips(comparison, flips(limit), "edge")
        assert check.status is status, limit
        assert (check.name, check.target, check.unit) == ("negative_flips", "edge", "fraction")
        assert (check.observed, check.limit) == (0.003, limit)


def test_negative_flips_take_alpha_from_the_policy():
    comparison = compared(3, 50, 1000)
    for alpha, status in ((0.05, PASS), (0.01, INCONCLUSIVE)):
        policy = GateConfig(max_drop_pp=1.0, alpha=alpha, max_negative_flip_rate=0.008)
        assert judge_flips(comparison, policy, "t").status is status


def test_negative_flips_without_a_limit_do_not_apply():
    check = judge_flips(compared(3, 50, 1000), POLICY, "t")
    assert (check.status, check.limit, check.observed) == (NOT_APPLICABLE, None, 0.003)
    assert "3 of 1000" in check.detail and "0.300%" in check.detail


def test_no_flips_on_few_samples_is_not_a_pass():
    # Rule of three: 0 in 20 leaves 13.9% possible.
    check = judge_flips(compared(0, 0, 20), flips(0.1), "t")
    assert check.status is INCONCLUSIVE
    assert "13.911%" in check.detail


# ---------------------------------------------------------------------------- size and memory


@pytest.mark.parametrize(
    ("size", "status"), [(999, PASS), (1000, PASS), (1001, FAIL), (0, INCONCLUSIVE), (-1, INCONCLUSIVE)]
)
def test_size(size, status):
    check = judge_size(size, 1000, "edge")
    assert (check.status, check.name, check.target) == (status, "size", "edge")
    assert (check.observed, check.limit, check.unit) == (size, 1000, "bytes")


def test_size_that_is_no_number_is_no_pass():
    for size in (math.nan, math.inf):
        assert judge_size(size, 1000, "t").status is INCONCLUSIVE
    for limit in (0, -5, math.nan, math.inf):
        with pytest.raises(UsageError, match="size budget"):
            judge_size(10, limit, "t")
    assert judge_size(10, None, "t").status is NOT_APPLICABLE


@pytest.mark.parametrize(("limit", "status"), [(5_000_001, PASS), (5_000_000, PASS), (4_999_999, FAIL)])
def test_memory(limit, status):
    check = judge_memory(measured(), limit, "edge")
    assert (check.status, check.name, check.target, check.unit) == (status, "memory", "edge", "bytes")
    assert (check.observed, check.limit) == (5_000_000, limit)


def test_memory_is_never_passed_by_what_was_not_measured_there():
    for measurement, words in (
        (None, "not measured"),
        (measured(kind="host"), "another computer standing in"),
        (measured(kind="emulated"), "an emulator"),
        (measured(peak_memory_bytes=0), "no measured memory"),
        (measured(peak_memory_bytes=math.nan), "no measured memory"),
    ):
        check = judge_memory(measurement, 10**9, "t")
        assert check.status is INCONCLUSIVE
        assert words in check.detail
    assert judge_memory(None, None, "t").status is NOT_APPLICABLE
    host = judge_memory(measured(kind="host"), None, "t")
    assert (host.status, host.observed) == (NOT_APPLICABLE, 5_000_000)
    with pytest.raises(UsageError, match="memory budget"):
        judge_memory(measured(), math.nan, "t")


# ------------------------------------------------------------------------------------ latency


def test_latency_verdicts():
    m = measured()
    check = judge_latency(m, 2.0, "edge")
    assert check.status is PASS
    assert (check.name, check.target, check.unit, check.limit) == ("latency", "edge", "ms", 2.0)
    assert check.observed == pytest.approx(float(np.percentile(m.latency_ms, 90)))
    assert judge_latency(m, 0.9, "t").status is FAIL
    close = judge_latency(m, m.p90_ms, "t")
    assert close.status is INCONCLUSIVE
    assert "more runs" in close.detail


def test_latency_is_judged_by_the_interval_not_the_point():
    m = measured(1 + 0.1 * np.random.default_rng(2).random(120))
    # The exact bootstrap of p90 for one process: ranks of the order statistic, binomial.
    ordered = np.sort(m.latency_ms)
    low_rank, high_rank = (
        next(j for j in range(1, 121) if scipy_stats.binom.sf(107, 120, j / 120) >= level)
        for level in (0.05, 0.95)
    )
    # Two stages are wider than one, so that inside the plain interval nothing is decided ...
    for limit in np.linspace(ordered[low_rank], ordered[high_rank - 2], 7):
        assert judge_latency(m, float(limit), "t").status is INCONCLUSIVE
    # ... and beyond all runs everything is.
    assert judge_latency(m, float(ordered[-1]) + 1e-9, "t").status is PASS
    assert judge_latency(m, float(ordered[60]), "t").status is FAIL


def test_latency_verdict_is_repeatable():
    assert judge_latency(measured(), 1.048, "t") == judge_latency(measured(), 1.048, "t")


def test_latency_at_the_budget_without_noise_is_not_below_it():
    flat = measured(np.full(120, 2.0))
    assert judge_latency(flat, 2.0, "t").status is INCONCLUSIVE
    assert judge_latency(flat, 2.000001, "t").status is PASS
    assert judge_latency(flat, 1.999999, "t").status is FAIL


NOISY = np.where(np.arange(120) % 4 == 0, 1.16, 1.0)

NOT_PASSABLE = {
    "missing": (None, "not measured"),
    "host": (measured(kind="host"), "kind host (another computer standing in: board-7)"),
    "emulated": (measured(kind="emulated"), "kind emulated (an emulator: board-7)"),
    "unknown kind": (measured(kind="guessed"), "kind guessed"),
    "no runs": (measured([]), "missing"),
    "nan": (measured([math.nan] + [1.0] * 119), "not finite"),
    "inf": (measured([math.inf] + [1.0] * 119), "not finite"),
    "zero": (measured([0.0] + [1.0] * 119), "not positive"),
    "negative": (measured([-1.0] + [1.0] * 119), "not positive"),
    "lengths differ": (measured([1.0] * 120, process=[0, 1, 2, 3] * 29), "missing"),
    "few runs": (measured([1.0] * 99), "only 99 timed runs, the protocol asks for 100"),
    "two processes": (
        measured(process=[0, 1] * 60, protocol=Protocol(1, 10, 1, 1, 1)),
        "only 2 fresh processes, 3",
    ),
    "process lost": (measured(process=[0, 1, 2] * 40), "only 3 fresh processes, 4"),
    "unstable": (measured(NOISY), "unstable: medians of processes vary by 16%, more than 15%"),
}


@pytest.mark.parametrize("name", NOT_PASSABLE)
def test_latency_is_never_passed_by(name):
    measurement, words = NOT_PASSABLE[name]
    check = judge_latency(measurement, 1000.0, "t")
    assert check.status is INCONCLUSIVE
    assert words in check.detail
    # Nor failed: it says nothing either way.
    assert judge_latency(measurement, 1e-6, "t").status is INCONCLUSIVE


def test_latency_just_stable_enough_is_judged():
    steady = np.where(np.arange(120) % 4 == 0, 1.1499, 1.0)
    assert judge_latency(measured(steady), 2.0, "t").status is PASS
    three = measured(process=[0, 1, 2] * 40, protocol=Protocol(10, 100, 1.0, 3, 1))
    assert judge_latency(three, 2.0, "t").status is PASS


def test_latency_without_a_budget_does_not_apply():
    check = judge_latency(measured(kind="host"), None, "t")
    assert check.status is NOT_APPLICABLE
    assert check.observed == pytest.approx(measured().p90_ms)
    assert judge_latency(None, None, "t").observed is None
    assert judge_latency(measured([]), None, "t").observed is None
    assert judge_latency(measured([math.nan] * 120), None, "t").observed is None


def test_latency_shows_what_a_stand_in_gave_without_judging_it():
    assert judge_latency(measured(kind="host"), 9.0, "t").observed == pytest.approx(measured().p90_ms)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_latency_refuses_a_budget_that_is_no_number(limit):
    with pytest.raises(UsageError, match="latency budget"):
        judge_latency(measured(), limit, "t")


# --------------------------------------------------------------------------- int8 against float


def scaled(factor, seed=5, **changes):
    return measured(factor * (1 + 0.05 * np.random.default_rng(seed).random(120)), **changes)


def test_int8_beats_float_verdicts():
    faster = judge_int8_beats_float(scaled(0.5), scaled(1.0, 6), "edge")
    assert (faster.status, faster.name, faster.target, faster.unit) == (
        PASS,
        "int8_beats_float",
        "edge",
        "ratio",
    )
    assert faster.limit == 1.0
    medians = zip(scaled(0.5).process_medians_ms, scaled(1.0, 6).process_medians_ms, strict=True)
    assert faster.observed == pytest.approx(np.median([int8 / other for int8, other in medians]))
    slower = judge_int8_beats_float(scaled(1.2), scaled(1.0, 6), "t")
    assert slower.status is FAIL
    assert "ship the float file" in slower.detail
    level = judge_int8_beats_float(scaled(1.0), scaled(1.0, 6), "t")
    assert level.status is INCONCLUSIVE
    assert "too close to tell" in level.detail


def test_int8_and_float_are_resampled_independently():
    """The same runs on both sides: equal draws would give a ratio of exactly 1 with no spread at all."""
    check = judge_int8_beats_float(scaled(1.0), scaled(1.0), "t")
    assert check.status is INCONCLUSIVE
    assert "interval 1.000 to 1.000" not in check.detail
    shifted = judge_int8_beats_float(scaled(0.9999), scaled(1.0), "t")
    assert shifted.status is INCONCLUSIVE


@pytest.mark.parametrize("kind", ["host", "emulated"])
def test_int8_beats_float_does_not_apply_off_the_target(kind):
    for pair_ in (
        (scaled(0.5, kind=kind), scaled(1.0)),
        (scaled(0.5), scaled(1.0, kind=kind)),
        (None, scaled(1.0, kind=kind)),
    ):
        check = judge_int8_beats_float(*pair_, "t")
        assert check.status is NOT_APPLICABLE
        assert "measured on hardware that is not the target" in check.detail


@pytest.mark.parametrize(
    "name", [k for k in NOT_PASSABLE if k not in ("host", "emulated", "unknown kind", "unstable")]
)
def test_int8_beats_float_is_never_passed_by(name):
    measurement, words = NOT_PASSABLE[name]
    slow, quick = scaled(100.0), scaled(0.001)
    left = judge_int8_beats_float(measurement, slow, "t")
    assert (left.status, left.detail.startswith("int8 file: "), words in left.detail) == (
        INCONCLUSIVE,
        True,
        True,
    )
    right = judge_int8_beats_float(quick, measurement, "t")
    assert (right.status, right.detail.startswith("float file: ")) == (INCONCLUSIVE, True)


def test_a_slow_spell_that_meets_both_files_leaves_their_ratio_as_it_is():
    spell = np.where(np.arange(120) % 4 == 0, 1.5, 1.0)  # one process of four, half as slow again
    slow, quick = measured(spell), measured(0.5 * spell)
    assert judge_latency(slow, 1000.0, "t").status is INCONCLUSIVE  # its own figure is not known
    assert judge_int8_beats_float(quick, slow, "t").status is PASS
    assert judge_int8_beats_float(slow, quick, "t").status is FAIL


@pytest.mark.parametrize(
    ("factor", "status"),
    # By hand: ratios f, f, f and f / 1.5 vary by a third, which is more than 15%. The one nearest to 1
    # is f below 1 and f / 1.5 above; a third further it must still be on its side.
    [(0.74, PASS), (0.76, INCONCLUSIVE), (1.0, INCONCLUSIVE), (1.99, INCONCLUSIVE), (2.01, FAIL)],
)
def test_a_ratio_that_varies_decides_only_far_from_one(factor, status):
    spell = np.where(np.arange(120) % 4 == 0, 1.5, 1.0)
    check = judge_int8_beats_float(measured(factor * np.ones(120)), measured(spell), "t")
    assert check.status is status
    if status is INCONCLUSIVE:
        assert "unstable: ratios of processes vary by 33%, more than 15%" in check.detail


def test_files_timed_in_other_numbers_of_processes_are_not_compared():
    five = measured(np.ones(120), process=np.arange(120) % 5)
    check = judge_int8_beats_float(scaled(0.5), five, "t")
    assert check.status is INCONCLUSIVE and "not timed in the same processes" in check.detail
    others = measured(np.ones(120), process=1 + np.arange(120) % 4)
    check = judge_int8_beats_float(scaled(0.5), others, "t")
    assert check.status is INCONCLUSIVE and "not timed in the same processes" in check.detail


def test_int8_beats_float_names_both_when_both_are_missing():
    check = judge_int8_beats_float(None, None, "t")
    assert check.status is INCONCLUSIVE
    assert check.detail == "int8 file: not measured; float file: not measured"


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "board-8"},
        {"runtime": "onnxruntime"},
        {"runtime_version": "2.4"},
        {"delegate": "cpu"},
        {"protocol": Protocol(10, 100, 1.0, 4, 2)},
    ],
)
def test_int8_beats_float_compares_like_with_like_only(changes):
    check = judge_int8_beats_float(scaled(0.5), scaled(1.0, **changes), "t")
    assert check.status is INCONCLUSIVE
    assert "not comparable" in check.detail


# --------------------------------------------------------------------------------- int8 share


def inventory(int8, float_):
    return Inventory((Operator("c", "conv", "int8"),), int8, float_)


@pytest.mark.parametrize(
    ("int8", "float_", "status"),
    [(9, 1, PASS), (10, 0, PASS), (89, 11, FAIL), (0, 4, FAIL), (0, 0, INCONCLUSIVE)],
)
def test_int8_share(int8, float_, status):
    check = judge_int8_share(inventory(int8, float_), 0.9, "static_wi8_ai8", "edge")
    assert (check.status, check.name, check.target, check.unit) == (status, "int8_share", "edge", "fraction")
    assert check.limit == 0.9
    assert check.observed == (int8 / (int8 + float_) if int8 + float_ else None)


def test_int8_share_of_nothing_never_passes_even_at_no_minimum():
    assert judge_int8_share(inventory(0, 0), 0.0, "static_wi8_ai8", "t").status is INCONCLUSIVE
    assert judge_int8_share(None, 0.0, "static_wi8_ai8", "t").status is INCONCLUSIVE
    assert judge_int8_share(inventory(9, 1), math.nan, "static_wi8_ai8", "t").status is FAIL


@pytest.mark.parametrize("scheme", ["dynamic_wi8_afp32", "fp16", "fp32"])
def test_int8_share_of_other_schemes_does_not_apply(scheme):
    check = judge_int8_share(inventory(1, 3), 0.9, scheme, "t")
    assert (check.status, check.observed, check.limit) == (NOT_APPLICABLE, 0.25, None)
    assert scheme in check.detail
    assert judge_int8_share(None, 0.9, scheme, "t").status is NOT_APPLICABLE


# --------------------------------------------------------------------------------- conclusion


def answer(status, target="a", name="size", observed: float | None = 1.0):
    return Check(name, target, observed, 2.0, "bytes", status, "because")


def accuracy(status, target="a", observed: float | None = 0.1):
    return Check("accuracy", target, observed, 1.0, "pp", status, "because")


@pytest.mark.parametrize(
    ("statuses", "overall", "exit_code"),
    [
        ([PASS], PASS, 0),
        ([PASS, NOT_APPLICABLE], PASS, 0),
        ([PASS, INCONCLUSIVE], INCONCLUSIVE, 3),
        ([FAIL, PASS], FAIL, 1),
        ([INCONCLUSIVE, FAIL, PASS], FAIL, 1),
        ([NOT_APPLICABLE], PASS, 0),
    ],
)
def test_conclude(statuses, overall, exit_code):
    checks = [accuracy(PASS)] + [answer(s) for s in statuses]
    verdict = conclude(checks, ["a"])
    assert (verdict.status, verdict.exit_code) == (overall, exit_code)
    assert verdict.checks == tuple(checks)


@pytest.mark.parametrize("status", [FAIL, INCONCLUSIVE])
def test_conclude_covers_accuracy_and_every_required_target(status):
    assert conclude([accuracy(status)], ["a"]).status is status
    checks = [accuracy(PASS), accuracy(PASS, "b"), answer(status, "b")]
    assert conclude(checks, ["a", "b"]).status is status


def test_conclude_leaves_targets_that_are_not_required_out_but_keeps_their_checks():
    checks = (accuracy(PASS), accuracy(FAIL, "b"), answer(INCONCLUSIVE, "b"))
    assert conclude(checks, ["a"]) == Verdict(PASS, checks)


def test_a_required_target_without_accuracy_is_inconclusive():
    verdict = conclude([accuracy(PASS), answer(PASS, "b")], ["a", "b"])
    assert verdict.status is INCONCLUSIVE
    added = verdict.checks[-1]
    assert (added.name, added.target, added.status, added.observed) == ("accuracy", "b", INCONCLUSIVE, None)
    assert "not judged" in added.detail
    assert len(verdict.checks) == 3
    # Once each, even where a target is named twice.
    assert len(conclude([], ["a", "a"]).checks) == 1


def test_a_fail_outweighs_a_missing_accuracy():
    verdict = conclude([answer(FAIL)], ["a"])
    assert verdict.status is FAIL
    assert len(verdict.checks) == 2


def test_accuracy_that_does_not_apply_is_not_judged():
    assert conclude([accuracy(NOT_APPLICABLE)], ["a"]).status is INCONCLUSIVE


def test_no_required_target_is_an_error_not_a_pass():
    with pytest.raises(UsageError, match="no required target"):
        conclude([accuracy(PASS)], [])


def test_not_a_number_is_never_a_pass():
    for check in (
        accuracy(PASS, observed=math.nan),
        replace(accuracy(PASS), limit=math.nan),
        answer(PASS, observed=math.nan),
        answer(NOT_APPLICABLE, observed=math.nan),
    ):
        verdict = conclude([accuracy(PASS), check], ["a"])
        assert verdict.status is INCONCLUSIVE
        assert "not a number" in verdict.checks[1].detail
    assert conclude([accuracy(FAIL, observed=math.nan)], ["a"]).status is FAIL


def test_conclude_takes_any_iterable():
    assert conclude(iter([accuracy(PASS)]), iter(["a"])).status is PASS
