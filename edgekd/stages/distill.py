"""Stage: train the student on what the teacher says; also the loop of pruning recovery and QAT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd import losses
from edgekd.activations import check_paths, shapes_of
from edgekd.batches import TrainingSet
from edgekd.config import DistillConfig
from edgekd.errors import UsageError
from edgekd.losses import Shapes
from edgekd.nodes import Node
from edgekd.objective import Objective
from edgekd.stages import saved
from edgekd.stages.context import Context
from edgekd.stages.guessing import refuse_probabilities
from edgekd.training import batch_norms, fit, reestimate

History = Sequence[Mapping[str, float]]


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the trained student."""
    config = dict(node.config)
    distill = DistillConfig.model_validate(config["distill"])
    module = saved.fresh(config, context, distill.seed)
    if config.get("checkpoint"):
        from edgekd.teachers.torch import load_checkpoint

        load_checkpoint(module, Path(config["checkpoint"]))
    history = learn(module, distill, node, context)
    architecture = {key: config[key] for key in saved.BUILT_FROM if key in config}
    result = saved.save(folder, module, context, architecture)
    if config["role"] != "student":  # an assistant, whose outputs the next one learns
        refuse_probabilities(config["role"], np.load(folder / saved.TEST_SCORES), "logits")
    robust = saved.robust_accuracy(module, distill, context)
    return {**result, **robust, "history": history, "val_accuracy": saved.accuracy_on(module, "val", context)}


def learn(
    module: nn.Module, config: DistillConfig, node: Node, context: Context, before: History = ()
) -> History:
    """Trains `module` in place on the config's losses, with what they need of the teacher.

    Returns the records of all epochs of the stage; `before` are those of trainings that it has behind it.
    """
    task, example = context.task, saved.example_input(context.task)
    student_layers, teacher_layers = (losses.layers(config.losses, side) for side in ("student", "teacher"))
    of_student = shapes_of(module, example)
    check_paths("student", student_layers, of_student)
    outputs, live, of_teacher = None, None, {}
    taught_by = _taught_by(node, context)
    looks_at = context.seen_as(taught_by)
    if "teacher" in node.parents:
        live = saved.load(context.parent(node, "teacher"), looks_at)
        of_teacher = shapes_of(live, saved.example_input(looks_at.task))
        check_paths("teacher", teacher_layers, of_teacher)
    elif "outputs" in node.parents:
        outputs = context.teacher_outputs(node)
    unlabelled = config.unlabelled_weight is not None
    split = context.training_split(unlabelled)
    if config.reestimate_batch_norm is not None and not batch_norms(module):
        raise UsageError(  # before the training, whose epochs would be lost
            f"{node.label}: reestimate_batch_norm is set, and there is no batch norm in the network",
            hint="leave it out here; quantized networks have theirs folded into the weights",
        )
    seed = context.seed if config.seed is None else config.seed
    shapes = Shapes(
        student=(task.num_outputs,),
        teacher=(task.num_outputs,),
        student_layers=of_student,
        teacher_layers=of_teacher,
        num_samples=len(split),
        seed=seed,
    )
    torch.manual_seed(seed)  # what the losses learn starts the same in every run
    data = TrainingSet(
        split,
        task.input_spec,
        outputs,
        1 if outputs is None else len(outputs),
        context.seed,
        live,
        student_layers,
        teacher_layers,
        seed,
        task.splits["val"],
        None if taught_by is None else (looks_at.training_split(unlabelled), looks_at.task.input_spec),
        task.num_classes,
        len(before),
    )
    checkpoint = context.store.partial(node.stage, node.key)
    if before:
        checkpoint = checkpoint / f"after-{len(before)}"
        checkpoint.mkdir(exist_ok=True)

    def all_of(epochs: History) -> History:
        return [*before, *({**epoch, "epoch": len(before) + epoch["epoch"]} for epoch in epochs)]

    history = fit(
        module,
        data,
        Objective(config.losses, config.weighting, shapes, config.unlabelled_weight or 1.0, task.columns),
        config,
        what=node.label,
        display=context.display,
        checkpoint=checkpoint,
        watch=lambda what, epochs: context.watch(what, all_of(epochs)),
    )
    if config.reestimate_batch_norm is not None:
        reestimate(module, task.splits[config.reestimate_batch_norm].inputs, task.input_spec)
    return all_of(history)


def _taught_by(node: Node, context: Context) -> str | None:
    """The modality that the teacher of a stage looks at; None: the student's own inputs, or no teacher."""
    label = node.parents.get("teacher")
    if label is None and "outputs" in node.parents:
        label = context.plan.node(node.parents["outputs"]).parents["teacher"]
    return None if label is None else context.plan.node(label).config.get("modality")
