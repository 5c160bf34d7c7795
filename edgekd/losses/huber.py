"""Huber's error on the outputs, for regressions whose teacher is sometimes far off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgekd.config import Strict
from edgekd.losses.common import Batch, same_shape

if TYPE_CHECKING:
    from torch import Tensor


class Options(Strict):
    """What a recipe may say."""

    delta: float = Field(default=1.0, gt=0, description="where squares end and straight lines begin")


def loss(batch: Batch, options: Options, state: None = None) -> Tensor:
    """Mean h(student - teacher), h(d) = d² / 2 where |d| <= delta, else delta (|d| - delta / 2).

    Shapes (B, K) both. Huber, Annals of Mathematical Statistics 35, 1964.
    """
    import torch.nn.functional as F

    student, teacher = batch.outputs()
    same_shape("huber", student, teacher)
    return F.huber_loss(student, teacher, delta=options.delta)
