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
from edgekd.prune.heads import graph_of, places
from edgekd.prune.heads import together as heads_together
from edgekd.prune.importance import Samples, scorer
from edgekd.prune.named import left_alone, weighted

History = list[Any]  # Torch-Pruning's account of the channels that it cut
Channels = Mapping[str, int]


class Round(TypedDict):
    """What one round took from a network: JSON, from which `rebuild` takes it again."""

    channels: History
    blocks: list[str]  # module paths


@dataclass(frozen=True)
class Group:
    """Layers whose channels are cut together.

    Attributes:
        members: Torch-Pruning's.
        together: (places, channels): what goes at once; one channel, or one of each block, or a head.
        scores: of the places.
    """

    members: Any
    together: Tensor
    scores: Tensor

    def gone(self, kept: int) -> list[int]:
        """The channels that the group lacks with so many places: those of the least important ones."""
        least = self.scores.argsort(stable=True)[: max(len(self.scores) - kept, 0)]
        found: list[int] = self.together[least].flatten().sort().values.tolist()
        return found


class Prunable:
    """A copy of a network whose groups can be cut; equal networks have the same groups in the same order.

    Attributes:
        net: the copy, in eval mode.
        groups: what is cut together.
        unreached: convolutions and linear layers that the outputs could not be followed back to.
        last: the layer that makes the outputs, which stays as wide as they are.

    `first` are the layers' channels before earlier rounds of pruning: of them max_pruning_ratio may go.
    `heads` is what `heads.together` says of the module, where it has been asked already.
    """

    def __init__(
        self,
        module: nn.Module,
        example_input: Tensor,
        config: PruneConfig,
        samples: Samples,
        first: Channels | None = None,
        heads: Mapping[str, Tensor | None] | None = None,
    ) -> None:
        self.net = copy.deepcopy(module).eval()
        self.groups: list[Group] = []
        self._graph = graph_of(self.net, example_input)
        self._paths = {layer: path for path, layer in self.net.named_modules()}
        named, self.last = left_alone(self.net, config.ignored_layers), _last(self.net, example_input)
        if heads is None:
            heads = heads_together(self.net, example_input, named)
        layers = weighted(self.net)
        self.unreached = [name for name, m in layers.items() if m not in self._graph.module2node]
        self._most = config.max_pruning_ratio
        score = scorer(config.importance, self.net, samples)
        alone = [layer for path, layer in self.net.named_modules() if path in {*named, self.last}]
        for members in _groups(self._graph, alone):
            self._check_followed(members)
            together = self._together(members, heads)
            # What goes at once is scored at once.
            self.groups.append(Group(members, together, score(members)[together].mean(dim=1)))
        self._first = channels_of(module) if first is None else first
        self.net.zero_grad()  # what scores may have left there

    @property
    def widths(self) -> list[int]:
        """Of the groups before any cut, in places."""
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

    def makers(self, index: int) -> list[str]:
        """Module paths of the layers that give a group's channels."""
        members = self.groups[index].members
        return [self._paths[d.target.module] for d, _ in members if d.handler in _makers()]

    def narrowed(self) -> set[str]:
        """Module paths of all whose output some group makes narrower."""
        graph = self._graph
        return {
            path
            for group in self.groups
            for dep, _ in group.members
            if (path := self._paths.get(dep.target.module)) and graph.is_out_channel_pruning_fn(dep.handler)
        }

    def least(self, index: int) -> int:
        """The narrowest that a group may become; two at least: layers of one channel are of another kind."""
        width, size = self.widths[index], self.groups[index].together.shape[1]
        made = [self._first[path] for path in self.makers(index)]
        return min(width, max(2, *(math.ceil(round(n * (1 - self._most) / size, 6)) for n in made)))

    def _check_followed(self, members: Any) -> None:
        """Torch-Pruning loses count in some rows of operators, such as chunk and then view."""
        graph, root = self._graph, self._paths.get(members[0].dep.target.module)
        self._check_whole(members, root)
        for dep, channels in members:
            layer = dep.target.module
            if layer not in self._paths:
                continue
            out = graph.is_out_channel_pruning_fn(dep.handler)
            width = graph.get_out_channels(layer) if out else graph.get_in_channels(layer)
            if width is not None and channels and max(channels) >= width:  # one slope of a PReLU has none
                raise UsageError(
                    f"prune: Torch-Pruning cannot follow the channels of {root} to {self._paths[layer]}",
                    hint=f"write forward with view in place of chunk or split, or name {root} in "
                    "prune.ignored_layers",
                )

    def _check_whole(self, members: Any, root: str | None) -> None:
        """What is added to a layer's output has as many channels: fewer, where zeros were put beside them."""
        met: dict[nn.Module, set[int]] = {}
        for dep, channels in members:
            if dep.handler in _makers():
                met.setdefault(dep.target.module, set()).update(channels)
        for layer, channels in met.items():
            if len(channels) < (width := self._graph.get_out_channels(layer)):
                raise UsageError(
                    f"prune: Torch-Pruning cannot follow the channels of {root} to {self._paths[layer]}: "
                    f"they are {len(channels)} of its {width}",
                    hint=f"name {root} in prune.ignored_layers: what is tied to it stays whole, the layers "
                    "inside the blocks are cut; or shortcuts with weights (shortcut = 'conv') for pads",
                )

    def _together(self, members: Any, heads: Mapping[str, Tensor | None]) -> Tensor:
        """What of a group's channels goes at once."""
        channels = len(members[0].idxs)
        makers = dict.fromkeys(self._paths[d.target.module] for d, _ in members if d.handler in _makers())
        made = [path for path in makers if path in heads]
        if not made:
            return places(channels, _blocks(members))
        found = [each for path in made if (each := heads[path]) is not None]
        if len(found) < len(made) or not all(each.equal(found[0]) for each in found):
            raise UsageError(
                f"prune: what {', '.join(made)} give cannot become narrower: forward takes it apart into "
                "sizes that are written out, or that differ",
                hint="let forward work out how many heads there are, or how wide they are (-1 in view), or "
                "name these layers in prune.ignored_layers",
            )
        blocks = _blocks(members)
        if blocks > 1 and not places(channels, blocks).equal(found[0]):
            raise UsageError(
                f"prune: what {', '.join(made)} give has other heads than a GroupNorm or a grouped "
                "convolution has groups",
                hint="as many groups as heads, or name these layers in prune.ignored_layers",
            )
        return found[0]

    def narrow(self, index: int, kept: int) -> None:
        """Cuts the least important channels of a group."""
        if gone := self.groups[index].gone(kept):
            self._all_of(index, gone).prune()

    @contextmanager
    def masked(self, index: int, kept: int) -> Iterator[None]:
        """While it is open, what `narrow` would cut is zero.

        Answers are as if it had gone, but for narrower heads: attention divides by the root of their width.
        """
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


