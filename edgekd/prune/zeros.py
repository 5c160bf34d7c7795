"""Single weights set to zero: the smallest ones, or two of every four.

Shapes stay what they are and dense kernels multiply by zero as they do by anything else, so nothing becomes
faster in the runtimes here; what is smaller is a compressed file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from edgekd.config import PruneConfig
from edgekd.errors import UsageError
from edgekd.prune.named import left_alone, weighted

_FOUR, _KEPT = 4, 2


def nonzeros(module: nn.Module) -> int:
    """How many weights of convolutions and linear layers are not zero."""
    return sum(int(weight.count_nonzero()) for weight in _weights(module).values())


@torch.no_grad()
def begin(module: nn.Module) -> None:
    """Gives layers that begin with zeros alone, as training will, other weights, in place."""
    for weight in _weights(module).values():
        if not weight.any():
            weight.fill_(1.0)


def smallest(module: nn.Module, config: PruneConfig, limit: int, seed: int) -> nn.Module:
    """A copy whose smallest weights are zero (Han et al. 2015, arXiv 1506.02626).

    Args:
        module: left as it is.
        config: which are ranked together, most of a layer that may go, layers left alone; importance
            "random" is the control.
        limit: how many weights may stay.
        seed: for the control.

    Raises:
        UsageError: an unknown layer path, or a limit below what `max_pruning_ratio` leaves.
    """
    made = copy.deepcopy(module)
    found = list(chosen(made, config).values())
    sizes = [int(weight.count_nonzero()) for weight in found]
    free = limit - (nonzeros(made) - sum(sizes))
    # Of a layer that has zeros already less is left to take.
    least = [
        min(size, weight.numel() - int(config.max_pruning_ratio * weight.numel()))
        for size, weight in zip(sizes, found, strict=True)
    ]
    if free < sum(least):
        raise UsageError(
            f"prune: {limit:,} weights are out of reach: at least {sum(least) + limit - free:,} stay",
            hint="raise prune.max_pruning_ratio or the limit",
        )
    draw = torch.Generator().manual_seed(seed)
    scores = []
    for weight in found:
        size = weight.abs() if config.importance != "random" else 1 - torch.rand(weight.shape, generator=draw)
        scores.append((size * (weight != 0)).flatten())
    orders = [score.argsort(descending=True, stable=True) for score in scores]
    if config.scope == "layer":
        kept = _shared_out(free, sizes, least)
    else:
        # The largest of each layer stay in any case; for what is left all layers compete.
        rest = [score[order[n:]] for score, order, n in zip(scores, orders, least, strict=True)]
        layer = torch.cat([torch.full((len(part),), i) for i, part in enumerate(rest)])
        won = layer[torch.cat(rest).argsort(descending=True, stable=True)[: free - sum(least)]]
        more = won.bincount(minlength=len(rest)).tolist()
        kept = [n + m for n, m in zip(least, more, strict=True)]
    with torch.no_grad():
        for weight, order, n in zip(found, orders, kept, strict=True):
            gone = torch.ones(len(order), dtype=torch.bool)
            gone[order[:n]] = False
            weight.masked_fill_(gone.view(weight.shape), 0.0)  # whatever their order in memory
    return made


def _shared_out(free: int, sizes: Sequence[int], least: Sequence[int]) -> list[int]:
    """How many of each layer stay: the same share of all, within what each must and can keep."""
    kept, total = list(least), sum(sizes)
    share = free / total
    for i, size in enumerate(sizes):
        kept[i] = min(size, max(least[i], int(share * size)))
    # What rounding and the limits of other layers leave over, or lack, falls to those furthest from it.
    while (over := free - sum(kept)) != 0:
        step = 1 if over > 0 else -1
        open_to = [i for i in range(len(kept)) if least[i] <= kept[i] + step <= sizes[i]]
        nearest_first = sorted(open_to, key=lambda i: step * (kept[i] / sizes[i] - share))
        for i in nearest_first[: abs(over)]:
            kept[i] += step
    return kept


def two_of_four(module: nn.Module, config: PruneConfig) -> nn.Module:
    """A copy in which of every four weights along the input channels the two smallest are zero.

    The pattern that sparse tensor cores take (Mishra et al. 2021, arXiv 2104.08378). Layers whose input
    channels are no multiple of four stay whole, as do grouped and transposed convolutions.

    Raises:
        UsageError: an unknown layer path, or there is no layer that could take the pattern.
    """
    made = copy.deepcopy(module)
    fitting = [
        weight
        for path, weight in chosen(made, config).items()
        if weight.shape[1] % _FOUR == 0 and _is_plain(made.get_submodule(path))
    ]
    if not fitting:
        raise UsageError(
            f"prune: no layer of {type(module).__name__} has a multiple of {_FOUR} input channels",
            hint='widths of which 4 is a factor, or pattern = "unstructured"',
        )
    with torch.no_grad():
        for weight in fitting:
            fours = torch.unflatten(weight.movedim(1, -1), -1, (-1, _FOUR))  # a view
            fours.scatter_(-1, fours.abs().topk(_FOUR - _KEPT, largest=False).indices, 0.0)
    return made


def _is_plain(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (layer.groups == 1 and not layer.transposed)  # type: ignore[return-value]


def held(module: nn.Module, ignored: Collection[str] = ()) -> Callable[[], None]:
    """What sets the weights that are zero now to zero again, wherever training has moved them.

    Args:
        module: made sparse.
        ignored: module paths of layers whose zeros are none of pruning's.
    """
    alone = left_alone(module, ignored)
    masks = [(weight, weight == 0) for path, weight in _weights(module).items() if path not in alone]

    @torch.no_grad()
    def hold() -> None:
        for weight, mask in masks:
            weight.masked_fill_(mask.to(weight.device), 0.0)

    return hold


def unheld() -> None:
    """As `held`, of a network without such weights."""


def chosen(module: nn.Module, config: PruneConfig) -> dict[str, Tensor]:
    """The weights that may go, by module path."""
    alone = left_alone(module, config.ignored_layers)
    whole = {id(layer.weight) for path, layer in weighted(module).items() if path in alone}
    found = {path: weight for path, weight in _weights(module).items() if id(weight) not in whole}
    if not found:
        raise UsageError(
            f"prune: nothing in {type(module).__name__} can be pruned",
            hint="it has no convolution or linear layer of torch.nn, or prune.ignored_layers names all",
        )
    return found


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Of convolutions and linear layers, by module path; one that layers share stands once."""
    found: dict[str, Tensor] = {}
    seen = set()
    for path, layer in weighted(module).items():
        if "weight" not in layer._parameters:
            raise UsageError(
                f"prune: the weights of {path} are worked out from others (a parametrization)",
                hint="torch.nn.utils.parametrize.remove_parametrizations first",
            )
        if id(layer.weight) not in seen:
            seen.add(id(layer.weight))
            found[path] = layer.weight
    return found
