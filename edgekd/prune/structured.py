"""Structured pruning: dependency groups and their cutting by Torch-Pruning, the goal by search."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgekd.config import PruneConfig
from edgekd.errors import UsageError
from edgekd.latency.network import layers_of
from edgekd.prune import widths
from edgekd.prune.wiring import Wire, wire

History = list[Any]
SEARCH_STEPS = 9  # halvings of the pruning ratio's interval: a step of 0.2% of the widths


def count(module: nn.Module, example_input: Tensor) -> tuple[int, int]:
    """(multiply-accumulates of one sample, parameters).

    What convolutions and matrix products multiply: a BatchNorm folds away and a ReLU
    or a pool multiplies nothing, so none of them counts.
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        copy.deepcopy(module).eval()(example_input)
    return counter.get_total_flops() // 2, sum(p.numel() for p in module.parameters())


def prune(
    module: nn.Module,
    example_input: Tensor,
    config: PruneConfig,
    *,
    channel_multiple: int,
    bytes_per_weight: int,
    seed: int,
) -> tuple[nn.Module, History]:
    """A pruned copy that just meets the goal, and the history that makes it again from the original.

    The widest network that meets the goal is searched by halving the pruning ratio; each
    try cuts a fresh copy, since Torch-Pruning works in place (Fang et al. 2023, arXiv 2301.12900).

    Args:
        module: the network; left as it is.
        example_input: (1, *shape).
        config: goal, importance, what to leave alone.
        channel_multiple: widths are rounded to multiples of this.
        bytes_per_weight: for the goal size_bytes: 1 for int8 weights, 2 for fp16, 4 for fp32.
        seed: for the importance `random`.

    Raises:
        UsageError: an unknown layer path, nothing to prune, or a goal out of reach.
    """

    def cost(candidate: nn.Module) -> int:
        macs, params = count(candidate, example_input)
        return {"macs": macs, "params": params, "size_bytes": params * bytes_per_weight}[config.goal]

    whole = cost(module)
    limit = math.floor(config.limit if config.limit is not None else whole * (config.keep or 1.0))
    if limit >= whole:
        raise UsageError(
            f"prune: the goal of {limit:,} {config.goal} is not below the student's own {whole:,}",
            hint="lower prune.limit or prune.keep, or leave [prune] out",
        )

    def attempt(ratio: float) -> tuple[nn.Module, History, int]:
        torch.manual_seed(seed)
        cut, history = _cut(module, example_input, config, ratio, channel_multiple)
        return cut, history, cost(cut)

    best = attempt(1.0)  # every group down to what max_pruning_ratio leaves
    if not best[1]:
        raise _nothing(module, f"to multiples of {channel_multiple}")
    if best[2] > limit:
        raise UsageError(
            f"prune: {config.goal} = {limit:,} is out of reach: the smallest network has {best[2]:,}",
            hint="raise prune.max_pruning_ratio or the goal",
        )
    return _search(attempt, best, limit)


def _nothing(module: nn.Module, how: str) -> UsageError:
    return UsageError(
        f"prune: nothing in {type(module).__name__} can be pruned {how}",
        hint="a wider student, a smaller channel_multiple, or fewer prune.ignored_layers",
    )


def _search(
    attempt: Callable[[float], tuple[nn.Module, History, int]],
    best: tuple[nn.Module, History, int],
    limit: int,
) -> tuple[nn.Module, History]:
    low, high = 0.0, 1.0
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        candidate = attempt(middle)
        if candidate[2] <= limit:
            high = middle
            if candidate[2] >= best[2]:
                best = candidate
        else:
            low = middle
    return best[0], best[1]


def prune_by_price(
    module: nn.Module,
    example_input: Tensor,
    config: PruneConfig,
    *,
    price: widths.Price,
    limit: float,
    samples: Tensor,
    seed: int,
) -> tuple[nn.Module, History, float]:
    """A pruned copy whose layers together cost at most `limit`, its history, and what they cost.

    Widths are those at which the price steps down, whatever multiple they are. What a width loses is not
    guessed from weights, which differ in scale from group to group: each group alone is cut to it, and
    how far the answers to some samples move is what is lost (Kullback-Leibler divergence).

    Args:
        module: the network; left as it is.
        example_input: (1, *shape).
        config: importance, what to leave alone.
        price: of a layer.
        limit: of all layers, in the price's unit.
        samples: inputs (N, *shape) that are not the test's.
        seed: for the importance `random`.

    Raises:
        UsageError: an unknown layer path, nothing to prune, an operator without a price.
        OutOfReach: the narrowest network costs more.
    """
    torch.manual_seed(seed)
    cut = copy.deepcopy(module).eval()
    graph, groups = _scored(cut, example_input, config)
    whole = [len(group.scores) for group in groups]
    wires = _wires(module, example_input, config, whole)
    candidates = widths.edges(wires, whole, [_least(group, config) for group in groups], price)
    if all(len(c) == 1 for c in candidates):
        raise _nothing(module, "that any width would make cheaper")
    losses = _losses(cut, graph, groups, candidates, samples)
    chosen = widths.choose(wires, candidates, losses, price, limit)
    for group, kept in zip(groups, chosen, strict=True):
        _narrow(graph, group, kept)
    return cut, graph.pruning_history(), widths.total(wires, chosen, price)


