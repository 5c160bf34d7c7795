"""Attention transfer: where in the image the activations are strong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgekd.errors import UsageError
from edgekd.losses.common import Batch, NeededLayerOptions

if TYPE_CHECKING:
    from torch import Tensor


class Options(NeededLayerOptions):
    """What a recipe may say."""

    power: float = Field(
        default=2.0, ge=1, description="exponent of the activations before they are added up"
    )


def loss(batch: Batch, options: Options, state: None = None) -> Tensor:
    """Mean over the batch of ‖Q_s / ‖Q_s‖ - Q_t / ‖Q_t‖‖², Q = sum over channels of |A|^power.

    Shapes (B, C, H, W) and (B, C', H', W'); the larger map is averaged down to the smaller.
    Paper: Zagoruyko & Komodakis 2017, arXiv 1612.03928, equation 2, with the norm squared, which
    has a gradient where the two maps agree.
    """
    import torch.nn.functional as F

    pair = batch.pair(options)
    if any(x.dim() != 4 for x in pair):
        raise UsageError(
            f"loss 'attention': {options.student_layer} and {options.teacher_layer} must both give images"
        )
    size = min(x.shape[2] for x in pair), min(x.shape[3] for x in pair)
    maps = [F.adaptive_avg_pool2d(x.abs().pow(options.power).sum(dim=1, keepdim=True), size) for x in pair]
    student, teacher = (F.normalize(x.flatten(1), dim=1) for x in maps)
    return (student - teacher).square().sum(dim=1).mean()
