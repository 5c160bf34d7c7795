"""How much each channel matters: by its weights, by what flows through it, or by what a loss says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
        vector: of the outputs, those that say what a sample is like; None where there are none.
    """

    inputs: Tensor
    labels: Tensor | None
    columns: Sequence[slice]
    vector: slice | None = None

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
        UsageError: taylor without labels; bn_scale where a group has no BatchNorm of its own width;
            activation where no layer takes a group.
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
                hint='importance = "l2" needs none; prune.ignored_layers leaves layers whole',
            )
        if len(found) != len(members[0].idxs):
            layer = members[0].dep.target.name
            raise UsageError(
                f"prune.importance = {kind!r}: {len(found)} scores for the {len(members[0].idxs)} channels "
                f"of {layer}, whose BatchNorm stands behind a flatten",
                hint='importance = "l2", or name the layer in prune.ignored_layers',
            )
        # Torch-Pruning divides by the mean, which is 0 where nothing of the group reaches the loss.
        return found.detach().nan_to_num(nan=0.0)  # type: ignore[no-any-return]

    return score


def _differentiate(net: nn.Module, samples: Samples) -> None:
    """Leaves the cross-entropy's mean gradient in all parameters."""
    if samples.labels is None:
        raise UsageError(
            "prune.importance = 'taylor' needs labels in the training split",
            hint='importance = "activation" needs none',
        )
    net.zero_grad()
    with thawed(net):
        for x, rows in samples.batches():
            outputs = net(x)[:, samples.columns[0]]
            loss = cross_entropy(outputs, samples.labels[rows], reduction="sum") / len(samples.inputs)
            torch.autograd.backward(loss)
    if any(p.grad is not None and not bool(p.grad.isfinite().all()) for p in net.parameters()):
        raise UsageError(
            "prune.importance = 'taylor': a gradient is no number",
            hint="look at the student's accuracy and losses",
        )


@contextmanager
def thawed(net: nn.Module) -> Iterator[None]:
    """While it is open, all parameters have gradients."""
    frozen = [p for p in net.parameters() if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for p in frozen:
            p.requires_grad_(False)


def _by_activation(net: nn.Module, samples: Samples) -> Scorer:
    import torch_pruning as tp

    sums: dict[nn.Module, Tensor] = {}
    counts: dict[nn.Module, int] = {}

    def see(module: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        x = (args[0] if args else named["input"]).abs()
        over = tuple(range(x.dim() - 1)) if isinstance(module, nn.Linear) else (0, *range(2, x.dim()))
        sums[module] = sums.get(module, torch.zeros(())) + len(x) * x.mean(dim=over)
        counts[module] = counts.get(module, 0) + len(x)

    layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    hooks = [m.register_forward_pre_hook(see, with_kwargs=True) for m in layers]
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
            if dep.handler in takers and (taker := dep.target.module) in sums:
                channels = torch.tensor(members[i].root_idxs)
                total.index_add_(0, channels, sums[taker][list(places)] / counts[taker])
                times.index_add_(0, channels, torch.ones(len(places)))
        if not bool(times.all()):
            raise UsageError(
                f"prune.importance = 'activation': no layer takes what {members[0].dep.target.name} gives",
                hint='importance = "l2", or name the layer in prune.ignored_layers',
            )
        mean = total / times
        return mean / mean.mean().clamp(min=torch.finfo(mean.dtype).tiny)

    return score
