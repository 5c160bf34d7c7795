"""Stage: train the student on what the teacher says; also the loop of pruning recovery and QAT."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekd import losses
from edgekd.activations import check_paths, shapes_of
from edgekd.batches import TrainingSet
from edgekd.config import DistillConfig
from edgekd.errors import UsageError
from edgekd.losses import Shapes
from edgekd.nodes import TEST_SCORES, Node
from edgekd.objective import Objective
from edgekd.stages import judged, saved
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

        saved.refuse_changed(Path(config["checkpoint"]), config["checkpoint_sha256"], context)
        load_checkpoint(module, Path(config["checkpoint"]))
    history = learn(module, distill, node, context)
    architecture = {key: config[key] for key in saved.BUILT_FROM if key in config}
    result = saved.save(folder, module, context, architecture)
    if config["role"] != "student":  # an assistant, whose outputs the next one learns
        scores = np.load(folder / TEST_SCORES)[:, : context.task.num_classes]
        refuse_probabilities(config["role"], scores, "logits")
    robust = saved.robust_accuracy(module, distill, context)
    return {**result, **robust, "history": history}


def learn(
    module: nn.Module,
    config: DistillConfig,
    node: Node,
    context: Context,
    before: History = (),
    penalty: Callable[[], Tensor] | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> History:
    """Trains `module` in place on the config's losses, with what they need of the teacher.

    Returns the records of all epochs of the stage; `before` are those of trainings that it has behind it.
    `penalty` of its weights is added to the losses.
    """
    task = context.task
    outputs, live = None, None
    taught_by = _taught_by(node, context)
    looks_at = context.seen_as(taught_by)
    if "teacher" in node.parents:
        live = saved.load(context.parent(node, "teacher"), looks_at)
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
    shapes = _shapes(module, live, config, context, looks_at)
    torch.manual_seed(seed)  # what the losses learn starts the same in every run
    data = TrainingSet(
        split,
        task.input_spec,
        outputs,
        1 if outputs is None else len(outputs),
        context.seed,
        live,
        losses.layers(config.losses, "student"),
        losses.layers(config.losses, "teacher"),
        seed,
        task.splits["val"],
        None if taught_by is None else (looks_at.training_split(unlabelled), looks_at.task.input_spec),
        task.num_classes,
        len(before),
        task.num_judged,
    )
    objective = _objective(config, shapes, context)
    objective.penalty = penalty
    checkpoint = context.store.partial(node.stage, node.key)
    if before:
        checkpoint = checkpoint / f"after-{len(before)}"
        checkpoint.mkdir(exist_ok=True)

    def all_of(epochs: History) -> History:
        return [*before, *({**epoch, "epoch": len(before) + epoch["epoch"]} for epoch in epochs)]

    history = fit(
        module,
        data,
        objective,
        config,
        what=node.label,
        display=context.display,
        checkpoint=checkpoint,
        watch=lambda what, epochs: context.watch(what, all_of(epochs)),
        after_step=after_step,
        watched=judged.watched(node, context),
    )
    if config.reestimate_batch_norm is not None:
        reestimate(module, task.splits[config.reestimate_batch_norm].inputs, task.input_spec)
    return all_of(history)


def check(context: Context, nodes: Sequence[Node]) -> None:
    """Nothing where the layers that losses of these stages name are there and fit; before any training.

    What pruning leaves of a layer, and the layers of a quantized network, are seen only when they are made.

    Raises:
        UsageError: naming the layer, or the two that do not fit.
    """
    plan = context.plan
    for node in nodes:
        if node.stage not in ("distill", "prune", "quantize"):
            continue
        config = DistillConfig.model_validate(
            {
                key: value
                for key, value in node.config[node.stage].items()
                if key in DistillConfig.model_fields
            }
        )
        if "teacher" not in node.parents or not losses.layers(config.losses, "student"):
            continue
        teacher = plan.node(node.parents["teacher"])
        looks_at = context.seen_as(_taught_by(node, context))
        live = saved.fresh(dict(teacher.config), looks_at)
        if node.stage == "quantize":
            known = shapes_of(live, saved.example_input(looks_at.task))
            check_paths("teacher", losses.layers(config.losses, "teacher"), known)
            continue
        student = plan.node(node.parents["network"]) if node.stage == "prune" else node
        shapes = _shapes(saved.fresh(dict(student.config), context), live, config, context, looks_at)
        _objective(config, shapes, context).try_layers(shapes)


def _shapes(
    module: nn.Module, live: nn.Module | None, config: DistillConfig, context: Context, looks_at: Context
) -> Shapes:
    """Of the layers that losses name, which are all there."""
    task = context.task
    networks = (("student", module, context), ("teacher", live, looks_at))
    layers: dict[str, dict[str, tuple[int, ...]]] = {"student": {}, "teacher": {}}
    for side, network, at in networks:
        if network is not None:
            known = shapes_of(network, saved.example_input(at.task))
            named = losses.layers(config.losses, "student" if side == "student" else "teacher")
            check_paths(side, named, known)
            layers[side] = {path: known[path] for path in named}
    return Shapes(
        student=(task.num_outputs,),
        teacher=(task.num_outputs,),
        student_layers=layers["student"],
        teacher_layers=layers["teacher"],
        num_samples=len(context.training_split(config.unlabelled_weight is not None)),
        seed=context.seed if config.seed is None else config.seed,
    )


def _objective(config: DistillConfig, shapes: Shapes, context: Context) -> Objective:
    parts = context.task.parts
    return Objective(config.losses, config.weighting, shapes, config.unlabelled_weight or 1.0, parts)


def _taught_by(node: Node, context: Context) -> str | None:
    """The modality that the teacher of a stage looks at; None: the student's own inputs, or no teacher."""
    label = node.parents.get("teacher")
    if label is None and "outputs" in node.parents:
        label = context.plan.node(node.parents["outputs"]).parents["teacher"]
    return None if label is None else context.plan.node(label).config.get("modality")
