"""Drops of every metric, whole and in slices, against recomputation and simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, ndcg_score, roc_auc_score

from edgekd import gate
from edgekd.errors import DataError, UsageError
from edgekd.gate import slices
from edgekd.gate.drops import Question, TooFew, evidence, values
from edgekd.gate.evidence import by_counts, by_counts_each
from edgekd.gate.pairing import pair
from edgekd.gate.statistics import inferior, non_inferior, tango_interval
from edgekd.metric_names import metric_named
from edgekd.types import Column, Predictions, Status

PASS, FAIL, INCONCLUSIVE = Status.PASS, Status.FAIL, Status.INCONCLUSIVE


def column(texts):
    names, codes = np.unique(texts, return_inverse=True)
    return Column(codes.astype(np.int64), tuple(map(str, names)))


def both(teacher, candidate, labels, **columns):
    labels = np.asarray(labels)
    ids = np.array([f"s{i}" for i in range(len(labels))])
    of = {name: column(texts) for name, texts in columns.items()}
    return pair(*(Predictions(ids, labels, np.asarray(s, np.float32), of) for s in (teacher, candidate)))


def answers(said, classes):
    return np.eye(classes)[said]


def classifiers(size=2000, classes=4, lost=0.03, won=0.02, seed=0, **columns):
    """A teacher that is right on 90%, and a candidate that differs from it as asked."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size)
    wrong = (labels + rng.integers(1, classes, size)) % classes
    right = rng.random(size) < 0.9
    draw = rng.random(size)
    still = np.where(right, draw >= lost / 0.9, draw < won / 0.1)
    said = [np.where(r, labels, wrong) for r in (right, still)]
    return both(answers(said[0], classes), answers(said[1], classes), labels, **columns)


def asked(name, margin, **more):
    return Question(metric_named(name), margin, 0.05, **more)


def test_shares_are_judged_by_counts():
    found = classifiers()
    teacher, candidate = found.teacher.correct, found.candidate.correct
    b, c = int((teacher & ~candidate).sum()), int((~teacher & candidate).sum())
    assert evidence(found, asked("accuracy", 0.01)) == by_counts(b, c, 2000, 0.01, 0.05)
    assert values(found, asked("accuracy", 0.01)) == (
        pytest.approx(100 * teacher.mean()),
        pytest.approx(100 * candidate.mean()),
    )


def test_many_tables_at_once_are_each_what_they_are_alone():
    rng = np.random.default_rng(0)
    n = rng.integers(50, 5000, 60)
    b, c = rng.binomial(n, 0.03), rng.binomial(n, 0.02)
    for alpha_fail in (None, 0.001):
        for i, found in enumerate(by_counts_each(b, c, n, 0.01, 0.05, alpha_fail)):
            table = int(b[i]), int(c[i]), int(n[i])
            assert found.interval == pytest.approx(tango_interval(*table, 0.9), abs=1e-12)
            passes = bool(non_inferior(*table, 0.01, 0.05))
            # A slice fails by its bound alone.
            low, _ = tango_interval(*table, 1 - 2 * (alpha_fail or 0.05))
            fails = low >= 0.01 if alpha_fail else bool(inferior(*table, 0.01, 0.05))
            assert found.status is (PASS if passes else FAIL if fails else INCONCLUSIVE)


def test_a_clustered_bootstrap_of_clusters_of_one_is_the_plain_one():
    """And as Tango's interval, which knows no resampling."""
    found = classifiers(user=[f"u{i}" for i in range(2000)])
    alone = evidence(found, asked("accuracy", 0.01, cluster="user"))
    counted = evidence(found, asked("accuracy", 0.01))
    assert alone.drop == pytest.approx(counted.drop, abs=1e-12)
    assert alone.interval == pytest.approx(counted.interval, abs=0.0006)
    assert alone.units == 2000


