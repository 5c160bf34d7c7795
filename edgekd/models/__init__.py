"""Reference networks, and the door for a user's own: `build` gives a torch module for a config."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

from edgekd.config import ModelConfig
from edgekd.errors import EdgeKDError, UsageError
from edgekd.types import Task
from edgekd.user_code import function_of

if TYPE_CHECKING:
    from torch import nn

MODELS = {
    "mlp": "edgekd.models.mlp",
    "resnet": "edgekd.models.resnet",
    "mobilenet": "edgekd.models.mobilenet",
}


def build(config: ModelConfig, task: Task, seed: int) -> nn.Module:
    """A fresh network for `task`: float32, in eval mode, initialised from `seed`.

    A reference network's `build(input_shape, num_classes, **options)` or the user's
    function `package.module:function`, called the same way, makes it.

    Raises:
        UsageError: the kind is unknown, its options are not taken, or what the
            function returned is not a `torch.nn.Module`.
    """
    import torch

    make = _factory(config.kind)
    torch.manual_seed(seed)
    accepted = inspect.signature(make).parameters
    unknown = [key for key in config.options if key not in accepted]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        valid = [name for name in accepted if name not in ("input_shape", "num_classes")]
        raise UsageError(
            f"model {config.kind!r}: unknown option {unknown[0]!r}", hint=f"it takes: {', '.join(valid)}"
        )
    try:
        module = make(task.input_spec.shape, task.num_classes, **config.options)
    except EdgeKDError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise UsageError(
            f"model {config.kind!r} with {config.options}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"model {config.kind!r}: returned {type(module).__name__}, not a torch.nn.Module")
    return module.eval()


def _factory(kind: str):  # type: ignore[no-untyped-def]  # a user's function has any signature
    if kind in MODELS:
        return importlib.import_module(MODELS[kind]).build
    if ":" not in kind:
        raise UsageError(
            f"unknown model kind {kind!r}", hint=f"known: {', '.join(MODELS)}, or package.module:function"
        )
    return function_of(kind, "model")
