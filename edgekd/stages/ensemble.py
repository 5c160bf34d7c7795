"""Stage: several teachers as one, with what each of them weighs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.nodes import Node
from edgekd.stages.context import Context
from edgekd.stages.teacher import of_node, prove
from edgekd.teachers import ensemble


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Keeps the outputs on test; returns the weights, None where each sample has its own."""
    context = context.seen_as(node.config["modality"])
    labels = [parent for role, parent in node.parents.items() if role != "data"]
    entries = [context.entries[label] for label in labels]
    weights: list[float] | None = [1 / len(labels)] * len(labels)
    if node.config["weights"] == "val_accuracy":
        accuracies = [entry.result["val_accuracy"] for entry in entries]
        weights = [accuracy / sum(accuracies) for accuracy in accuracies]
    elif node.config["weights"] == "confidence":
        weights = None
    members = [of_node(label, context) for label in labels]
    columns = tuple(context.task.columns.values())
    teacher = ensemble.combine(members, node.config["combine"], weights, columns)
    params = [entry.result["params"] for entry in entries]
    return {
        "params": None if None in params else sum(params),
        "macs": None,
        "weights": weights,
        **prove(folder, node.label, teacher, context),
    }
