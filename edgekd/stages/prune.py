"""Stage: cut the student to the goal, then let it recover by distilling from the same teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekd.config import PruneConfig
from edgekd.errors import UsageError
from edgekd.latency.costs import Costs
from edgekd.latency.network import layers_of, predict
from edgekd.latency.profile import profile
from edgekd.layers import Layer
from edgekd.nodes import Node
from edgekd.prune import groups, structured
from edgekd.prune.importance import Samples
from edgekd.prune.widths import OutOfReach
from edgekd.stages import saved
from edgekd.stages.context import Context
from edgekd.stages.distill import learn

SAMPLES = 512  # on which it is seen what each width loses


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the pruned network with the history that rebuilds it."""
    config = PruneConfig.model_validate(node.config["prune"])
    source = context.parent(node, "network")
    example = saved.example_input(context.task)
    whole = saved.load(source, context)
    predicted: dict[str, Any] = {}
    if config.goal == "latency_ms":
        module, history, predicted = _to_latency(whole, example, config, node, context)
    else:
        module, history = structured.prune(
            whole,
            example,
            config,
            channel_multiple=node.config["channel_multiple"],
            bytes_per_weight=node.config["bytes_per_weight"],
            samples=_samples(context),
            seed=context.seed,
        )
    before = saved.accuracy_on(module, "val", context)
    trained = learn(module, config, node, context)
    earlier = saved.architecture_of(source)
    architecture = {**earlier, "pruning_history": [*earlier.get("pruning_history", []), *history]}
    result = saved.save(folder, module, context, architecture)
    return {
        **result,
        **predicted,
        **saved.robust_accuracy(module, config, context),
        "history": trained,
        "val_accuracy_before_recovery": before,
        "val_accuracy": saved.accuracy_on(module, "val", context),
    }


def check(context: Context) -> None:
    """Nothing where latency tables know all layers of what shall be pruned to a latency; before any training.

    Raises:
        UsageError: an operator that they do not know, with its name.
    """
    for node in context.plan.nodes:
        if node.stage == "prune" and "clock" in node.config:
            student = context.plan.node(node.parents["network"])
            layers_of(saved.fresh(dict(student.config), context), saved.example_input(context.task))


def _to_latency(
    module: nn.Module, example: Tensor, config: PruneConfig, node: Node, context: Context
) -> tuple[nn.Module, groups.History, dict[str, Any]]:
    """Cut to a latency by the table of this node's targets, measured now where it is missing."""
    # All targets of a node have one clock.
    target = next(t for t in context.plan.targets if t.name in node.targets)
    layers = layers_of(module, example)
    table = profile(target, layers, context.store, context.display)
    costs, unit_ms = Costs(table), table.unit_ms

    def price_ms(layer: Layer) -> float:
        return costs.of(layer).value * unit_ms

    whole_ms = predict(layers, costs).ratio * unit_ms
    overhead_ms = whole_ms - sum(map(price_ms, layers))
    limit_ms = config.limit if config.limit is not None else whole_ms * (config.keep or 1.0)
    if limit_ms >= whole_ms:
        raise UsageError(
            f"prune: the goal of {limit_ms:.4g} ms is not below what the student takes on {target.name}, "
            f"{whole_ms:.4g} ms by the table",
            hint="lower prune.limit or prune.keep, or leave [prune] out",
        )
    try:
        cut, history, layers_ms = structured.prune_by_price(
            module,
            example,
            config,
            price=price_ms,
            limit=limit_ms - overhead_ms,
            samples=_samples(context),
            seed=context.seed,
        )
    except OutOfReach as error:
        raise UsageError(
            f"prune: {limit_ms:.4g} ms on {target.name} is out of reach: the smallest network takes "
            f"{overhead_ms + error.least:.4g} ms by the table",
            hint="raise prune.max_pruning_ratio or the goal",
        ) from None
    told = {
        "whole_ms": whole_ms,
        "pruned_ms": overhead_ms + layers_ms,
        "limit_ms": limit_ms,
    }
    return cut, history, {"predicted_latency": told}


def _samples(context: Context) -> Samples:
    """Some of the training samples."""
    split, spec = context.task.splits["train"], context.task.input_spec
    chosen = np.random.default_rng(context.seed).permutation(len(split))[:SAMPLES]
    chosen = np.sort(chosen)
    return Samples(
        torch.from_numpy(spec.preprocess(np.asarray(split.inputs[chosen]))),
        None if split.labels is None else torch.from_numpy(split.labels[chosen]),
        tuple(context.task.columns.values()),
    )
