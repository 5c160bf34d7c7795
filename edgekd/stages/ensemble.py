"""Stage: several teachers as one, with what each of them weighs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.nodes import Node
from edgekd.stages import judged, saved
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
    elif node.config["weights"] == "val_metric":
        figures = [judged.needed_on("val", saved.val_scores(entry), context) for entry in entries]
        weights = [figure / sum(figures) for figure in figures]
    elif node.config["weights"] == "confidence":
        weights = None
    members = [of_node(label, context) for label in labels]
    columns = tuple(context.task.columns.values())
    teacher = ensemble.combine(members, node.config["combine"], weights, columns)
    params, macs = ([entry.result[what] for entry in entries] for what in ("params", "macs"))
    return {
        "params": None if None in params else sum(params),
        "macs": None if None in macs else sum(macs),
        "weights": weights,
        **prove(folder, node.label, teacher, context),
    }


class Together(nn.Module):
    """Networks that answer as one, as `ensemble.combine` says: one that can be written as a file."""

    def __init__(
        self, members: Sequence[nn.Module], what: str, weights: Sequence[float], columns: Sequence[slice]
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._what, self._weights, self._columns = what, weights, columns

    def forward(self, x: Tensor) -> Tensor:
        """(B, *shape) to logits (B, classes)."""
        logits = [member(x) for member in self.members]
        return torch.cat([self._mean([part[:, head] for part in logits]) for head in self._columns], dim=1)

    def _mean(self, logits: Sequence[Tensor]) -> Tensor:
        pairs = [(w, part) for w, part in zip(self._weights, logits, strict=True) if w > 0]
        if self._what == "logits":
            return torch.stack([w * (part - part.mean(dim=1, keepdim=True)) for w, part in pairs]).sum(dim=0)
        return torch.stack([math.log(w) + part.log_softmax(dim=1) for w, part in pairs]).logsumexp(dim=0)


def load(label: str, context: Context) -> nn.Module:
    """The network of an ensemble whose members are networks."""
    node, entry = context.plan.node(label), context.entries[label]
    members = [saved.load(context.entries[p], context) for role, p in node.parents.items() if role != "data"]
    columns = tuple(context.task.columns.values())
    return Together(members, node.config["combine"], entry.result["weights"], columns).eval()
