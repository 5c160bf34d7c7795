"""Structured pruning to a goal: one ratio for all groups by search, or the best width of each by a price."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import kl_div, normalize
from torch.utils.flop_counter import FlopCounterMode

from edgekd import losses
from edgekd.config import PruneConfig
from edgekd.errors import UsageError
from edgekd.folding import fold_batch_norm, for_integers
from edgekd.latency.network import layers_of, spans_of
from edgekd.layers import Layer
from edgekd.prune import depth, heads, widths
from edgekd.prune.groups import Channels, Prunable, Round
from edgekd.prune.importance import Samples
from edgekd.prune.named import left_alone, weighted
from edgekd.prune.wiring import Wire, wire

# Of cosines, as of the loss contrastive; and what none of them reaches.
_TEMPERATURE, _NOT_ITSELF = 0.05, 1e4
_VECTOR_BYTES = 4  # of a bias's number: int32 beside 8-bit weights, single precision beside halves
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


def cost(module: nn.Module, example_input: Tensor, goal: str, bytes_per_weight: int) -> int:
    """What a network has of what a goal counts; size_bytes as in a file, norms folded, without its graph."""
    if goal == "size_bytes":
        in_file = (for_integers if bytes_per_weight == 1 else fold_batch_norm)(module)
        numbers = [(p.numel(), p.dim() > 1) for p in in_file.parameters()]
        return sum(n * (bytes_per_weight if is_weight else _VECTOR_BYTES) for n, is_weight in numbers)
    macs, params = count(module, example_input)
    return {"macs": macs, "params": params}[goal]


def counted(of: str, bytes_per_weight: int) -> widths.Price:
    """What a layer has of "macs", "params" or "size_bytes" in a file: with a bias, norms folded into it."""
    # Of a weight and of a bias.
    size = {"params": (1, 1), "size_bytes": (bytes_per_weight, _VECTOR_BYTES)}

    def price(layer: Layer) -> float:
        if of == "macs":
            return layer.macs
        weight, bias = size[of]
        return weight * layer.weights + bias * (layer.out_channels if layer.weights else 0)

    return price


def prune(
    module: nn.Module,
    example_input: Tensor,
    config: PruneConfig,
    *,
    limit: int,
    channel_multiple: int,
    bytes_per_weight: int,
    samples: Samples,
    seed: int,
    first: Channels | None = None,
) -> tuple[nn.Module, Round]:
    """A pruned copy that just meets the goal, and what was taken, which makes it again from the original.

    The widest network that meets the goal is searched by halving the pruning ratio; each
    try cuts a fresh copy, since Torch-Pruning works in place (Fang et al. 2023, arXiv 2301.12900).

    Args:
        module: the network; left as it is.
        example_input: (1, *shape).
        config: what is counted, importance, what to leave alone.
        limit: how much the copy may have of that; less than the network has.
        channel_multiple: widths are rounded to multiples of this.
        bytes_per_weight: for the goal size_bytes: 1 for int8 weights, 2 for fp16, 4 for fp32.
        samples: for the importance `taylor` and `activation`.
        seed: for the importance `random`.
        first: channels of the layers before the first of several rounds; None: this is it.

    Raises:
        UsageError: an unknown layer path, nothing to prune, or a goal out of reach.
    """
    named = left_alone(module, config.ignored_layers)
    apart = heads.together(copy.deepcopy(module).eval(), example_input, named)

    def attempt(ratio: float) -> tuple[nn.Module, Round, int]:
        torch.manual_seed(seed)
        found = Prunable(module, example_input, config, samples, first, apart)
        cut, taken = _cut(found, ratio, channel_multiple, config.scope)
        return cut, taken, cost(cut, example_input, config.goal, bytes_per_weight)

    best = attempt(1.0)  # every group down to what max_pruning_ratio leaves
    if not best[1]["channels"]:
        found = Prunable(module, example_input, config, samples)
        hint = (
            "a wider student, the target's artifact.channel_multiple smaller, or fewer prune.ignored_layers"
        )
        raise _nothing(module, found, f"to multiples of {channel_multiple}", hint)
    if best[2] > limit:
        raise UsageError(
            f"prune: {config.goal} = {limit:,} is out of reach: the smallest network has {best[2]:,}",
            hint="raise prune.max_pruning_ratio or the goal",
        )
    return _search(attempt, best, limit)


def left_whole(
    module: nn.Module, example_input: Tensor, config: PruneConfig, *, channel_multiple: int, samples: Samples
) -> list[str]:
    """Layers that no goal makes narrower, though the recipe does not name them, each with the reason.

    Args:
        module: left as it is.
        example_input: (1, *shape).
        config: max_pruning_ratio, and what the recipe leaves alone.
        channel_multiple: of widths; 1 for the goal latency_ms.
        samples: as for pruning.
    """
    found = Prunable(module, example_input, config, samples)
    named = left_alone(module, config.ignored_layers)
    known = {*found.narrowed(), *named, found.last}
    reasons = []
    for path in (path for path in weighted(module) if path not in known):
        tied = "it has the channels of the inputs, of the outputs or of a layer that the recipe names"
        unreached = path in found.unreached
        reasons.append(f"{path}: {'no gradient comes to it from the outputs' if unreached else tied}")
    for i, width in enumerate(found.widths):
        size = found.groups[i].together.shape[1]
        step = _step(channel_multiple, size)
        narrowest = math.ceil(found.least(i) / step) * step
        if narrowest >= width:
            least = f"of {width * size} channels at least {found.least(i) * size} stay"
            reasons.append(
                f"{', '.join(found.makers(i))}: {least}, and no multiple of {step * size} lies between"
            )
    return reasons


def _step(multiple: int, size: int) -> int:
    """How many places, of so many channels each, make a multiple."""
    return multiple // math.gcd(multiple, size)


def _nothing(module: nn.Module, found: Prunable, how: str, hint: str) -> UsageError:
    """Torch-Pruning passes over what it does not know without a word: what it found says why."""
    if not any(isinstance(m, nn.Linear | nn.modules.conv._ConvNd) for m in module.modules()):
        hint = (
            "it has no convolution or linear layer of torch.nn; Keras layers cannot be pruned: "
            "native = true under [student.model] rebuilds a .keras file from layers that can"
        )
    elif found.unreached:
        names = ", ".join(found.unreached)
        hint = f"no gradient comes from its outputs to {names}: a detach, or numpy, in forward"
    return UsageError(f"prune: nothing in {type(module).__name__} can be pruned {how}", hint=hint)


def _search(
    attempt: Callable[[float], tuple[nn.Module, Round, int]],
    best: tuple[nn.Module, Round, int],
    limit: int,
) -> tuple[nn.Module, Round]:
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
    budgets: Sequence[widths.Budget],
    samples: Samples,
    seed: int,
    first: Channels | None = None,
) -> tuple[nn.Module, Round]:
    """A pruned copy whose layers together keep to each budget, and what was taken.

    Widths are those at which a price steps down, whatever multiple they are. What a width loses is not
    guessed from weights, which differ in scale from group to group: each group alone is cut to it, and
    how far the answers to some samples move is what is lost (Kullback-Leibler divergence). Residual blocks
    that may be taken out whole are chosen with the widths, as groups of one channel or none.

    Args:
        module: the network; left as it is.
        example_input: (1, *shape).
        config: importance, what to leave alone, whether blocks may go.
        budgets: of all layers.
        samples: on which it is seen what a width loses.
        seed: for the importance `random`.
        first: channels of the layers before the first of several rounds; None: this is it.

    Raises:
        UsageError: an unknown layer path, nothing to prune, an operator without a price.
        OutOfReach: the narrowest network costs more than one of them.
    """
    torch.manual_seed(seed)
    open_to = _choices(module, example_input, config, budgets, samples, first)
    found = open_to.found
    lost = _losses(found, open_to.blocks, open_to.candidates, samples)
    chosen = widths.choose(open_to.wires, open_to.candidates, lost, budgets)
    for i in range(len(found.groups)):
        found.narrow(i, chosen[i])
    taken = found.cut(
        [path for path, kept in zip(open_to.blocks, chosen[len(found.groups) :], strict=True) if not kept]
    )
    layers = layers_of(found.net, example_input)
    for budget in budgets:
        if (costs := sum(map(budget.price, layers))) > budget.limit * (1 + 1e-6):
            raise RuntimeError(f"the network that was cut to {budget.of} = {budget.limit} has {costs}")
    return found.net, taken


def check_prices(
    module: nn.Module,
    example_input: Tensor,
    config: PruneConfig,
    *,
    budgets: Sequence[widths.Budget],
    samples: Samples,
) -> list[str]:
    """Layers that could become narrower, but at no width cheaper, where some choice keeps to the budgets.

    Raises as `prune_by_price`, whatever the weights, which may be untrained.
    """
    open_to = _choices(module, example_input, config, budgets, samples, None)
    nothing_lost = [np.zeros(len(widths_of)) for widths_of in open_to.candidates]
    widths.choose(open_to.wires, open_to.candidates, nothing_lost, budgets)
    found = open_to.found
    return [
        f"{', '.join(found.makers(i))}: at no width down to {found.least(i)} cheaper than at {width}"
        for i, width in enumerate(found.widths)
        if found.least(i) < width and len(open_to.candidates[i]) == 1
    ]


@dataclasses.dataclass(frozen=True)
class _Choices:
    """Between what widths can be chosen: of groups first, then of blocks (0 or 1)."""

    found: Prunable
    blocks: list[str]
    wires: tuple[Wire, ...]
    candidates: list[list[int]]


def _choices(
    module: nn.Module,
    example_input: Tensor,
    config: PruneConfig,
    budgets: Sequence[widths.Budget],
    samples: Samples,
    first: Channels | None,
) -> _Choices:
    found = Prunable(module, example_input, config, samples, first)
    blocks = _blocks(found.net, example_input, config) if config.remove_blocks else []
    wires = _wires(Prunable(module, example_input, config, samples), example_input, blocks)
    least = [found.least(i) for i in range(len(found.groups))] + [0] * len(blocks)
    prices = [budget.price for budget in budgets]
    candidates = widths.edges(wires, [*found.widths, *(1 for _ in blocks)], least, prices)
    if all(len(c) == 1 for c in candidates):
        hint = "a wider student or fewer prune.ignored_layers" + (
            "" if config.remove_blocks else ", or let blocks go: prune.remove_blocks = true"
        )
        raise _nothing(module, found, "that any width would make cheaper", hint)
    return _Choices(found, blocks, wires, candidates)


def _blocks(net: nn.Module, example_input: Tensor, config: PruneConfig) -> list[str]:
    """Those whose layers, and nothing else, go with them, and that hold no layer which the recipe names."""
    layers = layers_of(net, example_input)
    named = {*left_alone(net, config.ignored_layers), *losses.layers(config.losses, "student")}
    found = []
    for path in depth.removable(net, example_input):
        (span,) = spans_of(net, example_input, [path])
        try:
            with depth.without(net, path):
                left = layers_of(net, example_input)
        except (UsageError, RuntimeError, AttributeError):  # what comes after it cannot do without
            continue
        kept = any(name == path or depth.within(name, path) for name in named)
        if not kept and left == layers[: span.start] + layers[span.stop :]:
            found.append(path)
    return found


def _wires(found: Prunable, example_input: Tensor, blocks: Sequence[str] = ()) -> tuple[Wire, ...]:
    """Found by narrowing one group after the other, and looking at what has become narrower.

    Blocks are numbered behind the groups.
    """
    spans = spans_of(found.net, example_input, blocks)
    traces = [layers_of(found.net, example_input)]
    # A depthwise convolution of one channel would be told as another kind of layer.
    narrowed = [i for i, width in enumerate(found.widths) if width > 2]
    for i in narrowed:
        found.narrow(i, found.widths[i] - 1)
        traces.append(layers_of(found.net, example_input))
    try:
        wires = wire(traces, found.widths, narrowed)
    except ValueError as error:
        raise UsageError(f"prune: {error}", hint="prune.ignored_layers leaves layers whole") from None
    return tuple(
        dataclasses.replace(
            layer, switches=tuple(len(found.groups) + b for b, span in enumerate(spans) if i in span)
        )
        for i, layer in enumerate(wires)
    )


@torch.no_grad()
def _losses(
    found: Prunable, blocks: Sequence[str], candidates: list[list[int]], samples: Samples
) -> list[NDArray[np.float64]]:
    """For each group, then each block, how far the answers move at each width, the others being whole."""

    def narrower(i: int, kept: int) -> AbstractContextManager[None]:
        if i < len(found.groups):
            return found.masked(i, kept)
        return nullcontext() if kept else depth.without(found.net, blocks[i - len(found.groups)])

    def answers() -> list[Tensor]:
        outputs = torch.cat([found.net(x) for x, _ in samples.batches()])
        told = [outputs[:, head].log_softmax(dim=1) for head in samples.columns]
        return told if samples.vector is None else [*told, _neighbours(outputs[:, samples.vector])]

    whole, lost = answers(), []
    for i, choices in enumerate(candidates):
        moved = []
        for kept in choices:
            with narrower(i, kept):
                pairs = list(zip(answers(), whole, strict=True))
            moved.append(sum(float(kl_div(a, b, reduction="batchmean", log_target=True)) for a, b in pairs))
        # A narrower group never counts as better: what it gains here is chance.
        lost.append(np.maximum.accumulate(np.array(moved)[::-1])[::-1])
    return lost


def _neighbours(vectors: Tensor) -> Tensor:
    """Log chances (N, N) that each other sample is what one looks for, by cosines of vectors (N, width)."""
    unit = normalize(vectors)
    near = unit @ unit.T / _TEMPERATURE
    return near.fill_diagonal_(-_NOT_ITSELF).log_softmax(dim=1)


def _cut(found: Prunable, ratio: float, multiple: int, scope: str = "global") -> tuple[nn.Module, Round]:
    """The network without the least important `ratio` of the channels that are ranked together.

    The rounding is done here, since Torch-Pruning's own goes below max_pruning_ratio and
    skips a group that it rounded to nothing: a higher ratio could give a larger network.
    """
    for together in found.ranked_together(scope):
        ranked = torch.cat([found.groups[i].scores for i in together]).sort().values
        number = round(ratio * len(ranked))
        for i in together if number else ():
            group = found.groups[i]
            asked = int((group.scores <= ranked[number - 1]).sum())
            step = _step(multiple, group.together.shape[1])
            least = math.ceil(found.least(i) / step) * step
            found.narrow(i, max(least, (len(group.scores) - asked) // step * step))
    return found.net, found.cut()
