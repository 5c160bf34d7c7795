"""Metrics of sums and of ranked lists against scikit-learn and against enumeration."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import f1_score, ndcg_score, roc_auc_score, root_mean_squared_error, top_k_accuracy_score

from edgekd.errors import DataError, UsageError
from edgekd.gate import auc as roc
from edgekd.gate import metrics, ranking
from edgekd.metric_names import metric_named
from edgekd.types import Predictions


def predictions(scores, labels):
    labels = np.asarray(labels)
    return Predictions(np.array([str(i) for i in range(len(labels))]), labels, np.asarray(scores, np.float32))


def classes(num=5, size=400, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num, size)
    scores = rng.normal(size=(size, num))
    scores[np.arange(size), labels] += 1
    return predictions(scores, labels)


def figure(name, given, query=None):
    classes = metrics.num_classes(given) if name.startswith("f1") else 0
    found = metrics.sums(metric_named(name), given, query, classes)
    return float(found.value(found.adds(found.seen).sum(axis=0)))


def test_f1_is_that_of_scikit_learn():
    many, two = classes(), classes(num=2)
    said = many.scores.argmax(axis=1)
    assert figure("f1_macro", many) == pytest.approx(f1_score(many.labels, said, average="macro"), rel=1e-12)
    assert figure("f1", two) == pytest.approx(f1_score(two.labels, two.scores.argmax(axis=1)), rel=1e-12)


def test_a_class_that_is_neither_true_nor_said_is_in_no_mean():
    given = predictions([[3, 1, 0], [0, 2, 0], [1, 2, 0]], [0, 1, 0])
    assert figure("f1_macro", given) == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_the_others_are_those_of_scikit_learn():
    given = classes()
    assert figure("top_2", given) == pytest.approx(
        100 * top_k_accuracy_score(given.labels, given.scores, k=2), rel=1e-12
    )
    assert figure("accuracy", given) == pytest.approx(100 * np.mean(given.scores.argmax(1) == given.labels))
    rng = np.random.default_rng(0)
    said, truth = rng.normal(size=50).astype(np.float32), rng.normal(size=50)
    assert figure("rmse", predictions(said[:, None], truth)) == pytest.approx(
        root_mean_squared_error(truth, said), rel=1e-9
    )
    two = classes(num=2)
    score = metrics.binary_scores(two)
    assert roc.auc(score[two.labels == 1], score[two.labels == 0]) == pytest.approx(
        roc_auc_score(two.labels, score), rel=1e-12
    )
    single = predictions(score[:, None], two.labels)
    assert np.allclose(metrics.binary_scores(single), score)


def test_of_equal_scores_the_first_class_is_the_answer():
    given = predictions([[1, 1, 0], [1, 1, 0], [0, 2, 2]], [0, 1, 2])
    assert metrics.right(metric_named("top_1"), given).tolist() == given.correct.tolist()
    assert metrics.right(metric_named("top_1"), given).tolist() == [True, False, False]
    assert metrics.right(metric_named("top_2"), given).tolist() == [True, True, True]


def lists(seed=0, queries=30):
    """Queries of several sizes in mixed order, with many equal scores."""
    rng = np.random.default_rng(seed)
    query = rng.permutation(np.repeat(np.arange(queries), rng.integers(2, 7, queries)))
    return query, rng.integers(0, 4, len(query)).astype(float), rng.integers(0, 4, len(query)).astype(float)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_ndcg_is_that_of_scikit_learn_equal_scores_too(k):
    query, relevance, scores = lists()
    found = ranking.ndcg(query, relevance, scores, k)
    for q in range(query.max() + 1):
        of = query == q
        if relevance[of].any():
            expected = ndcg_score([2 ** relevance[of] - 1], [scores[of]], k=k)
            assert found[q] == pytest.approx(expected, rel=1e-12)
        else:
            assert np.isnan(found[q])


@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_hits_are_the_mean_over_all_orders_of_equals(k):
    query, relevance, scores = lists()
    found = ranking.hits(query, relevance, scores, k)
    for q in range(query.max() + 1):
        of = np.flatnonzero(query == q)
        if not relevance[of].any() or len(of) <= k:  # all of a short list is among the first
            assert np.isnan(found[q])
            continue
        orders = [o for o in itertools.permutations(of) if (np.diff(scores[list(o)]) <= 0).all()]
        hit = [bool((relevance[list(o)[:k]] > 0).any()) for o in orders]
        assert found[q] == pytest.approx(np.mean(hit), abs=1e-12)


def things(seed, count=70, width=5):
    """Vectors of few values, so that many are equally near, and which thing each is; some have no like."""
    rng = np.random.default_rng(seed)
    return rng.integers(-1, 2, (count, width)).astype(float), rng.integers(0, count // 3, count)


@pytest.mark.parametrize("k", [1, 4, 100])
def test_nearest_is_the_ranking_of_all_others_by_cosine(k):
    vectors, same = things(3)
    lengths = np.linalg.norm(vectors, axis=1)
    found = ranking.nearest("ndcg", vectors, same, k)
    for i in range(len(vectors)):
        others = np.delete(np.arange(len(vectors)), i)
        relevance = same[others] == same[i]
        if not relevance.any():
            assert np.isnan(found[i])
            continue
        cosines = [vectors[i] @ vectors[j] / max(lengths[i] * lengths[j], 1e-9) for j in others]
        expected = ndcg_score([relevance], [np.round(cosines, 6)], k=k)
        assert found[i] == pytest.approx(expected, rel=1e-9)


def test_nearest_hits_by_hand():
    """A is next to B, which is its like; C is nearest to B and to A, then to its like D; E has none."""
    angles = np.radians([0, 1, 40, 90, 180])
    vectors = np.c_[np.cos(angles), np.sin(angles)] * np.array([[1], [5], [0.1], [2], [3]])
    same = np.array([4, 4, 7, 7, 9])
    np.testing.assert_array_equal(ranking.nearest("hit", vectors, same, 1), [1, 1, 0, 1, np.nan])
    np.testing.assert_array_equal(ranking.nearest("hit", vectors, same, 2), [1, 1, 0, 1, np.nan])
    np.testing.assert_array_equal(ranking.nearest("hit", vectors, same, 3), [1, 1, 1, 1, np.nan])
    # of four others all are among the first
    assert np.isnan(ranking.nearest("hit", vectors, same, 4)).all()
    # three equal ones: which of the others stands first is chance
    level = ranking.nearest("hit", np.ones((3, 2)), np.array([0, 0, 1]), 1)
    np.testing.assert_allclose(level, [0.5, 0.5, np.nan])


def test_pieces_of_samples_are_all_samples(monkeypatch):
    vectors, same = things(8)
    whole = {kind: ranking.nearest(kind, vectors, same, 3) for kind in ("ndcg", "hit")}
    monkeypatch.setattr(ranking, "_PIECE", 7)
    for kind, expected in whole.items():
        np.testing.assert_array_equal(ranking.nearest(kind, vectors, same, 3), expected)
        assert 0.01 < np.nanmean(expected) < 0.99


def test_the_order_of_rows_changes_nothing():
    query, relevance, scores = lists()
    order = np.random.default_rng(5).permutation(len(query))
    for figure_of in (ranking.ndcg, ranking.hits):
        np.testing.assert_allclose(
            figure_of(query, relevance, scores, 3),
            figure_of(query[order], relevance[order], scores[order], 3),
            rtol=1e-12,
        )


@pytest.mark.parametrize("name", ["acuracy", "top_0", "ndcg", "ndcg@0", "hit@", "top_05", "Accuracy", ""])
def test_names_that_are_none(name):
    with pytest.raises(UsageError, match="no metric is called"):
        metric_named(name)


def test_which_way_is_better_and_in_what():
    found = {n: metric_named(n) for n in ("rmse", "auc", "hit@5", "top_3", "ndcg@10", "accuracy")}
    assert [m.direction for m in found.values()] == ["lower", *["higher"] * 5]
    assert {n for n, m in found.items() if m.unit == "percent"} == {"hit@5", "top_3", "accuracy"}
    assert {n for n, m in found.items() if metrics.is_share(m)} == {"top_3", "accuracy"}


@pytest.mark.parametrize(
    ("name", "scores", "labels", "said"),
    [
        ("f1", np.zeros((4, 3)), [0, 1, 2, 0], "of two, here are 3"),
        ("rmse", np.zeros((4, 2)), [0, 1, 0, 1], "one value"),
        ("ndcg@5", np.zeros((4, 3)), [0, 1, 0, 1], "one score"),
        ("ndcg@5", np.zeros((4, 1)), [0, -1, 0, 1], "relevances from -1 to 1"),
        ("ndcg@5", np.zeros((4, 1)), [0, 2000, 0, 1], "relevances from 0 to 2000"),
        ("f1_macro", np.zeros((4, 1)), [0, 1, 0, 1], "one score tells no class"),
        ("accuracy", np.zeros((4, 1)), [0, 1, 0, 1], "one score tells no class"),
    ],
)
def test_what_a_metric_has_no_meaning_for(name, scores, labels, said):
    with pytest.raises(DataError, match=said):
        figure(name, predictions(scores, labels), np.zeros(4, np.int64))


def test_a_ranked_metric_needs_queries():
    with pytest.raises(UsageError, match="column of the query"):
        figure("hit@5", predictions(np.zeros((4, 1)), [0, 1, 0, 1]))


def test_auc_is_of_two_classes_and_top_k_of_more():
    with pytest.raises(DataError, match="two classes"):
        metrics.binary_scores(classes())
    with pytest.raises(UsageError, match="5 classes"):
        metrics.right(metric_named("top_5"), classes())


def test_lists_of_which_the_label_is_wanted():
    """Every sample a list of four; its outputs are ranked, equal ones in the mean over their orders."""
    given = predictions([[4, 3, 2, 1], [1, 2, 3, 0], [1, 5, 5, 0], [0, 0, 0, 9]], [0, 0, 1, 2])
    every = np.arange(4)
    # places 1; 3; 1 or 2; 2 to 4 each as likely
    third = 1 / np.log2(4)
    values = [1, third, (1 + 1 / np.log2(3)) / 2, (1 / np.log2(3) + third) / 3]
    assert figure("ndcg@3", given, every) == pytest.approx(np.mean(values))
    assert figure("hit@2", given, every) == pytest.approx(100 * np.mean([1, 0, 1, 1 / 3]))
    # scikit-learn's, one list at a time, where nothing is equal
    several = classes()
    wanted = np.eye(5)[several.labels]
    assert figure("ndcg@2", several, np.arange(400)) == pytest.approx(
        ndcg_score(wanted, several.scores, k=2), rel=1e-6
    )
