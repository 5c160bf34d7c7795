"""Stage: train the student on what the teacher says; also the loop of pruning recovery and QAT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekd import losses
from edgekd.activations import check_paths, shapes_of
from edgekd.batches import TrainingSet
from edgekd.config import DistillConfig
from edgekd.losses import Shapes
from edgekd.nodes import Node
from edgekd.objective import Objective
from edgekd.stages import saved
from edgekd.stages.context import Context
from edgekd.training import fit


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the trained student."""
    config = dict(node.config)
    distill = DistillConfig.model_validate(config["distill"])
    module = saved.fresh(config, context, distill.seed)
    if config.get("checkpoint"):
        from edgekd.teachers.torch import load_checkpoint

        load_checkpoint(module, Path(config["checkpoint"]))
    history = learn(module, distill, node, context)
    architecture = {"model": config["model"], "role": config["role"]}
    result = saved.save(folder, module, context, architecture)
    return {**result, "history": history, "val_accuracy": saved.accuracy_on(module, "val", context)}


def learn(module: nn.Module, config: DistillConfig, node: Node, context: Context) -> list[dict[str, float]]:
    """Trains `module` in place on the config's losses, with what they need of the teacher."""
    task, example = context.task, saved.example_input(context.task)
    student_layers, teacher_layers = (losses.layers(config.losses, side) for side in ("student", "teacher"))
    of_student = shapes_of(module, example)
    check_paths("student", student_layers, of_student)
    outputs, live, of_teacher = None, None, {}
    if "teacher" in node.parents:
        live = saved.load(context.parent(node, "teacher"), context)
        of_teacher = shapes_of(live, example)
        check_paths("teacher", teacher_layers, of_teacher)
    elif "outputs" in node.parents:
        outputs = context.teacher_outputs(node)
    seed = context.seed if config.seed is None else config.seed
    shapes = Shapes(
        student=(task.num_classes,),
        teacher=(task.num_classes,),
        student_layers=of_student,
        teacher_layers=of_teacher,
        num_samples=len(task.splits["train"]),
        seed=seed,
    )
    torch.manual_seed(seed)  # what the losses learn starts the same in every run
    data = TrainingSet(
        task.splits["train"],
        task.input_spec,
        outputs,
        1 if outputs is None else len(outputs),
        context.seed,
        live,
        student_layers,
        teacher_layers,
        seed,
        task.splits["val"],
    )
    return fit(
        module,
        data,
        Objective(config.losses, config.weighting, shapes),
        config,
        what=node.label,
        display=context.display,
        checkpoint=context.store.partial(node.stage, node.key),
        watch=context.watch,
    )
