"""How much each channel matters: by its weights, by what flows through it, or by what a loss says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgekd.errors import UsageError

BATCH = 128
Scorer = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Samples:
    """Some that are not the test's, on which it is seen what channels do.

    Attributes:
        inputs: (N, *shape), as the network takes them.
        labels: (N,); None where there are none.
        columns: of the outputs, those of each head, the judged one first.
    """

    inputs: Tensor
    labels: Tensor | None
    columns: Sequence[slice]

    def batches(self) -> Iterator[tuple[Tensor, slice]]:
        """Inputs with the rows that they are."""
        for start in range(0, len(self.inputs), BATCH):
            yield self.inputs[start : start + BATCH], slice(start, start + BATCH)


def scorer(kind: str, net: nn.Module, samples: Samples) -> Scorer:
    """From a group of Torch-Pruning to scores of its channels, on average 1 in each group.

    Args:
        kind: l1 and l2 sum norms of the weights that go with a channel; bn_scale the factors of its
            BatchNorms (Liu et al. 2017, arXiv 1708.06519); taylor first-order changes of the cross-entropy
            (Molchanov et al. 2019, arXiv 1906.10771); activation the size of what flows into the layers after
            it (Polyak and Wolf 2015); random is the control.
        net: the network whose groups they are.
        samples: for taylor, with labels, and activation.

    Raises:
        UsageError: taylor without labels; bn_scale where a group has no BatchNorm.
    """
    import torch_pruning as tp

    if kind == "activation":
        return _by_activation(net, samples)
    if kind == "taylor":
        _differentiate(net, samples)
    importance = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "bn_scale": tp.importance.BNScaleImportance,
        "taylor": tp.importance.GroupTaylorImportance,
        "random": tp.importance.RandomImportance,
    }[kind]()

    def score(members: Any) -> Tensor:
        found = importance(members)
        if found is None:
            layer = next(dep.target.name for dep, _ in members)
            raise UsageError(
                f"prune.importance = {kind!r}: the channels of {layer} have no BatchNorm",
                hint='importance = "l2" or "taylor" needs none',
            )
        return found.detach()  # type: ignore[no-any-return]

    return score


def _differentiate(net: nn.Module, samples: Samples) -> None:
    """Leaves the cross-entropy's mean gradient in all parameters."""
    if samples.labels is None:
        raise UsageError(
            "prune.importance = 'taylor' needs labels in the training split",
            hint='importance = "activation" needs none',
        )
    frozen = [p for p in net.parameters() if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)
    net.zero_grad()
    with torch.enable_grad():
        for x, rows in samples.batches():
            outputs = net(x)[:, samples.columns[0]]
            loss = cross_entropy(outputs, samples.labels[rows], reduction="sum") / len(samples.inputs)
            torch.autograd.backward(loss)
    for p in frozen:
        p.requires_grad_(False)


def _by_activation(net: nn.Module, samples: Samples) -> Scorer:
    import torch_pruning as tp

    sizes: dict[nn.Module, Tensor] = {}

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].abs()
        over = tuple(range(x.dim() - 1)) if isinstance(module, nn.Linear) else (0, *range(2, x.dim()))
        share = len(x) / len(samples.inputs)
        sizes[module] = sizes.get(module, torch.zeros(())) + share * x.mean(dim=over)

    layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    hooks = [m.register_forward_pre_hook(see) for m in layers]
    with torch.no_grad():
        for x, _ in samples.batches():
            net(x)
    for hook in hooks:
        hook.remove()
    takers = (tp.prune_conv_in_channels, tp.prune_linear_in_channels)

    def score(members: Any) -> Tensor:
        width = len(members[0].idxs)
        total, times = torch.zeros(width), torch.zeros(width)
        for i, (dep, places) in enumerate(members):
            if dep.handler in takers and (size := sizes.get(dep.target.module)) is not None:
                channels = torch.tensor(members[i].root_idxs)
                total.index_add_(0, channels, size[list(places)])
                times.index_add_(0, channels, torch.ones(len(places)))
        mean = total / times.clamp(min=1)
        return mean / mean.mean().clamp(min=torch.finfo(mean.dtype).tiny)

    return score
