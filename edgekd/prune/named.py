"""Layers that a recipe leaves alone, by module path: one, or all within a module."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from edgekd.errors import UsageError, nearest


def weighted(module: nn.Module) -> dict[str, Any]:
    """Convolutions and linear layers by module path."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    return {path: layer for path, layer in module.named_modules() if isinstance(layer, kinds)}


def left_alone(module: nn.Module, paths: Iterable[str]) -> frozenset[str]:
    """The paths of modules that `paths` name, and of all within them.

    Raises:
        UsageError: a path where nothing is, or nothing that could be pruned.
    """
    layers, found = weighted(module), set[str]()
    known = dict(module.named_modules())
    for path in paths:
        within = {name for name in known if name == path or name.startswith(f"{path}.")}
        if not within & layers.keys():
            what = "no convolution or linear layer in" if within else "no layer"
            raise UsageError(
                f"prune.ignored_layers: {what} {path!r}",
                hint=nearest(path, list(layers), f"layers: {', '.join(layers)}"),
            )
        found |= within
    return frozenset(found)
