"""The moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(module: nn.Module, decay: float) -> AveragedModel:
    """A copy that follows `module` at each `update_parameters` (Polyak & Juditsky 1992).

    The decay begins low, as (1 + n) / (10 + n) at update n, so that a short training does not end with the
    weights that it began with. What is no floating number (positions, counters) is the module's own, as is
    what is not finite: a mask of minus infinity has no mean.
    """
    return AveragedModel(module, multi_avg_fn=_mean(decay), use_buffers=True)


def _mean(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def update(averages: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        for average, value in zip(averages, current, strict=True):
            if average.is_floating_point():
                both = average.isfinite() & value.isfinite()
                average.copy_(torch.where(both, average.lerp(value, share), value))
            else:
                average.copy_(value)

    return update
