"""Similarity-preserving distillation: samples that are alike for the teacher are alike for the student."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.losses.common import Batch, LayerOptions, at_least, rows

if TYPE_CHECKING:
    from torch import Tensor


class Options(LayerOptions):
    """What a recipe may say."""


def loss(batch: Batch, options: Options, state: None = None) -> Tensor:
    """‖G_t - G_s‖² / B², G the rows of A A^T scaled to length 1, A (B, F) the flattened activations.

    Paper: Tung & Mori 2019, arXiv 1907.09682, equations 2 to 4.
    """
    import torch.nn.functional as F

    at_least("similarity", len(batch.student), 2, "samples a step")
    flat = (rows(x) for x in batch.pair(options))
    student, teacher = (F.normalize(x @ x.T, dim=1) for x in flat)
    return (student - teacher).square().mean()
