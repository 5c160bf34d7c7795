"""The metric that the recipe judges by, on the samples that a stage is told or chosen by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd import gate, tasks
from edgekd.columns import columns_of, of_samples
from edgekd.errors import DataError, UsageError
from edgekd.nodes import WATCHED, Node
from edgekd.stages.context import Context
from edgekd.stages.guessing import refuse_guessing, refuse_no_order
from edgekd.types import ACCURACY, SAMPLE, Column, Predictions
from edgekd.watching import Watched


def figure_on(split_name: str, scores: NDArray[Any], context: Context) -> float | None:
    """The judged metric of what is judged of the outputs (N, judged) on a split, in the metric's unit.

    None where it is of queries and the split does not say what is one, or has no two samples alike.

    Raises:
        DataError: labels or scores that the metric has no meaning for.
    """
    policy = context.plan.recipe.gate
    if not has_queries(split_name, context):
        return None
    columns = _columns_on(split_name, context) if policy.query not in (None, SAMPLE) else {}
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


def refuse_chance(role: str, outputs: NDArray[Any], context: Context) -> None:
    """Refuses a trained baseline whose outputs (N, judged) on val say nothing, by what is judged.

    Of vectors it is also seen whether they find more than chance does.

    Raises:
        UsageError: they cannot be told from chance.
    """
    metric, labels = context.plan.recipe.gate.judged, context.task.splits["val"].labels
    assert labels is not None  # a task without them was refused
    scores = outputs[:, : context.task.num_classes]
    if metric.name == "auc" or (gate.is_ranked(metric) and not gate.is_nearest(metric)):
        refuse_no_order(role, scores, np.asarray(labels))
    else:
        refuse_guessing(role, scores.argmax(axis=1), labels)
    if gate.is_nearest(metric) and has_queries("val", context):
        _refuse_lost(role, outputs, context)


def _refuse_lost(role: str, outputs: NDArray[Any], context: Context) -> None:
    """Refuses vectors whose figure on val is within what chance alone may give (one-sided, 5%)."""
    metric = context.plan.recipe.gate.judged
    level = outputs.copy()
    level[:, context.task.num_classes :] = 1.0  # all as near: what is found is found by chance
    whole = 100 if metric.unit == "percent" else 1
    found, chance = (needed_on("val", each, context) / whole for each in (outputs, level))
    # Values lie between 0 and 1, so none varies more than a coin's; those of a thing vary together.
    query = context.plan.recipe.gate.query
    assert query is not None  # of the metric
    things = len(_columns_on("val", context)[query].values)
    room = 1.645 * (chance * (1 - chance) / things) ** 0.5
    if found <= chance + room:
        raise UsageError(
            f"{role}: {metric.name} {found:.2%} on validation, where chance gives {chance:.2%}",
            hint="look at the vector's outputs: they stand right behind the classes",
        )


def has_queries(split_name: str, context: Context) -> bool:
    """Whether what is judged can be told of a split, as far as its columns go."""
    policy = context.plan.recipe.gate
    if policy.query in (None, SAMPLE):
        return True
    columns = _columns_on(split_name, context)
    if policy.query not in columns:
        return False
    return not gate.is_nearest(policy.judged) or bool((np.bincount(columns[policy.query].codes) > 1).any())


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
