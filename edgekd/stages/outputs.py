"""Stage: the teacher's outputs on the training set, computed once for all stages that distil."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.config import MixConfig
from edgekd.nodes import Node
from edgekd.precision import on_processor
from edgekd.stages.context import Context
from edgekd.stages.teacher import of_node
from edgekd.teachers import cache


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes logits.npy (views, N, classes) in fp16."""
    context = context.seen_as(context.plan.node(node.parents["teacher"]).config.get("modality"))
    task = context.task
    path = context.store.partial(node.stage, node.key) / "logits.npy"
    teacher = of_node(node.parents["teacher"], context)
    # As a teacher that runs along: in the precision of the training.
    with on_processor(node.config["precision"]):
        cache.build(
            teacher,
            context.training_split(node.config["unlabelled"]),
            task.input_spec,
            node.config["augment"],
            MixConfig.model_validate(node.config["mix"]),
            views=node.config["views"],
            num_outputs=task.num_outputs,
            seed=context.seed,
            path=path,
            display=context.display,
        )
    path.rename(folder / path.name)
    return {"views": node.config["views"]}
