"""Squared error on the outputs: logits, values of a regression, or embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.losses.common import Batch, ProjectedOptions, projection, rows, same_shape

if TYPE_CHECKING:
    from torch import Tensor, nn

Options = ProjectedOptions
state = projection


def loss(batch: Batch, options: ProjectedOptions, state: nn.Module | None = None) -> Tensor:
    """Mean (P student - teacher)², over the batch and all outputs; P the identity without projection.

    Shapes (B, ...), flattened to (B, F). On logits: Ba & Caruana 2014, arXiv 1312.6184, section 2.2.
    """
    student, teacher = (rows(x) for x in batch.pair(options))
    if state is not None:
        student = state(student)
    same_shape("mse", student, teacher)
    return (student - teacher).square().mean()
