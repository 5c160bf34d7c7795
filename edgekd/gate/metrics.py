"""The metrics that a drop is judged in, by name: `accuracy`, `top_5`, `f1`, `f1_macro`, `rmse`, `auc`,
`ndcg@10`, `hit@10`, `nearest_ndcg@10`, `nearest_hit@1`.

Accuracy and top-k are shares of samples, judged by Tango's test. The others are bootstrapped: each says what
a unit (a sample, or a query) adds to sums, and what the figure of those sums is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import DataError, UsageError
from edgekd.gate import ranking
from edgekd.gate.bootstrap import Floats
from edgekd.types import ACCURACY, Metric, Predictions

# Beyond it 2^relevance loses what other items of the list are worth.
MOST_RELEVANT = 50


@dataclass(frozen=True)
class Sums:
    """A metric as a function of sums over units.

    Attributes:
        seen: (U, d), all that the sums know of a unit: units with equal rows add the same.
        adds: rows (G, d) of `seen` to what they add (G, D).
        value: sums (..., D) to the figure (...).
    """

    seen: Floats
    adds: Callable[[Floats], Floats]
    value: Callable[[Floats], Floats]


def is_share(metric: Metric) -> bool:
    """Whether it is a share of samples that are right, each one or not."""
    return metric.name == "accuracy" or metric.name.startswith("top_")


def is_ranked(metric: Metric) -> bool:
    """Whether its units are queries: by a column that says which rows are ranked, or which are alike."""
    return "@" in metric.name


def is_nearest(metric: Metric) -> bool:
    """Whether every sample looks for its like among all others, by vectors."""
    return metric.name.startswith("nearest_")


def right(metric: Metric, predictions: Predictions) -> NDArray[np.bool_]:
    """Of a share: whether each sample is right. Of equal scores the first class is the answer."""
    if metric is ACCURACY:
        return predictions.correct
    k, scores = int(metric.name.removeprefix("top_")), predictions.scores
    if predictions.said is not None:
        raise DataError(f"{metric.name} needs scores, the predictions are of classes alone")
    if k >= scores.shape[1]:
        raise UsageError(f"{metric.name}: the scores are of {scores.shape[1]} classes")
    own = np.take_along_axis(scores, predictions.labels[:, None], 1)
    earlier = np.arange(scores.shape[1]) < predictions.labels[:, None]
    return np.asarray(((scores > own) | ((scores == own) & earlier)).sum(axis=1) < k)


def num_classes(*models: Predictions) -> int:
    """Of models that classify: as many as any of them scores, says or is asked for."""
    return int(max(max(p.scores.shape[1], p.labels.max() + 1, p.answers.max() + 1) for p in models))


def sums(metric: Metric, predictions: Predictions, query: NDArray[np.int64] | None, classes: int = 0) -> Sums:
    """A metric that is bootstrapped by its sums.

    Args:
        metric: not `auc`, which is no function of sums.
        predictions: of one model.
        query: (N,), the query of each row, 0 to Q - 1, of a ranked metric; of a nearest one, equal for
            samples that are alike.
        classes: of F1, `num_classes` of all models that are compared.

    Raises:
        DataError: labels or scores that the metric has no meaning for.
    """
    if is_share(metric):
        return _mean(100 * right(metric, predictions).astype(np.float64))
    if metric.name == "rmse":
        return _rmse(predictions)
    if is_nearest(metric):
        return _nearest(metric, predictions, query)
    if is_ranked(metric):
        return _ranked(metric, predictions, query)
    return _f1(metric, predictions, classes)


def binary_scores(predictions: Predictions, what: str = "AUC") -> Floats:
    """(N,): the higher, the more likely class 1; of two classes by how much the second is ahead.

    Raises:
        DataError: the scores are not of two classes.
    """
    scores = predictions.scores
    if predictions.said is not None:
        raise DataError(f"{what} needs scores, the predictions are of classes alone")
    if scores.shape[1] == 1:
        return np.asarray(scores[:, 0], np.float64)
    if scores.shape[1] != 2:
        raise DataError(f"{what} is of two classes, the scores are of {scores.shape[1]}")
    return np.asarray(scores[:, 1].astype(np.float64) - scores[:, 0], np.float64)


def _mean(values: Floats) -> Sums:
    return Sums(values[:, None], lambda seen: np.c_[seen, np.ones(len(seen))], _ratio)


def _ratio(added: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):  # no unit, no mean: NaN
        return np.asarray(added[..., 0] / added[..., 1], np.float64)


def _rmse(predictions: Predictions) -> Sums:
    if predictions.scores.shape[1] != 1:
        raise DataError(f"RMSE is of one value a sample, not of {predictions.scores.shape[1]}")
    found = _mean((predictions.scores[:, 0].astype(np.float64) - predictions.labels) ** 2)
    return Sums(found.seen, found.adds, lambda added: np.asarray(np.sqrt(_ratio(added)), np.float64))


def _ranked(metric: Metric, predictions: Predictions, query: NDArray[np.int64] | None) -> Sums:
    if query is None:
        raise UsageError(f"{metric.name} ranks the rows of a query", hint="name the column of the query")
    kind, k = metric.name.split("@")
    relevance = predictions.labels.astype(np.float64)
    if _is_lists(predictions, query):
        count, items = predictions.scores.shape
        relevance = (np.arange(items) == predictions.labels[:, None]).astype(np.float64).reshape(-1)
        scores, query = predictions.scores.astype(np.float64).reshape(-1), np.repeat(np.arange(count), items)
    else:
        scores = _of_rows(predictions, metric)
    if (relevance < 0).any() or (relevance > MOST_RELEVANT).any():
        raise DataError(
            f"{metric.name}: relevances from {relevance.min():g} to {relevance.max():g}",
            hint=f"grades from 0 to {MOST_RELEVANT}: gains are 2^relevance - 1",
        )
    if kind == "hit":
        return _mean(100 * ranking.hits(query, relevance, scores, int(k)))
    return _mean(ranking.ndcg(query, relevance, scores, int(k)))


def _nearest(metric: Metric, predictions: Predictions, same: NDArray[np.int64] | None) -> Sums:
    if same is None:
        raise UsageError(f"{metric.name} needs to know what is alike", hint="name the column, query = ...")
    if predictions.vectors is None:
        raise DataError(f"{metric.name} needs vectors, the predictions have none")
    kind, k = metric.name.removeprefix("nearest_").split("@")
    vectors = predictions.vectors.astype(np.float64)
    if kind == "hit":
        return _mean(100 * ranking.nearest("hit", vectors, same, int(k)))
    return _mean(ranking.nearest("ndcg", vectors, same, int(k)))


def _of_rows(predictions: Predictions, metric: Metric) -> Floats:
    items = predictions.scores.shape[1]
    if items > 2:
        raise DataError(
            f"{metric.name} ranks by one score a row, or by two classes, not by {items}",
            hint="query = sample_id ranks the outputs of each row",
        )
    return binary_scores(predictions, metric.name)


def _is_lists(predictions: Predictions, query: NDArray[np.int64]) -> bool:
    """Whether each sample is a list of its own, of more than two items: its outputs are ranked."""
    alone = len(query) == int(query.max()) + 1
    return alone and predictions.said is None and predictions.scores.shape[1] > 2


def _f1(metric: Metric, predictions: Predictions, classes: int) -> Sums:
    """Sums of each class that counts: right, said, true. F1 = 2 right / (said + true)."""
    answers = predictions.answers
    if metric.name == "f1" and classes != 2:
        raise DataError(f"f1 is of class 1 of two, here are {classes}", hint="f1_macro is of any")
    counted = np.arange(1, 2) if metric.name == "f1" else np.arange(classes)

    def adds(seen: Floats) -> Floats:
        true, said = (seen[:, i, None] == counted for i in range(2))
        return np.concatenate([true & said, said, true], axis=1).astype(np.float64)

    def value(added: Floats) -> Floats:
        both, said, true = np.split(added, 3, axis=-1)
        total = said + true
        # Classes that are neither true nor said are in no mean.
        each = np.divide(2 * both, total, out=np.zeros_like(total), where=total > 0)
        known = (total > 0).sum(axis=-1)
        with np.errstate(invalid="ignore"):
            return np.asarray(each.sum(axis=-1) / np.where(known, known, np.nan), np.float64)

    return Sums(np.c_[predictions.labels, answers].astype(np.float64), adds, value)
