"""A penalty that makes whole channels small before any are cut."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgekd.config import PruneConfig
from edgekd.prune.groups import Prunable
from edgekd.prune.importance import Samples

_TINY = 1e-12  # a root has no slope at 0


def group_lasso(
    module: nn.Module, example_input: Tensor, config: PruneConfig, samples: Samples
) -> Callable[[], Tensor]:
    """What to add to a loss: the sum over all channels of the norm of the weights that would go with each.

    Group lasso (Wen et al. 2016, arXiv 1608.03665) on the groups of layers that are cut together (Fang et al.
    2023, arXiv 2301.12900): what makes a channel, its BatchNorm, and what reads it shrink together.

    Args:
        module: whose weights are meant, as they are whenever the result is called.
        example_input: (1, *shape).
        config: what to leave alone.
        samples: as for pruning.
    """
    import torch_pruning as tp

    axes = {
        tp.prune_conv_out_channels: 0,
        tp.prune_linear_out_channels: 0,
        tp.prune_depthwise_conv_out_channels: 0,
        tp.prune_batchnorm_out_channels: 0,
        tp.prune_conv_in_channels: 1,
        tp.prune_linear_in_channels: 1,
    }
    found, layers = Prunable(module, example_input, config, samples), dict(module.named_modules())
    parts = []
    for group in found.groups:
        members = []
        for i, (dep, places) in enumerate(group.members):
            axis, path = axes.get(dep.handler), found.path_of(dep.target.module)
            weight = None if path is None else getattr(layers[path], "weight", None)
            # A grouped convolution numbers what it reads anew in each of its groups.
            grouped = axis == 1 and getattr(dep.target.module, "groups", 1) > 1
            if axis is not None and weight is not None and not grouped:
                channels = torch.tensor(group.members[i].root_idxs)
                members.append((weight, axis, torch.tensor(list(places)), channels))
        parts.append((group.together.numel(), members))

    def penalty() -> Tensor:
        norms = []
        for width, members in parts:
            squares = torch.zeros(width, device=members[0][0].device)
            for weight, axis, places, channels in members:
                of_each = (
                    weight.square().transpose(0, axis).flatten(1).sum(1) if weight.dim() > 1 else weight**2
                )
                squares = squares.index_add(0, channels, of_each[places])
            norms.append((squares + _TINY).sqrt().sum())
        return torch.stack(norms).sum()

    return penalty
