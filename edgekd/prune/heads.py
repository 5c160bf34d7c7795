"""Channels that a network takes apart into heads: which of them may go together.

Torch-Pruning knows that queries, keys and values are cut together, and takes their channels for a row of
equals. They are not: one channel less in the first head alone moves one of the second head into it. Either
every head loses the same of its channels, or whole heads go; which of the two a network allows depends on
which size its forward works out, and is tried.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekd.prune.importance import thawed

aten = torch.ops.aten

_VIEWS = (aten.view.default, aten._unsafe_view.default)
# Beside what is computed value by value.
_SAME_CHANNELS = (
    aten.native_layer_norm.default,
    aten.native_group_norm.default,
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.clone.default,
    aten.alias.default,
)
Sizes = tuple[int, ...]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Notes into which sizes the channels of layers are taken apart."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, Sizes] = {}
        # Outputs of layers: the layer, the axis of its channels. The tensor is held, so that no other one
        # takes its id.
        self._outputs: dict[int, tuple[Tensor, str, int]] = {}

    def note(self, path: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        """A forward hook."""
        axis = output.dim() - 1 if isinstance(module, nn.Linear) else 1
        self._outputs[id(output)] = (output, path, axis)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Runs the operator."""
        result = func(*args, **(kwargs or {}))
        y = result[0] if isinstance(result, tuple) else result  # norms give statistics too
        for known in (self._outputs.get(id(arg)) for arg in args if isinstance(arg, Tensor)):
            if known is not None and isinstance(y, Tensor):
                self._follow(func, args, *known, y)
                break
        return result

    def _follow(self, func: Any, args: Sequence[Any], x: Tensor, path: str, axis: int, y: Tensor) -> None:
        """Where a layer's channels are in what an operator made of them, or what it took them apart into."""
        if func in _VIEWS:
            place, sizes = _sizes(x.shape, y.shape, axis)
            if len(sizes) > 1:
                self.found[path] = sizes
            if len(sizes) != 1:
                return
            axis = place
        elif func is aten.transpose.int:
            swapped = [d % x.dim() for d in args[1:3]]
            axis = swapped[1 - swapped.index(axis)] if axis in swapped else axis
        elif func is aten.permute.default:
            axis = [d % x.dim() for d in args[1]].index(axis)
        elif y.shape != x.shape or not (torch.Tag.pointwise in func.tags or func in _SAME_CHANNELS):
            return
        self._outputs[id(y)] = (y, path, axis)


def _sizes(before: Sequence[int], after: Sequence[int], axis: int) -> tuple[int, Sizes]:
    """Where an axis begins after a view, and its sizes there: one, several, or none where it was mixed up."""
    for place in reversed(range(len(after))):
        if math.prod(after[:place]) == math.prod(before[:axis]):
            for end in range(place + 1, len(after) + 1):
                if math.prod(after[place:end]) == before[axis]:
                    return place, tuple(after[place:end])
    return 0, ()


def sizes_of(net: nn.Module, example_input: Tensor) -> dict[str, Sizes]:
    """Layers whose channels are taken apart, by module path: into what sizes, a head's channels last."""
    watch = _Watch()
    layers = ((p, m) for p, m in net.named_modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd))
    handles = [m.register_forward_hook(functools.partial(watch.note, p)) for p, m in layers]
    try:
        with torch.no_grad(), watch:
            net(example_input)
    finally:
        for handle in handles:
            handle.remove()
    return watch.found


def places(channels: int, blocks: int) -> Tensor:
    """(channels / blocks, blocks): channels at the same place in each block go together."""
    return torch.arange(channels).view(blocks, -1).T


def _whole(sizes: Sizes) -> Tensor:
    """(heads, rest): the channels of each head, in every piece (queries, keys, values) that has heads."""
    *_, heads, _ = sizes
    return torch.arange(math.prod(sizes)).view(-1, heads, sizes[-1]).movedim(1, 0).flatten(1)


def together(
    net: nn.Module, example_input: Tensor, ignored: Collection[str] = ()
) -> Mapping[str, Tensor | None]:
    """Which channels of a layer go together, for layers whose channels are taken apart.

    Args:
        net: in eval mode; left as it is.
        example_input: (1, *shape).
        ignored: module paths of layers that are left alone.

    Returns:
        by module path (places, channels of each); None where the network runs neither with narrower heads
        nor with fewer.
    """
    found: dict[str, Tensor | None] = {}
    for path, sizes in sizes_of(net, example_input).items():
        if path in ignored:
            continue
        narrower, fewer = (*sizes[:-1], sizes[-1] - 1), (*sizes[:-2], sizes[-2] - 1, sizes[-1])
        ways = ((places(math.prod(sizes), math.prod(sizes[:-1])), narrower), (_whole(sizes), fewer))
        found[path] = next(
            (
                units
                for units, left in ways
                if 0 not in left and _after(net, example_input, path, units[0]) == left
            ),
            None,
        )
    return found


def _after(net: nn.Module, example_input: Tensor, path: str, gone: Tensor) -> Sizes | None:
    """The sizes of a layer's channels once some are gone; None where the network does not run then."""
    cut = copy.deepcopy(net)
    layer = cut.get_submodule(path)
    graph = graph_of(cut, example_input)
    if layer not in graph.module2node:
        return None
    graph.get_pruning_group(
        layer, graph.get_pruner_of_module(layer).prune_out_channels, gone.tolist()
    ).prune()
    try:
        return sizes_of(cut, example_input).get(path)
    except (RuntimeError, ValueError, AssertionError):  # a size that is written out, or looked at
        return None


def graph_of(module: nn.Module, example_input: Tensor) -> Any:
    """Which layers must be cut together. Found by following autograd, so nothing is frozen meanwhile."""
    import torch_pruning as tp

    with thawed(module), warnings.catch_warnings():
        # Parameters that are added to images or tokens are cut along their last axis, as they should be.
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
        return tp.DependencyGraph().build_dependency(module, example_input)
