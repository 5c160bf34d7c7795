"""Relational distillation: distances between samples, in units of their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.losses.common import Batch, LayerOptions, at_least, rows

if TYPE_CHECKING:
    from torch import Tensor


class Options(LayerOptions):
    """What a recipe may say."""


def loss(batch: Batch, options: Options, state: None = None) -> Tensor:
    """Mean over ordered pairs i != j of huber(d_s - d_t), d the distance over the mean of all distances.

    Shapes (B, ...), flattened; widths may differ. Huber's error with delta 1.
    Paper: Park et al. 2019, arXiv 1904.05068, equations 5 to 8.
    """
    import torch.nn.functional as F

    at_least("rkd_distance", len(batch.student), 3, "samples a step")
    student, teacher = (relative_distances(rows(x)) for x in batch.pair(options))
    return F.smooth_l1_loss(student, teacher)


def relative_distances(x: Tensor) -> Tensor:
    """Distances of all pairs i < j of rows (B, F), over their mean: (B (B - 1) / 2,)."""
    import torch

    # Its gradient is 0 where a sample stands twice, and it holds no (pairs, F) in memory.
    distances = torch.pdist(x)
    return distances / distances.mean().clamp_min(1e-12)
