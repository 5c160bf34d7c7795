"""Networks in the store: weights as safetensors, the way to the architecture as JSON.

A network is rebuilt by the steps that made it (build, prune by history, insert
quantizers), then its weights are loaded; no pickle is involved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgekd import models
from edgekd.adversarial import robust_predictions
from edgekd.config import ModelConfig, TrainConfig
from edgekd.errors import UsageError
from edgekd.measure.accuracy import head_accuracy
from edgekd.nodes import TEST_SCORES, VAL_SCORES
from edgekd.prune import groups, structured
from edgekd.quantize import qat
from edgekd.stages.context import Context
from edgekd.store import Entry
from edgekd.teachers.ensemble import TINY
from edgekd.training import predict
from edgekd.types import Task

WEIGHTS = "model.safetensors"
ARCHITECTURE = "architecture.json"
# What of a stage's settings a network is built from.
BUILT_FROM = ("model", "role", "outputs", "source_sha256")


def example_input(task: Task) -> Tensor:
    """A preprocessed sample (1, *shape): the first of the training split."""
    return torch.from_numpy(task.input_spec.preprocess(np.asarray(task.splits["train"].inputs[:1])))


class LogOfProbabilities(nn.Module):
    """A network that ends in a softmax, as one that gives logits."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """The logarithm of what the network gives: its softmax is the probabilities."""
        return self.body(x).clamp_min(TINY).log()  # type: ignore[no-any-return]


def inner(module: nn.Module) -> nn.Module:
    """The network itself, whose names a checkpoint has."""
    return module.body if isinstance(module, LogOfProbabilities) else module


def fresh(config: dict[str, Any], context: Context, seed: int | None = None) -> nn.Module:
    """The network that a config names, its outputs checked against the task's classes.

    `seed` draws its initial weights; the recipe's if left out.
    """
    choice = ModelConfig.model_validate(config["model"])
    _refuse_changed(choice, config, context)
    if choice.kind == "object":
        module = context.object_of(config["role"])
    else:
        module = models.build(choice, context.task, context.seed if seed is None else seed)
    if config.get("outputs") == "probabilities":
        module = LogOfProbabilities(module)
    _check_outputs(module.eval(), config["role"], context.task)
    return module


def _refuse_changed(choice: ModelConfig, config: dict[str, Any], context: Context) -> None:
    """A network that is read from a user's file again must still be the one that was planned with."""
    option = models.SOURCES.get(choice.kind)
    if option is None:
        return
    refuse_changed(Path(choice.options[option]), config["source_sha256"], context)


def refuse_changed(path: Path, sha256: str, context: Context) -> None:
    """A file or folder of the user's must still be the one that the run was planned with.

    Raises:
        UsageError: it is gone, or another one.
    """
    if not path.exists() or context.store.hash_file(path) != sha256:
        raise UsageError(
            f"{path}: gone, or another one than when the run was planned", hint="put it back, or run again"
        )


def _check_outputs(module: nn.Module, role: str, task: Task) -> None:
    x = example_input(task)
    try:
        with torch.no_grad():
            out = module(x)
    except (RuntimeError, ValueError, IndexError) as error:
        raise UsageError(
            f"{role}: cannot take an input of shape {tuple(x.shape)}: {' '.join(str(error).split())[:150]}",
            hint="the network does not fit the task's samples",
        ) from error
    shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    if shape != (1, task.num_outputs):
        raise UsageError(
            f"{role}: gives outputs of shape {shape}, the task has {task.num_outputs} classes",
            hint=f"{role}.model must end in {task.num_outputs} logits",
        )


def save(folder: Path, module: nn.Module, context: Context, architecture: dict[str, Any]) -> dict[str, Any]:
    """Writes a network and its scores on test and val; returns params, MACs and accuracy on val in percent.

    Fake quantizers would be counted as work and as weights, so a quantized network has no
    counts of its own: they are those of the network that it came from.
    """
    save_file({k: v.detach().clone().contiguous() for k, v in module.state_dict().items()}, folder / WEIGHTS)
    (folder / ARCHITECTURE).write_text(json.dumps(architecture, indent=1, sort_keys=True))
    scores = predict(module, context.task.splits["test"].inputs, context.task.input_spec)
    np.save(folder / TEST_SCORES, scores[:, : context.task.num_judged])
    on_val = scores_on(module, "val", context)
    np.save(folder / VAL_SCORES, on_val)
    found = {
        "head_accuracy": head_accuracy(scores, context.task),
        "val_accuracy": _accuracy(on_val, "val", context),
    }
    if "quantizers" in architecture:
        return found
    macs, params = structured.count(module, example_input(context.task))
    return {"params": params, "macs": macs, **found}


def architecture_of(entry: Entry) -> dict[str, Any]:
    """How an entry's network is built."""
    return json.loads(entry.file(ARCHITECTURE).read_text())  # type: ignore[no-any-return]


def load(entry: Entry, context: Context) -> nn.Module:
    """The network of an entry, in eval mode, exactly as it was saved."""
    architecture = architecture_of(entry)
    example = example_input(context.task)
    module = fresh(architecture, context)
    if "pruning_history" in architecture:
        module = groups.rebuild(module, example, architecture["pruning_history"])
    if "quantizers" in architecture:
        module = qat.rebuild(module, architecture["quantizers"])
    module.load_state_dict(load_file(entry.file(WEIGHTS)))
    return module.eval()


def test_scores(entry: Entry) -> NDArray[np.float32]:
    """What is judged of the outputs (N, judged) of an entry's network on the test split."""
    return np.load(entry.file(TEST_SCORES), allow_pickle=False)  # type: ignore[no-any-return]


def robust_accuracy(module: nn.Module, config: TrainConfig, context: Context) -> dict[str, Any]:
    """Accuracy in percent on attacked test samples, where the training was against attacks; else nothing."""
    if config.adversarial is None:
        return {}
    scores = robust_predictions(module, context.task, config.adversarial, context.seed, context.display)
    right = scores[:, : context.task.num_classes].argmax(axis=1) == context.task.splits["test"].labels
    return {"robust_accuracy": float(right.mean() * 100)}


def scores_on(module: nn.Module, split_name: str, context: Context) -> NDArray[np.float32]:
    """What is judged of the outputs (N, judged), on a split."""
    inputs = context.task.splits[split_name].inputs
    return predict(module, inputs, context.task.input_spec)[:, : context.task.num_judged]


def val_scores(entry: Entry) -> NDArray[np.float32]:
    """What is judged of the outputs (N, judged) of an entry's network or teacher on the validation split."""
    return np.load(entry.file(VAL_SCORES), allow_pickle=False)  # type: ignore[no-any-return]


def accuracy_on(module: nn.Module, split_name: str, context: Context) -> float:
    """Accuracy in percent on a split."""
    return _accuracy(scores_on(module, split_name, context), split_name, context)


def _accuracy(scores: NDArray[np.float32], split_name: str, context: Context) -> float:
    answers = scores[:, : context.task.num_classes].argmax(axis=1)
    return float((answers == context.task.splits[split_name].labels).mean() * 100)
