"""The metric that the recipe judges by, on the samples that a stage is told or chosen by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd import gate, tasks
from edgekd.columns import columns_of, of_samples
from edgekd.errors import DataError
from edgekd.nodes import WATCHED, Node
from edgekd.stages.context import Context
from edgekd.stages.guessing import refuse_guessing, refuse_no_order
from edgekd.types import ACCURACY, SAMPLE, Column, Predictions
from edgekd.watching import Watched


def figure_on(split_name: str, scores: NDArray[Any], context: Context) -> float | None:
    """The judged metric of what is judged of the outputs (N, judged) on a split, in the metric's unit.

    None where it ranks the rows of a query and the split does not say which rows are one.

    Raises:
        DataError: labels or scores that the metric has no meaning for.
    """
    policy = context.plan.recipe.gate
    columns = _columns_on(split_name, context) if policy.query not in (None, SAMPLE) else {}
    if policy.query not in (None, SAMPLE, *columns):
        return None
    found = replace(predictions(split_name, scores, context), columns=columns)
    return gate.figure(found, policy.judged, policy.query)


def predictions(split_name: str, outputs: NDArray[Any], context: Context) -> Predictions:
    """What is judged of a network's outputs (N, judged) on a split, without columns."""
    task, split = context.task, context.task.splits[split_name]
    assert split.labels is not None  # a task without them was refused
    scores, vectors = np.split(outputs, [task.num_classes], axis=1)
    ids, labels = np.asarray(split.ids), np.asarray(split.labels)
    return Predictions(ids, labels, scores, vectors=vectors if task.vector else None)


def needed_on(split_name: str, scores: NDArray[Any], context: Context) -> float:
    """As `figure_on` where something is chosen by it: `running` has refused splits without queries."""
    found = figure_on(split_name, scores, context)
    assert found is not None
    return found


def refuse_chance(role: str, scores: NDArray[Any], context: Context) -> None:
    """Refuses a trained baseline whose outputs (N, judged) on val say nothing, by what is judged.

    Of vectors their classes are looked at: what is near in a network that has learned nothing is near too.

    Raises:
        UsageError: they cannot be told from chance.
    """
    metric, labels = context.plan.recipe.gate.judged, context.task.splits["val"].labels
    assert labels is not None  # a task without them was refused
    scores = scores[:, : context.task.num_classes]
    if metric.name == "auc" or (gate.is_ranked(metric) and not gate.is_nearest(metric)):
        refuse_no_order(role, scores, np.asarray(labels))
    else:
        refuse_guessing(role, scores.argmax(axis=1), labels)


def has_queries(split_name: str, context: Context) -> bool:
    """Whether what is judged can be told of a split, as far as its columns go."""
    query = context.plan.recipe.gate.query
    return query in (None, SAMPLE) or query in _columns_on(split_name, context)


def watched(node: Node, context: Context) -> Watched | None:
    """What training that stops early goes by; None for accuracy."""
    if node.config.get(WATCHED) is None:
        return None
    return Watched(context.plan.recipe.gate.judged, lambda scores: needed_on("val", scores, context))


def text(split_name: str, scores: NDArray[Any], context: Context) -> str:
    """`accuracy on validation 93.10 %`, `auc on validation 0.9312 (accuracy 89.90 %)`."""
    labels, metric = context.task.splits[split_name].labels, context.plan.recipe.gate.judged
    where = {"val": "validation"}.get(split_name, split_name)
    accuracy = 100 * float((scores[:, : context.task.num_classes].argmax(axis=1) == labels).mean())
    found = None if metric == ACCURACY else figure_on(split_name, scores, context)
    if found is None:
        return f"accuracy on {where} {accuracy:.2f} %"
    shown = f"{found:.2f} %" if metric.unit == "percent" else f"{found:.4f}"
    return f"{metric.name} on {where} {shown} (accuracy {accuracy:.2f} %)"


def _columns_on(split_name: str, context: Context) -> Mapping[str, Column]:
    if split_name == "test":
        return context.columns
    split = context.task.splits[split_name]
    own = columns_of(of_samples(split.columns, f"split {split_name!r}"))
    if context.plan.recipe.gate.query in own or context.plan.recipe.task.columns is None:
        return own
    try:
        return tasks.columns_of(context.plan.recipe.task, split)
    except DataError:  # of a file that speaks of the test samples alone
        return own