def test_samples_of_one_cluster_are_drawn_together():
    """Each of 100 users is the same sample 20 times: the error is that of 100 samples."""
    rng = np.random.default_rng(0)
    lost = np.repeat(rng.random(100) < 0.1, 20)
    labels = np.zeros(2000, int)
    found = both(
        answers(labels, 2),
        answers(lost.astype(int), 2),
        labels,
        user=np.repeat(np.arange(100).astype(str), 20),
    )
    shown = evidence(found, asked("accuracy", 0.2, cluster="user"))
    few = both(answers(labels[:100], 2), answers(lost[::20].astype(int), 2), labels[:100])
    expected = evidence(few, asked("accuracy", 0.2, cluster=None))
    assert shown.units == 100 and shown.drop == expected.drop
    assert shown.interval == pytest.approx(expected.interval, abs=0.012)
    plain = evidence(found, asked("accuracy", 0.2)).interval
    assert plain[1] - plain[0] < 0.3 * (shown.interval[1] - shown.interval[0])


def scored(size=3000, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size)
    teacher = labels + rng.normal(0, 1, size)
    return teacher[:, None], (teacher + rng.normal(0, noise, size))[:, None], labels


@pytest.mark.parametrize("name", ["f1", "f1_macro", "auc", "rmse"])
def test_drops_are_differences_of_the_metric(name):
    teacher, candidate, labels = scored()
    if name.startswith("f1"):
        teacher, candidate = (answers((s[:, 0] > 0.5).astype(int), 2) for s in (teacher, candidate))
    of = {
        "f1": lambda s: f1_score(labels, s.argmax(1)),
        "f1_macro": lambda s: f1_score(labels, s.argmax(1), average="macro"),
        "auc": lambda s: roc_auc_score(labels, s[:, 0]),
        "rmse": lambda s: -np.sqrt(np.mean((s[:, 0].astype(np.float32) - labels) ** 2)),
    }[name]
    found = both(teacher, candidate, labels)
    shown = evidence(found, asked(name, 0.1))
    assert shown.drop == pytest.approx(of(teacher) - of(candidate), abs=1e-6)
    assert [abs(v) for v in values(found, asked(name, 0.1))] == pytest.approx(
        [abs(of(teacher)), abs(of(candidate))], abs=1e-6
    )
    assert shown.interval[0] < shown.drop < shown.interval[1]
    if name in ("f1", "rmse"):
        expected = stats.bootstrap(
            (np.arange(len(labels)),),
            lambda i: _resampled(name, labels[i], teacher[i], candidate[i]),
            n_resamples=1500,
            confidence_level=0.9,
            method="BCa",
            vectorized=False,
            rng=np.random.default_rng(3),
        ).confidence_interval
        width = expected.high - expected.low
        assert shown.interval == pytest.approx(tuple(expected), abs=0.12 * width)


def _resampled(name, labels, teacher, candidate):
    if name == "rmse":
        return np.sqrt(np.mean((candidate[:, 0] - labels) ** 2)) - np.sqrt(
            np.mean((teacher[:, 0] - labels) ** 2)
        )
    tp, said = (
        (labels & s.argmax(1) for s in (teacher, candidate)),
        [s.argmax(1) for s in (teacher, candidate)],
    )
    first, second = (2 * t.sum() / (s.sum() + labels.sum()) for t, s in zip(tp, said, strict=True))
    return first - second


def test_relative_margins_are_of_the_teachers_value():
    teacher, candidate, labels = scored()
    found = both(teacher, candidate, labels)
    absolute, relative = (evidence(found, asked("rmse", 0.1, relative=r)) for r in (False, True))
    assert relative.drop == pytest.approx(absolute.drop / values(found, asked("rmse", 0.1))[0], rel=1e-9)
    shares = classifiers()
    whole = evidence(shares, asked("accuracy", 0.02, relative=True))
    first, second = values(shares, asked("accuracy", 0.02))
    assert whole.drop == pytest.approx(1 - second / first, rel=1e-9)


