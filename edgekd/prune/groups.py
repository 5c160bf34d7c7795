"""Groups of channels that must be cut together, found, ranked and cut by Torch-Pruning."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from edgekd.config import PruneConfig
from edgekd.errors import UsageError
from edgekd.prune import depth
from edgekd.prune.importance import Samples, scorer, thawed

History = list[Any]  # Torch-Pruning's account of the channels that it cut
Channels = Mapping[str, int]


class Round(TypedDict):
    """What one round took from a network: JSON, from which `rebuild` takes it again."""

    channels: History
    blocks: list[str]  # module paths


@dataclass(frozen=True)
class Group:
    """Channels that are cut together: `scores` of those at the same place in each of `blocks` blocks."""

    members: Any
    blocks: int
    scores: Tensor

    def gone(self, kept: int) -> list[int]:
        """The channels that the group lacks at this width: the least important ones, in each block."""
        width = len(self.scores)
        places = self.scores.argsort(stable=True)[: max(width - kept, 0)]
        found: list[int] = torch.cat([places + i * width for i in range(self.blocks)]).sort().values.tolist()
        return found


class Prunable:
    """A copy of a network whose groups can be cut; equal networks have the same groups in the same order.

    Attributes:
        net: the copy, in eval mode.
        groups: what is cut together.
        unreached: convolutions and linear layers that the outputs could not be followed back to.

    `first` are the layers' channels before earlier rounds of pruning: of them max_pruning_ratio may go.
    """

    def __init__(
        self,
        module: nn.Module,
        example_input: Tensor,
        config: PruneConfig,
        samples: Samples,
        first: Channels | None = None,
    ) -> None:
        self.net = copy.deepcopy(module).eval()
        self.groups: list[Group] = []
        self._graph = _graph(self.net, example_input)
        layers = {n: m for n, m in self.net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        self.unreached = [name for name, m in layers.items() if m not in self._graph.module2node]
        self._most = config.max_pruning_ratio
        score = scorer(config.importance, self.net, samples)
        for members in _groups(self._graph, self.net, example_input, config):
            blocks = _blocks(members)
            # Blocks lose the same channels, so those at the same place in each block are scored together.
            scores = score(members).view(blocks, -1).mean(dim=0)
            self.groups.append(Group(members, blocks, scores))
        self._paths = {layer: path for path, layer in self.net.named_modules()}
        self._first = channels_of(module) if first is None else first
        self.net.zero_grad()  # what scores may have left there

    @property
    def widths(self) -> list[int]:
        """Of the groups before any cut, in places of a block."""
        return [len(group.scores) for group in self.groups]

    def path_of(self, module: nn.Module) -> str | None:
        """Of a member's module; None for what Torch-Pruning puts in for an operator."""
        return self._paths.get(module)

    def ranked_together(self, scope: str) -> list[list[int]]:
        """Groups whose channels are compared: all, each alone, or those of the same make."""
        found: dict[Any, list[int]] = {}
        for i, group in enumerate(self.groups):
            makes = {
                "global": None,
                "layer": i,
                "isomorphic": tuple(
                    (type(d.target.module), d.handler.__qualname__) for d, _ in group.members
                ),
            }
            found.setdefault(makes[scope], []).append(i)
        return list(found.values())

    def cut(self, blocks: Sequence[str] = ()) -> Round:
        """Takes out blocks, after all narrowing; what was taken in all."""
        history: History = self._graph.pruning_history()
        depth.remove(self.net, blocks)
        return {"channels": history, "blocks": list(blocks)}

    def least(self, index: int) -> int:
        """The narrowest that a group may become; two at least: layers of one channel are of another kind."""
        width, members = self.widths[index], self.groups[index].members
        blocks = self.groups[index].blocks
        made = [self._first[self._paths[d.target.module]] for d, _ in members if d.handler in _makers()]
        return min(width, max(2, *(math.ceil(round(n * (1 - self._most) / blocks, 6)) for n in made)))

    def narrow(self, index: int, kept: int) -> None:
        """Cuts the least important channels of a group."""
        if gone := self.groups[index].gone(kept):
            self._all_of(index, gone).prune()

    @contextmanager
    def masked(self, index: int, kept: int) -> Iterator[None]:
        """While it is open, what `narrow` would cut is zero: answers are as if it had gone."""
        import torch_pruning as tp

        producers = (
            tp.prune_conv_out_channels,
            tp.prune_linear_out_channels,
            tp.prune_batchnorm_out_channels,
            tp.prune_depthwise_conv_out_channels,
        )
        gone, handles = self.groups[index].gone(kept), []
        for dep, indices in self._all_of(index, gone) if gone else ():
            if dep.handler in producers:
                handles.append(dep.target.module.register_forward_hook(functools.partial(_zero, indices)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _all_of(self, index: int, gone: list[int]) -> Any:
        """What must be cut with these channels; taken anew, since other cuts may have moved the indices."""
        root = self.groups[index].members[0].dep
        return self._graph.get_pruning_group(root.target.module, root.handler, gone)


def _zero(indices: list[int], module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """A forward hook that clears channels."""
    axis = -1 if isinstance(module, nn.Linear) else 1
    return output.index_fill(axis, torch.tensor(indices), 0.0)


def channels_of(module: nn.Module) -> Channels:
    """What each convolution and linear layer gives, by module path."""
    layers = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)}
    return {n: m.out_features if isinstance(m, nn.Linear) else m.out_channels for n, m in layers.items()}


def _groups(graph: Any, net: nn.Module, example_input: Tensor, config: PruneConfig) -> list[Any]:
    ignored = _ignored(net, example_input, config)
    return [
        members
        for members in list(graph.get_all_groups(ignored_layers=ignored))
        # Channels of the network's input, on a depthwise convolution, are made by nothing.
        if any(dep.handler in _makers() for dep, _ in members)
    ]


def _makers() -> tuple[Any, ...]:
    """The cuts that channels begin with."""
    import torch_pruning as tp

    return (tp.prune_conv_out_channels, tp.prune_linear_out_channels)


def _graph(module: nn.Module, example_input: Tensor) -> Any:
    """Which layers must be cut together. Found by following autograd, so nothing is frozen meanwhile."""
    import torch_pruning as tp

    with thawed(module):
        return tp.DependencyGraph().build_dependency(module, example_input)


def _blocks(group: Any) -> int:
    """Into how many equal blocks a grouped convolution or GroupNorm divides the group's channels."""
    found = [1]
    for dep, _ in group:
        layer = dep.target.module
        if isinstance(layer, nn.GroupNorm):
            found.append(layer.num_groups)
        elif isinstance(layer, nn.modules.conv._ConvNd) and 1 < layer.groups < layer.out_channels:
            found.append(layer.groups)
    return max(found)


def _ignored(module: nn.Module, example_input: Tensor, config: PruneConfig) -> list[nn.Module]:
    """The layers named in the recipe, and those that make the outputs: classes are not channels."""
    modules = dict(module.named_modules())
    for path in config.ignored_layers:
        if path not in modules:
            layers = [n for n, m in modules.items() if isinstance(m, nn.Conv2d | nn.Linear)]
            raise UsageError(f"prune.ignored_layers: no layer {path!r}", hint=f"layers: {', '.join(layers)}")
    last: list[nn.Module] = []
    hooks = [
        m.register_forward_hook(lambda m, *_: last.append(m))
        for m in module.modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        module(example_input)
    for hook in hooks:
        hook.remove()
    return [modules[path] for path in config.ignored_layers] + last[-1:]


def rebuild(module: nn.Module, example_input: Tensor, rounds: Sequence[Round]) -> nn.Module:
    """A copy of the unpruned network cut to the recorded architecture; weights are loaded afterwards."""
    cut = copy.deepcopy(module).eval()
    for taken in rounds:
        # Followed anew, as when they were cut: what depends on what may be another after a cut.
        _graph(cut, example_input).load_pruning_history(taken["channels"])
        depth.remove(cut, taken["blocks"])
    return cut
