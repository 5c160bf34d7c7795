"""Relational distillation: angles that three samples form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgekd.losses.common import Batch, LayerOptions, at_least, rows

if TYPE_CHECKING:
    from torch import Tensor


class Options(LayerOptions):
    """What a recipe may say."""

    max_samples: int = Field(
        default=64, ge=3, description="of a batch that form triplets: their number grows with its cube"
    )


def loss(batch: Batch, options: Options, state: None = None) -> Tensor:
    """Mean over triplets of huber(cos_s - cos_t), cos the angle at sample j between i and k.

    Shapes (B, ...), flattened; widths may differ. Huber's error with delta 1; the first
    `max_samples` of the batch, whose order is random.
    Paper: Park et al. 2019, arXiv 1904.05068, equations 9 and 10.
    """
    import torch.nn.functional as F

    at_least("rkd_angle", len(batch.student), 3, "samples a step")
    student, teacher = (angles(rows(x[: options.max_samples])) for x in batch.pair(options))
    return F.smooth_l1_loss(student, teacher)


def angles(x: Tensor) -> Tensor:
    """Cosines (B, B, B) of rows (B, F): (j, i, k) of the angle at j: 0 where i or k is j, 1 where i is k."""
    import torch
    import torch.nn.functional as F

    direction = F.normalize(x[None, :, :] - x[:, None, :], dim=2)  # (j, i): from j to i
    return torch.bmm(direction, direction.transpose(1, 2))
