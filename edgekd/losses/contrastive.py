"""Vectors of what is the same thing lie near each other, those of other things further off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgekd.config import Strict
from edgekd.fields import PositiveScheduled, value_at
from edgekd.losses.common import Batch, at_least

if TYPE_CHECKING:
    from torch import Tensor


class Options(Strict):
    """What a recipe may say."""

    temperature: PositiveScheduled = Field(
        default=0.05, description="of the cosines; the smaller, the more the nearest others count"
    )


def loss(batch: Batch, options: Options, state: None = None) -> Tensor:
    """Mean over samples with a like in the batch of -mean log softmax(cos / T)[its likes], over all others.

    Shapes (B, F) and labels (B,), equal for samples that are the same thing; 0 where none has a like.
    Paper: Khosla et al. 2020, arXiv 2004.11362, equation 2.
    """
    import torch
    import torch.nn.functional as F

    assert batch.labels is not None  # checked where the stage starts
    at_least("contrastive", len(batch.student), 2, "samples a step")
    unit = F.normalize(batch.student)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    near = (unit @ unit.T / value_at(options.temperature, batch.progress)).masked_fill(itself, -torch.inf)
    chances = near.log_softmax(dim=1).masked_fill(itself, 0.0)
    like = (batch.labels[:, None] == batch.labels) & ~itself
    count = like.sum(dim=1)
    each = -(chances * like).sum(dim=1) / count.clamp_min(1)
    return each.sum() / (count > 0).sum().clamp_min(1)