def _wires(
    module: nn.Module, example_input: Tensor, config: PruneConfig, whole: list[int]
) -> tuple[Wire, ...]:
    """Found by narrowing one group after the other, and looking at what has become narrower."""
    cut = copy.deepcopy(module).eval()
    graph, groups = _scored(cut, example_input, config)
    traces = [layers_of(cut, example_input)]
    narrowed = [i for i, width in enumerate(whole) if width > 1]
    for i in narrowed:
        _narrow(graph, groups[i], whole[i] - 1)
        traces.append(layers_of(cut, example_input))
    return wire(traces, whole, narrowed)


@torch.no_grad()
def _losses(
    net: nn.Module, graph: Any, groups: list[_Group], candidates: list[list[int]], samples: Tensor
) -> list[NDArray[np.float64]]:
    """For each group how far the answers move at each of its widths, the others being whole."""
    whole = net(samples).log_softmax(dim=1)
    losses = []
    for group, choices in zip(groups, candidates, strict=True):
        found = []
        for kept in choices:
            with _masked(graph, group, kept):
                answer = net(samples).log_softmax(dim=1)
            found.append(float(nn.functional.kl_div(answer, whole, reduction="batchmean", log_target=True)))
        # A narrower group never counts as better: what it gains here is chance.
        losses.append(np.maximum.accumulate(np.array(found)[::-1])[::-1])
    return losses


@contextmanager
def _masked(graph: Any, group: _Group, kept: int) -> Iterator[None]:
    """While it is open, the channels that would go are zero, wherever they come from: as if they had gone."""
    import torch_pruning as tp

    producers = (
        tp.prune_conv_out_channels,
        tp.prune_linear_out_channels,
        tp.prune_batchnorm_out_channels,
        tp.prune_depthwise_conv_out_channels,
    )
    handles = []
    gone = _gone(group, kept)
    for dep, indices in _cutting(graph, group, gone) if gone else ():
        if dep.handler in producers:
            handles.append(dep.target.module.register_forward_hook(functools.partial(_zero, indices)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _zero(indices: list[int], module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """A forward hook that clears channels."""
    axis = -1 if isinstance(module, nn.Linear) else 1
    return output.index_fill(axis, torch.tensor(indices), 0.0)


@dataclass(frozen=True)
class _Group:
    """Channels that are cut together: `scores` of those at the same place in each of `blocks` blocks."""

    members: Any
    blocks: int
    scores: Tensor


def _scored(cut: nn.Module, example_input: Tensor, config: PruneConfig) -> tuple[Any, list[_Group]]:
    """The network's dependency graph and its groups, the same ones in the same order for equal networks."""
    import torch_pruning as tp

    importance = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "random": tp.importance.RandomImportance,
    }[config.importance]()
    graph, groups = _graph(cut, example_input), []
    for members in list(graph.get_all_groups(ignored_layers=_ignored(cut, example_input, config))):
        blocks = _blocks(members)
        # Blocks lose the same channels, so those at the same place in each block are scored together.
        groups.append(_Group(members, blocks, importance(members).detach().view(blocks, -1).mean(dim=0)))
    return graph, groups


def _least(group: _Group, config: PruneConfig) -> int:
    return math.ceil(round(len(group.scores) * (1 - config.max_pruning_ratio), 6))


def _narrow(graph: Any, group: _Group, kept: int) -> None:
    """Cuts the least important channels of a group, in place."""
    if gone := _gone(group, kept):
        _cutting(graph, group, gone).prune()


def _gone(group: _Group, kept: int) -> list[int]:
    """The channels that a group of this width lacks: the least important ones, in each block."""
    width = len(group.scores)
    places = group.scores.argsort(stable=True)[: max(width - kept, 0)]
    found: list[int] = torch.cat([places + i * width for i in range(group.blocks)]).sort().values.tolist()
    return found


def _cutting(graph: Any, group: _Group, gone: list[int]) -> Any:
    """What must be cut with these channels. Taken anew: other cuts may have moved this group's indices."""
    root = group.members[0].dep
    return graph.get_pruning_group(root.target.module, root.handler, gone)


def _cut(
    module: nn.Module, example_input: Tensor, config: PruneConfig, ratio: float, multiple: int
) -> tuple[nn.Module, History]:
    """A copy without the least important `ratio` of all channels, ranked over all groups of layers.

    The rounding is done here, since Torch-Pruning's own goes below max_pruning_ratio and
    skips a group that it rounded to nothing: a higher ratio could give a larger network.
    """
    cut = copy.deepcopy(module).eval()
    graph, groups = _scored(cut, example_input, config)
    ranked = torch.cat([group.scores for group in groups]).sort().values if groups else torch.empty(0)
    number = round(ratio * len(ranked))
    if number == 0:
        return cut, []
    for group in groups:
        asked = int((group.scores <= ranked[number - 1]).sum())
        step = multiple // math.gcd(multiple, group.blocks)
        least = math.ceil(_least(group, config) / step) * step
        _narrow(graph, group, max(least, (len(group.scores) - asked) // step * step))
    return cut, graph.pruning_history()


def _graph(module: nn.Module, example_input: Tensor) -> Any:
    """Which layers must be cut together. Found by following autograd, so nothing is frozen meanwhile."""
    import torch_pruning as tp

    frozen = [p for p in module.parameters() if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)
    with torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(module, example_input)
    for p in frozen:
        p.requires_grad_(False)
    return graph


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


def rebuild(module: nn.Module, example_input: Tensor, history: History) -> nn.Module:
    """A copy of the unpruned network cut to the recorded architecture; weights are loaded afterwards."""
    cut = copy.deepcopy(module).eval()
    _graph(cut, example_input).load_pruning_history(history)
    return cut
