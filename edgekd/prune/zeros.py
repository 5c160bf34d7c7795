"""Single weights set to zero: the smallest ones, or two of every four.

Shapes stay what they are and dense kernels multiply by zero as they do by anything else, so nothing becomes
faster in the runtimes here; what is smaller is a compressed file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from edgekd.config import PruneConfig
from edgekd.errors import UsageError, nearest

_FOUR, _KEPT = 4, 2


def nonzeros(module: nn.Module) -> int:
    """How many weights of convolutions and linear layers are not zero."""
    return sum(int(weight.count_nonzero()) for _, weight in _weights(module))


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
    chosen, whole = _chosen(made, config), nonzeros(made)
    free = limit - (whole - sum(int(weight.count_nonzero()) for weight in chosen))
    draw = torch.Generator().manual_seed(seed)
    scores = [
        (
            weight.abs() if config.importance != "random" else torch.rand(weight.shape, generator=draw)
        ).flatten()
        * (weight != 0).flatten()
        for weight in chosen
    ]
    least = [len(score) - int(config.max_pruning_ratio * len(score)) for score in scores]
    if free < sum(least):
        raise UsageError(
            f"prune: {limit:,} weights are out of reach: at least {sum(least) + limit - free:,} stay",
            hint="raise prune.max_pruning_ratio or the limit",
        )
    orders = [score.argsort(descending=True, stable=True) for score in scores]
    if config.scope == "layer":
        total = sum(len(score) for score in scores)
        kept = [max(n, free * len(score) // total) for n, score in zip(least, scores, strict=True)]
    else:
        # The largest of each layer stay in any case; for what is left all layers compete.
        rest = torch.cat([score[order[n:]] for score, order, n in zip(scores, orders, least, strict=True)])
        layer = torch.cat(
            [torch.full((len(s) - n,), i) for i, (s, n) in enumerate(zip(scores, least, strict=True))]
        )
        won = layer[rest.argsort(descending=True, stable=True)[: free - sum(least)]]
        kept = [n + int(more) for n, more in zip(least, won.bincount(minlength=len(scores)), strict=True)]
    with torch.no_grad():
        for weight, order, n in zip(chosen, orders, kept, strict=True):
            weight.view(-1)[order[n:]] = 0
    return made


def two_of_four(module: nn.Module, config: PruneConfig) -> nn.Module:
    """A copy in which of every four weights along the input channels the two smallest are zero.

    The pattern that sparse tensor cores take (Mishra et al. 2021, arXiv 2104.08378). Layers whose input
    channels are no multiple of four stay whole, as do grouped convolutions.

    Raises:
        UsageError: an unknown layer path, or there is no layer that could take the pattern.
    """
    made = copy.deepcopy(module)
    fitting = [weight for weight in _chosen(made, config) if weight.shape[1] % _FOUR == 0]
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


def held(module: nn.Module) -> Callable[[], None]:
    """What sets the weights that are zero now to zero again, wherever training has moved them."""
    masks = [(weight, weight == 0) for _, weight in _weights(module)]

    @torch.no_grad()
    def hold() -> None:
        for weight, mask in masks:
            weight.masked_fill_(mask.to(weight.device), 0.0)

    return hold


def unheld() -> None:
    """As `held`, of a network without such weights."""


def _chosen(module: nn.Module, config: PruneConfig) -> list[Tensor]:
    """The weights that may go."""
    named = dict(_weights(module))
    for path in config.ignored_layers:
        if path not in named:
            raise UsageError(
                f"prune.ignored_layers: no layer {path!r}",
                hint=nearest(path, list(named), f"layers: {', '.join(named)}"),
            )
    found = [weight for path, weight in named.items() if path not in config.ignored_layers]
    if not found:
        raise UsageError(
            f"prune: nothing in {type(module).__name__} can be pruned",
            hint="it has no convolution or linear layer of torch.nn, or prune.ignored_layers names all",
        )
    return found


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Of convolutions and linear layers, by module path; one that layers share stands once."""
    seen = set()
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and id(layer.weight) not in seen:
            seen.add(id(layer.weight))
            yield path, layer.weight
