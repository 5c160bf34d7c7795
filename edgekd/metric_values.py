"""The metrics that a report tells of a model: what the recipe judges by first, accuracy beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekd import gate
from edgekd.config import GateConfig
from edgekd.errors import UsageError
from edgekd.report.schema import MetricValue
from edgekd.types import ACCURACY, SAMPLE, Metric, Predictions


def metrics_told(policy: GateConfig, predictions: Predictions) -> tuple[Metric, ...]:
    """What is judged, and accuracy where the scores tell classes."""
    classes = predictions.scores.shape[1] > 1
    return tuple(dict.fromkeys((policy.judged, *((ACCURACY,) if classes else ()))))


def metric_values(
    found: Predictions, baseline: Predictions | None, policy: GateConfig, own: GateConfig | None = None
) -> tuple[MetricValue, ...]:
    """Each metric of a model, with what is lost of it against the baseline.

    Args:
        found: of the model; of the baseline itself with its columns.
        baseline: on the same samples, with its columns; None: the model is the baseline.
        policy: what is judged, at which level, by which columns.
        own: the policy that a target's file is held to, whose margin is told; None: nothing is judged.

    Raises:
        DataError: predictions that do not pair up, or that the metric has no meaning for.
    """
    return tuple(
        _metric_value(metric, found, baseline, policy, margin_of(own, metric))
        for metric in metrics_told(policy, found)
    )


def margin_of(policy: GateConfig | None, metric: Metric) -> float | None:
    """The margin that a policy has for a metric, in the unit of its drop; None where it judges none."""
    if policy is None or policy.judged != metric:
        return None
    return policy.max_drop_pp if metric.unit == "percent" else policy.max_drop


def _metric_value(
    metric: Metric,
    found: Predictions,
    baseline: Predictions | None,
    policy: GateConfig,
    margin: float | None,
) -> MetricValue:
    query = policy.query if gate.is_ranked(metric) else None
    drop = None
    if baseline is not None:
        drop = gate.drop_of(baseline, found, metric, policy.alpha, margin, query, policy.cluster)
    return MetricValue(
        name=metric.name,
        direction=metric.direction,
        unit=metric.unit,
        value=gate.figure(found, metric, query) if drop is None else drop.value,
        drop=None if drop is None else drop.drop,
        drop_interval=None if drop is None else drop.interval,
        margin=margin,
    )


def check_metric(
    policy: GateConfig, labels: NDArray[np.int64], class_names: Sequence[str], split: str
) -> None:
    """Nothing where the policy's metric can be told of networks that say classes, with these labels.

    Raises:
        UsageError: it has no meaning for the task, or not on this split; names it.
    """
    metric, classes = policy.metric, len(class_names)
    if gate.is_nearest(policy.judged):  # which is about no class
        return
    if metric == "rmse":
        raise UsageError(f"gate.metric = {metric!r}: a chain's networks tell classes")
    if policy.query == SAMPLE:
        if classes <= int(metric.partition("@")[2]) or classes == 2:
            raise UsageError(f"gate.metric = {metric!r} of lists of {classes}: all of it is among the first")
        return
    if (metric in ("auc", "f1") or gate.is_ranked(policy.judged)) and classes != 2:
        raise UsageError(
            f"gate.metric = {metric!r} is of two classes, the task has {classes}",
            hint="accuracy, top_K and f1_macro are of any number",
        )
    if metric.startswith("top_") and int(metric.removeprefix("top_")) >= classes:
        raise UsageError(f"gate.metric = {metric!r}: the task has {classes} classes, every file is right")
    absent = np.setdiff1d(np.arange(classes), labels)
    if metric == "auc" and len(absent):
        raise UsageError(
            f"gate.metric = 'auc': the split {split!r} has no sample of class {class_names[absent[0]]!r}",
            hint="AUC ranks samples of one class against those of the other: both must be there",
        )
    if gate.is_ranked(policy.judged) and not labels.any():
        raise UsageError(
            f"gate.metric = {metric!r}: no sample of the split {split!r} is of class {class_names[1]!r}",
            hint="labels are relevances here: class 1 is what a query looks for",
        )


def with_a_like(
    policy: GateConfig, things: NDArray[np.int64], clusters: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which samples (N,) of the test split look for another one of their thing, by a nearest metric.

    Raises:
        UsageError: none does, all that there is is among the first, or a thing lies in several clusters.
    """
    of = np.full(int(things.max()) + 1, -1, np.int64)
    of[things] = clusters
    if (of[things] != clusters).any():
        raise UsageError(
            f"gate.cluster = {policy.cluster!r}: samples with one {policy.query} lie in several of them",
            hint=f"cluster = {policy.query!r}, or what holds whole things",
        )
    found = np.bincount(things)[things] > 1
    k = int(policy.metric.partition("@")[2])
    if not found.any():
        raise UsageError(
            f"gate.query = {policy.query!r}: no two test samples have the same", hint="nothing is to be found"
        )
    if k >= len(things) - 1:
        raise UsageError(
            f"gate.metric = {policy.metric!r}: of {len(things):,} test samples all are among the first"
        )
    return np.asarray(found)
