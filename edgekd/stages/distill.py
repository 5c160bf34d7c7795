"""Stage: train the student on the teacher's cached outputs; also the loop of pruning recovery and QAT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgekd.config import DistillConfig
from edgekd.losses.logits import cross_entropy, kd
from edgekd.plan import Node
from edgekd.stages import saved
from edgekd.stages.context import Context
from edgekd.training import TrainingSet, fit


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the trained student."""
    config = dict(node.config)
    module = saved.fresh(config, context)
    if config.get("checkpoint"):
        from edgekd.teachers.torch import load_checkpoint

        load_checkpoint(module, Path(config["checkpoint"]))
    history = learn(module, DistillConfig.model_validate(config["distill"]), node, context)
    architecture = {"model": config["model"], "role": config["role"]}
    result = saved.save(folder, module, context, architecture)
    return {**result, "history": history, "val_accuracy": saved.accuracy_on(module, "val", context)}


def learn(module: nn.Module, config: DistillConfig, node: Node, context: Context) -> list[dict[str, float]]:
    """Trains `module` in place: alpha times cross-entropy plus (1 - alpha) times KD."""

    def loss(logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        assert teacher is not None
        hard = cross_entropy(logits, labels, config.label_smoothing)
        return config.alpha * hard + (1 - config.alpha) * kd(logits, teacher, config.temperature)

    outputs = context.teacher_outputs(node)
    data = TrainingSet(
        context.task.splits["train"], context.task.input_spec, outputs, len(outputs), context.seed
    )
    return fit(
        module,
        data,
        loss,
        config,
        what=node.label,
        display=context.display,
        checkpoint=context.store.partial(node.stage, node.key),
    )