def ranked(queries=300, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    query = np.repeat(np.arange(queries), 8)
    relevance = rng.integers(0, 3, len(query)).astype(float)
    teacher = relevance + rng.normal(0, 1, len(query))
    candidate = teacher + rng.normal(0, noise, len(query))
    return query, relevance, teacher[:, None], candidate[:, None]


def test_rankings_are_resampled_by_query():
    query, relevance, teacher, candidate = ranked()
    relevance[query == 7] = 0  # says nothing
    users = np.char.add("u", (query // 3).astype(str))
    found = both(teacher, candidate, relevance, q=query.astype(str), user=users)
    shown = evidence(found, asked("ndcg@5", 0.05, query="q"))
    known = [q for q in range(300) if relevance[query == q].any()]
    assert 7 not in known and shown.units == len(known)
    each = [
        [
            ndcg_score([2 ** relevance[query == q] - 1], [s[query == q, 0].astype(np.float32)], k=5)
            for q in known
        ]
        for s in (teacher, candidate)
    ]
    assert shown.drop == pytest.approx(np.mean(each[0]) - np.mean(each[1]), abs=1e-9)
    spread = np.std(np.subtract(*each)) / np.sqrt(len(known))
    assert (shown.interval[1] - shown.interval[0]) / 2 == pytest.approx(1.645 * spread, rel=0.1)
    assert evidence(found, asked("ndcg@5", 0.05, query="q", cluster="user")).units == 100
    hit = evidence(found, asked("hit@1", 0.05, query="q"))
    assert -1 < hit.drop < 1 and values(found, asked("hit@1", 0.05, query="q"))[0] > 1  # in percent
    with pytest.raises(DataError, match="several clusters"):
        mixed = both(
            teacher, candidate, relevance, q=query.astype(str), user=np.arange(len(query)).astype(str)
        )
        evidence(mixed, asked("ndcg@5", 0.05, query="q", cluster="user"))


def test_what_cannot_be_asked():
    teacher, candidate, labels = scored(500)
    found = both(teacher, candidate, labels)
    for more in ({"cluster": "user"}, {"relative": True}):
        with pytest.raises(UsageError, match="AUC with"):
            evidence(found, asked("auc", 0.01, **more))
    with pytest.raises(DataError, match=r"no column 'usr' .*did you mean 'user'"):
        evidence(classifiers(user=["a"] * 2000), asked("accuracy", 0.01, cluster="usr"))
    with pytest.raises(DataError, match="with fewer than 200 of either"):
        evidence(both(teacher[:300], candidate[:300], labels[:300]), asked("auc", 0.01))
    with pytest.raises(DataError, match="not of two classes"):
        evidence(both(teacher, candidate, labels * 0), asked("auc", 0.01))
    with pytest.raises(DataError, match="no query has anything relevant"):
        evidence(both(teacher, candidate, labels * 0.0, q=["a"] * 500), asked("hit@3", 0.01, query="q"))


def test_models_that_say_other_classes_are_compared_over_all():
    """The teacher is always right; the candidate says four classes that it never says."""
    labels = np.arange(2000) % 2
    said = np.where(np.arange(2000) < 1000, np.arange(2000) % 6, labels)
    found = pair(
        *(
            Predictions(np.arange(2000).astype(str), labels, np.zeros((2000, 0)), {}, one.astype(np.int64))
            for one in (labels, said)
        )
    )
    expected = 1 - f1_score(labels, said, average="macro")
    shown = evidence(found, asked("f1_macro", 0.1))
    assert shown.drop == pytest.approx(expected, rel=1e-9) and shown.status is FAIL


@pytest.mark.parametrize("name", ["f1_macro", "rmse", "ndcg@3"])
def test_few_units_show_nothing(name):
    size = 199
    if name == "f1_macro":
        labels = np.arange(size) % 2
        found = both(answers(labels, 2), answers(labels, 2), labels)
        question = asked(name, 0.5)
    elif name == "rmse":
        found = both(np.zeros((size, 1)), np.zeros((size, 1)), np.arange(size).astype(float))
        question = asked(name, 0.5)
    else:
        query, relevance, teacher, candidate = ranked(queries=size)
        found = both(teacher, candidate, relevance + 1, q=query.astype(str))
        question = asked(name, 0.5, query="q")
    with pytest.raises(TooFew, match=r"199 .* with fewer than 200"):
        evidence(found, question)


def test_few_clusters_show_nothing():
    found = classifiers(user=np.repeat(np.arange(29).astype(str), 100)[:2000])
    with pytest.raises(TooFew, match="20 clusters: with fewer than 30"):
        evidence(found, asked("accuracy", 0.5, cluster="user"))


def test_what_nothing_was_lost_of_passes_only_where_a_loss_would_have_been_seen():
    """300 samples without a flip: of a share Tango's bound is 0.9%, by the rule of three 1%."""
    labels = np.arange(300) % 2
    found = both(answers(labels, 2), answers(labels, 2), labels)
    for name, more in (("f1_macro", {}), ("accuracy", {"relative": True})):
        verdicts = [evidence(found, asked(name, margin, **more)).status for margin in (0.001, 0.008, 0.012)]
        assert verdicts == [INCONCLUSIVE, INCONCLUSIVE, PASS]
        # By hand: z^2 (1 - m) / m of Tango's test without flips, or log(alpha) / log(1 - m).
        needed = {"f1_macro": 2994.2, "accuracy": 2702.8}[name]
        assert evidence(found, asked(name, 0.001, **more)).needed_lossless == pytest.approx(needed, abs=0.1)


def test_at_the_margin_few_bad_models_pass():
    """A true drop of the margin, on independent samples and in clusters; alpha is 5%."""
    rng, passed = np.random.default_rng(0), {"plain": 0, "clusters": 0, "rare": 0}
    for _ in range(120):
        labels = np.zeros(400, int)
        for name, lost in (
            ("plain", rng.random(400) < 0.1),
            ("clusters", np.repeat(rng.random(100) < 0.1, 4)),
            ("rare", rng.random(400) < 0.01),
        ):
            users = np.repeat(np.arange(100), 4).astype(str)
            found = both(answers(labels, 2), answers(lost.astype(int), 2), labels, user=users)
            more = {"cluster": "user"} if name == "clusters" else {"relative": True}
            margin = 0.01 if name == "rare" else 0.1
            passed[name] += evidence(found, asked("accuracy", margin, **more)).status is PASS
    # Of 120 at 5% more than 12 pass once in a hundred times.
    assert max(passed.values()) <= 12, passed


def test_large_aucs_go_by_delong():
    teacher, candidate, labels = scored(100_200)
    large = evidence(both(teacher, candidate, labels), asked("auc", 0.05))
    part = evidence(both(teacher[:2000], candidate[:2000], labels[:2000]), asked("auc", 0.05))
    widths = [e.interval[1] - e.interval[0] for e in (large, part)]
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(100_200 / 2000), rel=0.15)
    assert (large.interval[0] + large.interval[1]) / 2 == pytest.approx(large.drop, abs=1e-12)


# ----------------------------------------------------------------------------- slices


def ask(margin=0.03, min_n=100, mandatory=True):
    return slices.Asked(margin, min_n, mandatory)


def test_slices_are_what_they_are_alone():
    rng = np.random.default_rng(1)
    found = classifiers(size=4000, device=rng.choice(["phone", "desk", "tv"], 4000, p=[0.5, 0.48, 0.02]))
    question = asked("accuracy", 0.01)
    for of in (question, asked("f1_macro", 0.01)):
        shown = {s.value: s for s in slices.judge(found, of, {"device": ask()}, {"device": ("tv", "watch")})}
        assert list(shown) == ["desk", "phone", "tv", "watch"]
        for value in ("desk", "phone"):
            mask = found.column("device").texts == value
            alone = evidence(found.where(mask), Question(of.metric, 0.03, 0.05, alpha_fail=0.05 / 4))
            assert shown[value].evidence == alone
            assert (shown[value].status, shown[value].n) == (alone.status, mask.sum())
        reason = {"accuracy": "fewer than 100 samples"}.get(
            of.metric.name, f"{shown['tv'].n} samples: with fewer"
        )
        assert shown["tv"].status is INCONCLUSIVE and shown["tv"].reason.startswith(reason)
        assert (shown["watch"].status, shown["watch"].reason, shown["watch"].n) == (
            INCONCLUSIVE,
            "no samples",
            0,
        )


def test_one_bad_class_fails_while_the_whole_passes():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 1000)
    lost = (labels == 3) & (rng.random(10_000) < 0.06)
    found = both(
        answers(labels, 10), answers(np.where(lost, 4, labels), 10), labels, label=labels.astype(str)
    )
    assert evidence(found, asked("accuracy", 0.01)).status is PASS
    shown = slices.judge(found, asked("accuracy", 0.01), {"label": ask(0.03)}, {})
    assert [s.value for s in shown if s.status is FAIL] == ["3"]
    assert sum(s.status is PASS for s in shown) == 9


def test_a_slice_fails_only_by_its_corrected_bound():
    """Two of K slices at a lower bound between alpha and alpha / K."""
    labels = np.zeros(2000, int)
    said = np.zeros(2000, int)
    said[:42] = 1  # 42 of 1,000 in the first slice, margin 3 pp: z = 2.2
    found = both(answers(labels, 2), answers(said, 2), labels, part=np.repeat(["a", "b"], 1000))
    first = by_counts(42, 0, 1000, 0.03, 0.05)
    assert first.status is FAIL and 0.0125 < first.p_inferior < 0.05
    shown = slices.judge(found, asked("accuracy", 0.01), {"part": ask(0.03)}, {})
    assert shown[0].status is FAIL, "one of two: level 0.025"
    many = both(
        answers(labels, 2),
        answers(said, 2),
        labels,
        part=np.repeat(["a", "b", "c", "d", "e"], [1000, *[250] * 4]),
    )
    shown = slices.judge(many, asked("accuracy", 0.01), {"part": ask(0.03)}, {})
    assert shown[0].status is INCONCLUSIVE, "one of five: level 0.01"


def test_other_slices_raise_alarms_together():
    labels = np.zeros(5000, int)
    said = np.zeros(5000, int)
    said[:60] = 1
    part = np.repeat([f"p{i}" for i in range(5)], 1000)
    found = both(answers(labels, 2), answers(said, 2), labels, part=part)
    shown = slices.judge(found, asked("accuracy", 0.01), {"part": ask(0.03, mandatory=False)}, {})
    assert [s.alarm for s in shown] == [True, False, False, False, False]
    assert {s.status for s in shown} == {Status.NOT_APPLICABLE}


def test_holm_by_hand():
    assert slices.holm([0.01, 0.04, 0.03, 0.005], 0.05).tolist() == [True, False, False, True]
    assert slices.holm([0.04, 0.05], 0.05).tolist() == [False, False]
    assert slices.holm([0.02, 0.05], 0.05).tolist() == [True, True]
    assert slices.holm([], 0.05).tolist() == []


def test_power_is_that_of_the_design():
    """Ten classes of 1,000 at 6% discordance: 3 pp passes a lossless artifact 85% of the time, 4 pp 99.6%."""
    joint = [slices.power(1000, m, 0.06, 0.05) ** 10 for m in (0.01, 0.03, 0.04)]
    assert joint == pytest.approx([0.0, 0.85, 0.996], abs=0.005)


@pytest.mark.parametrize(("n", "margin", "psi"), [(1000, 0.03, 0.06), (5000, 0.01, 0.06), (40, 0.2, 0.5)])
def test_power_is_the_share_of_simulated_passes(n, margin, psi):
    b, c, _ = np.random.default_rng(0).multinomial(n, [psi / 2, psi / 2, 1 - psi], 100_000).T
    passes = non_inferior(b, c, np.full(len(b), n), margin, 0.05).mean()
    assert slices.power(n, margin, psi, 0.05) == pytest.approx(passes, abs=0.006)


def test_power_where_nothing_is_discordant():
    assert slices.power(1000, 0.01, 0.0, 0.05) == pytest.approx(1.0)
    assert slices.power(100, 0.01, 0.0, 0.05) == 0.0, "too few to show even that"


def test_of_clusters_without_a_flip_the_interval_is_no_point():
    """A bootstrap alone draws zeros; Tango's interval for (b, c, n) = (0, 0, 500) is in the specification."""
    labels = np.arange(500) % 2
    scores = np.eye(2, dtype=np.float32)[labels]
    ids = np.array([f"s{i}" for i in range(500)])
    users = {"user": Column(np.arange(500) // 5, tuple(f"u{i}" for i in range(100)))}
    teacher, file = Predictions(ids, labels, scores, users), Predictions(ids, labels, scores)
    found = gate.compare(teacher, file, None, 0.05, "user").drop
    assert found.interval == pytest.approx((-0.538196, 0.538196), abs=1e-5)
    few = {"user": Column(np.arange(500) // 20, tuple(f"u{i}" for i in range(25)))}
    teacher = Predictions(ids, labels, scores, few)
    assert gate.compare(teacher, file, None, 0.05, "user").drop.interval is None
