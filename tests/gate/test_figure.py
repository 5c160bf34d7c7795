"""Figures of any metric along a chain, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score

from edgekd import gate
from edgekd.columns import column_of
from edgekd.config import GateConfig
from edgekd.errors import DataError, UsageError
from edgekd.gate.auc import delong
from edgekd.metric_names import metric_named
from edgekd.metric_values import check_metric, metric_values
from edgekd.types import ACCURACY, Predictions

AUC, NDCG, HIT = (metric_named(name) for name in ("auc", "ndcg@5", "hit@1"))


def two_classes(size=1200, noise=1.0, seed=0, columns=()):
    """Logits of two classes whose difference tells the label, less so with more noise."""
    rng = np.random.default_rng(7)
    labels = (rng.random(size) < 0.3).astype(np.int64)
    apart = labels + noise * np.random.default_rng(seed).normal(size=size)
    level = rng.normal(size=size)
    scores = np.stack([level, level + apart], axis=1)
    ids = np.array([f"s{i}" for i in range(size)])
    return Predictions(ids, labels, scores, dict(columns))


def test_auc_of_two_classes_is_scikit_learns():
    found = two_classes()
    expected = roc_auc_score(found.labels, found.scores[:, 1] - found.scores[:, 0])
    assert gate.figure(found, AUC) == pytest.approx(expected, abs=1e-12)


def test_auc_lost_and_its_interval():
    teacher, file = two_classes(), two_classes(noise=1.1, seed=1)
    found = gate.drop_of(teacher, file, AUC, 0.05, margin=0.03)
    apart = [p.scores[:, 1] - p.scores[:, 0] for p in (teacher, file)]
    before, after = (roc_auc_score(teacher.labels, x) for x in apart)
    assert (found.teacher, found.value, found.drop) == pytest.approx(
        (before, after, before - after), abs=1e-12
    )
    assert found.margin == 0.03
    # DeLong's interval is another way to the same ends.
    both = np.stack(apart, axis=1)
    normal = delong(both[teacher.labels == 1], both[teacher.labels == 0])
    ends = [before - after + z * normal.standard_error for z in (-1.6449, 1.6449)]
    assert found.interval == pytest.approx(ends, abs=0.1 * normal.standard_error)


def test_of_too_few_samples_there_is_a_drop_and_no_interval():
    teacher, file = two_classes(300), two_classes(300, seed=1)  # some 90 of class 1
    found = gate.drop_of(teacher, file, AUC, 0.05)
    assert found.interval is None and found.drop == pytest.approx(found.teacher - found.value)


def test_rankings_by_two_classes_are_those_by_their_difference():
    """The label is the relevance; a query's rows are ranked by how far class 1 is ahead."""
    query = column_of([f"q{i // 6}" for i in range(1200)])
    found = two_classes(columns={"user": query})
    apart = (found.scores[:, 1] - found.scores[:, 0]).reshape(200, 6)
    relevance = found.labels.reshape(200, 6)
    known = relevance.any(axis=1)  # queries without anything relevant say nothing
    expected = ndcg_score(relevance[known], apart[known], k=5)
    assert gate.figure(found, NDCG, "user") == pytest.approx(expected, abs=1e-12)
    first = relevance[known][np.arange(known.sum()), apart[known].argmax(axis=1)]
    assert gate.figure(found, HIT, "user") == pytest.approx(100 * first.mean())
    one_column = Predictions(found.sample_ids, found.labels, apart.reshape(-1, 1), found.columns)
    assert gate.figure(one_column, NDCG, "user") == pytest.approx(expected, abs=1e-12)


def test_rankings_by_three_classes_are_refused():
    found = two_classes(columns={"user": column_of(["a"] * 1200)})
    three = Predictions(found.sample_ids, found.labels, np.hstack([found.scores] * 2)[:, :3], found.columns)
    with pytest.raises(DataError, match="two classes, not by 3"):
        gate.figure(three, NDCG, "user")


def test_accuracy_stands_beside_what_is_judged_with_margins_where_they_belong():
    teacher, file = two_classes(), two_classes(noise=1.1, seed=1)
    policy = GateConfig(metric="auc", max_drop=0.02)
    first, second = metric_values(file, teacher, policy, policy)
    right = [100 * (p.scores.argmax(axis=1) == p.labels).mean() for p in (teacher, file)]
    assert (first.name, first.unit, first.margin) == ("auc", "", 0.02)
    assert (second.name, second.unit, second.margin) == ("accuracy", "percent", None)
    assert (second.value, second.drop) == pytest.approx((right[1], right[0] - right[1]))
    (alone,) = metric_values(teacher, None, GateConfig(max_drop_pp=1.0))
    assert (alone.name, alone.drop) == ("accuracy", None) and alone.value == pytest.approx(right[0])


def test_of_accuracy_the_drop_is_that_of_the_comparison():
    teacher, file = two_classes(), two_classes(noise=1.1, seed=1)
    assert gate.drop_of(teacher, file, ACCURACY, 0.05) == gate.compare(teacher, file, None, 0.05).drop


@pytest.mark.parametrize(
    ("policy", "labels", "classes", "said"),
    [
        ({"metric": "auc", "max_drop": 0.01}, [0, 1, 2, 3, 4], 5, "the task has 5"),
        ({"metric": "auc", "max_drop": 0.01}, [0, 0, 0], 2, "the split 'val' has no sample of class 'c1'"),
        ({"metric": "f1", "max_drop": 0.01}, [0, 1, 2], 3, "the task has 3"),
        ({"metric": "ndcg@5", "max_drop": 0.01, "query": "q"}, [0, 1, 2], 3, "the task has 3"),
        ({"metric": "hit@1", "max_drop_pp": 1.0, "query": "q"}, [0, 0], 2, "no sample of the split 'val'"),
        ({"metric": "top_3", "max_drop_pp": 1.0}, [0, 1, 2], 3, "every file is right"),
        ({"metric": "rmse", "max_drop": 0.01}, [0, 1], 2, "networks tell classes"),
    ],
)
def test_a_metric_that_a_chain_cannot_be_told_by_is_refused(policy, labels, classes, said):
    names = [f"c{i}" for i in range(classes)]
    with pytest.raises(UsageError, match=said):
        check_metric(GateConfig(**policy), np.array(labels), names, "val")


def test_a_metric_that_it_can_be_told_by_is_not():
    for policy in ({"metric": "auc", "max_drop": 0.01}, {"metric": "top_1", "max_drop_pp": 1.0}):
        check_metric(GateConfig(**policy), np.array([0, 1]), ["no", "yes"], "val")
