"""The figure of any metric and what is lost of it: along a chain as in its verdict, by the same functions."""

from __future__ import annotations

from edgekd.gate.comparison import compare
from edgekd.gate.drops import Question, TooFew, evidence, values
from edgekd.gate.pairing import Pair, pair
from edgekd.types import ACCURACY, Drop, Metric, Predictions

_ANY = 0.5  # margin and level, where only figures are asked for


def figure(predictions: Predictions, metric: Metric, query: str | None = None) -> float:
    """A metric of one model, in the metric's unit.

    Args:
        predictions: of the model.
        metric: any that the gate knows.
        query: the column of queries among those of the predictions, for a ranked metric.

    Raises:
        DataError: labels or scores that the metric has no meaning for, or a column that is not there.
        UsageError: a ranked metric without queries.
    """
    return values(Pair(predictions, predictions), Question(metric, _ANY, _ANY, query=query))[0]


def drop_of(
    teacher: Predictions,
    candidate: Predictions,
    metric: Metric,
    alpha: float,
    margin: float | None = None,
    query: str | None = None,
    cluster: str | None = None,
) -> Drop:
    """What is lost of a metric, with its interval at level 1 - 2 alpha.

    Args:
        teacher: the baseline, with the columns of the samples.
        candidate: on the same samples in any order.
        metric: any that the gate knows.
        alpha: one-sided level of the interval's ends.
        margin: written into the drop: percentage points of a percentage, else in the metric's unit.
        query: the column of queries, for a ranked metric.
        cluster: the column of what samples come in, which are then drawn together.

    Raises:
        DataError: predictions that do not pair up, or that the metric has no meaning for.
        UsageError: a question that cannot be asked of this metric.
    """
    if metric == ACCURACY:
        return compare(teacher, candidate, margin, alpha, cluster).drop
    found, question = pair(teacher, candidate), Question(metric, _ANY, alpha, query=query, cluster=cluster)
    before, after = values(found, question)
    interval = None
    try:
        low, high = evidence(found, question).interval
        scale = 100 if metric.unit == "percent" else 1
        interval = (scale * low, scale * high)
    except TooFew:  # no method tells
        pass
    lost = before - after if metric.direction == "higher" else after - before
    return Drop(metric, before, after, lost, interval, margin)