def _groups(graph: Any, alone: list[nn.Module]) -> list[Any]:
    return [
        members
        for members in list(graph.get_all_groups(ignored_layers=alone))
        # Channels of the network's input, on a depthwise convolution, are made by nothing.
        if any(dep.handler in _makers() for dep, _ in members)
    ]


def _makers() -> tuple[Any, ...]:
    """The cuts that channels begin with."""
    import torch_pruning as tp

    return (tp.prune_conv_out_channels, tp.prune_linear_out_channels)


def _blocks(group: Any) -> int:
    """Into how many equal blocks grouped convolutions, GroupNorms and heads divide the group's channels."""
    found = [1]
    for dep, _ in group:
        layer = dep.target.module
        if isinstance(layer, nn.GroupNorm):
            found.append(layer.num_groups)
        elif isinstance(layer, nn.modules.conv._ConvNd) and 1 < layer.groups < layer.out_channels:
            found.append(layer.groups)
        elif isinstance(layer, nn.MultiheadAttention):
            found.append(layer.num_heads)
    return math.lcm(*found)


def _last(module: nn.Module, example_input: Tensor) -> str:
    """The path of the layer that makes the outputs: classes are not channels."""
    ran: list[str] = []
    hooks = [
        m.register_forward_hook(lambda *_, path=path: ran.append(path))
        for path, m in module.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        module(example_input)
    for hook in hooks:
        hook.remove()
    return ran[-1] if ran else ""


def rebuild(module: nn.Module, example_input: Tensor, rounds: Sequence[Round]) -> nn.Module:
    """A copy of the unpruned network cut to the recorded architecture; weights are loaded afterwards."""
    cut = copy.deepcopy(module).eval()
    for taken in rounds:
        # Followed anew, as when they were cut: what depends on what may be another after a cut.
        graph_of(cut, example_input).load_pruning_history(taken["channels"])
        depth.remove(cut, taken["blocks"])
    return cut
