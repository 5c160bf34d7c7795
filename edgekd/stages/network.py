"""Stage: a network with weights, from a checkpoint or a function, or a teacher trained on labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from edgekd.config import TrainConfig
from edgekd.errors import UsageError
from edgekd.losses.logits import cross_entropy
from edgekd.plan import Node
from edgekd.stages import saved
from edgekd.stages.context import Context
from edgekd.teachers.torch import load_checkpoint
from edgekd.training import TrainingSet, fit


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the network; returns its size, cost and how training went."""
    config = dict(node.config)
    module = saved.fresh(config, context)
    history = []
    if config.get("checkpoint"):
        load_checkpoint(module, Path(config["checkpoint"]))
    elif config["train"] is not None:
        train = TrainConfig.model_validate(config["train"])
        data = TrainingSet(context.task.splits["train"], context.task.input_spec, None, 1, context.seed)
        history = fit(
            module,
            data,
            lambda logits, labels, _: cross_entropy(logits, labels, train.label_smoothing),
            train,
            what=node.label,
            display=context.display,
            checkpoint=context.store.partial(node.stage, node.key),
        )
    architecture = {"model": config["model"], "role": config["role"]}
    result = saved.save(folder, module, context, architecture)
    accuracy = saved.accuracy_on(module, "val", context)
    labels = context.task.splits["val"].labels
    if config["train"] is None and labels is not None:
        refuse_guessing(config["role"], accuracy, labels)
    return {**result, "history": history, "val_accuracy": accuracy}


def refuse_guessing(role: str, accuracy: float, labels: NDArray[np.int64]) -> None:
    """Refuses a trained network that cannot be told from one that has learned nothing.

    Against such a teacher every student would pass. The test is the exact binomial one, one-sided
    at 5%, of the right answers against always naming the commonest class.

    Args:
        role: teacher or student, for the error.
        accuracy: on validation, in percent.
        labels: of validation.

    Raises:
        UsageError: the network is no better than that.
    """
    n = len(labels)
    commonest = float(np.bincount(labels).max()) / n
    right = round(accuracy / 100 * n)
    if bdtrc(right - 1, n, commonest) > 0.05:
        raise UsageError(
            f"{role}: {accuracy:.2f}% right on validation, where always naming the commonest class gives "
            f"{100 * commonest:.2f}%",
            hint="trained weights see other pixels or other class numbers than they were trained on: "
            "compare the task's scale, mean, std, channel order and class names with the training's",
        )
