"""Pairwise distillation for ranking: by how much the teacher puts one item before another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.config import Strict
from edgekd.losses.common import Batch, same_shape

if TYPE_CHECKING:
    from torch import Tensor


class Options(Strict):
    """What a recipe may say: nothing."""


def loss(batch: Batch, options: Options, state: None = None) -> Tensor:
    """Mean ((s_i - s_j) - (t_i - t_j))² over all pairs i < j of each list and over the lists.

    Shapes (lists, items) both. Paper: Hofstätter et al. 2020, arXiv 2010.02666, equation 2 (margin-MSE).
    """
    import torch

    student, teacher = batch.outputs()
    same_shape("pairwise_margin", student, teacher)
    first, second = torch.triu_indices(student.shape[1], student.shape[1], offset=1, device=student.device)
    margins = [x[:, first] - x[:, second] for x in (student, teacher)]
    return (margins[0] - margins[1]).square().mean()
