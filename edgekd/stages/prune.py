"""Stage: cut the student to the goal, then let it recover by distilling from the same teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.config import PruneConfig
from edgekd.nodes import Node
from edgekd.prune import structured
from edgekd.stages import saved
from edgekd.stages.context import Context
from edgekd.stages.distill import learn


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the pruned network with the history that rebuilds it."""
    config = PruneConfig.model_validate(node.config["prune"])
    source = context.parent(node, "network")
    example = saved.example_input(context.task)
    module, history = structured.prune(
        saved.load(source, context),
        example,
        config,
        channel_multiple=node.config["channel_multiple"],
        bytes_per_weight=node.config["bytes_per_weight"],
        seed=context.seed,
    )
    before = saved.accuracy_on(module, "val", context)
    trained = learn(module, config, node, context)
    earlier = saved.architecture_of(source)
    architecture = {**earlier, "pruning_history": [*earlier.get("pruning_history", []), *history]}
    result = saved.save(folder, module, context, architecture)
    return {
        **result,
        **saved.robust_accuracy(module, config, context),
        "history": trained,
        "val_accuracy_before_recovery": before,
        "val_accuracy": saved.accuracy_on(module, "val", context),
    }
