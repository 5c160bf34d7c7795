"""Reference networks, and the door for a user's own: `build` gives a torch module for a config."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from edgekd.config import ModelConfig
from edgekd.errors import EdgeKDError, UsageError, nearest
from edgekd.types import Task
from edgekd.user_code import check_call, function_of

if TYPE_CHECKING:
    from torch import nn

MODELS = {
    "mlp": "edgekd.models.mlp",
    "resnet": "edgekd.models.resnet",
    "mobilenet": "edgekd.models.mobilenet",
    "keras": "edgekd.models.keras",
    "hugging_face": "edgekd.models.hugging_face",
    "recommender": "edgekd.models.recommender",
    "text_encoder": "edgekd.models.text_encoder",
}

# Kinds that read a file or folder, and the option that names it: its content belongs to a result's key.
SOURCES = {"keras": "file", "hugging_face": "folder", "text_encoder": "folder"}


def build(config: ModelConfig, task: Task, seed: int) -> nn.Module:
    """A fresh network for `task`: float32, in eval mode, initialised from `seed`.

    A reference network's `build(input_shape, num_classes, **options)` or the user's
    function `package.module:function`, called the same way, makes it; one that takes `task` is given it.

    Raises:
        UsageError: as `check`, or what the function returned is not a `torch.nn.Module`.
    """
    import torch

    check(config)
    make = function_of(_function_name(config.kind), "model")
    whole = {"task": task} if "task" in inspect.signature(make).parameters else {}
    torch.manual_seed(seed)
    try:
        module = make(task.input_spec.shape, task.num_outputs, **config.options, **whole)
    except EdgeKDError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise UsageError(
            f"model {config.kind!r} with {config.options}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"model {config.kind!r}: returned {type(module).__name__}, not a torch.nn.Module")
    return module.eval()


def check(config: ModelConfig) -> None:
    """Finds what is wrong with a config before anything runs, without importing torch or the user's code.

    Raises:
        UsageError: the kind is unknown, there is no such function, or it does not take an option.
    """
    # Shape, classes and the task are no options.
    if "task" in config.options:
        raise UsageError(f"model {config.kind!r}: 'task' is no option: it is handed on where it is taken")
    check_call(_function_name(config.kind), "model", config.options, given=2, shown=config.kind)


def _function_name(kind: str) -> str:
    if ":" in kind:
        return kind
    if kind not in MODELS:
        otherwise = f"known: {', '.join(MODELS)}, or package.module:function"
        raise UsageError(f"unknown model kind {kind!r}", hint=nearest(kind, MODELS, otherwise))
    return f"{MODELS[kind]}:build"
