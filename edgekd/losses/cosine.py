"""Direction of embeddings: the angle between student's and teacher's, whatever their lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgekd.losses.common import Batch, LayerOptions, Shapes, rows, same_shape

if TYPE_CHECKING:
    from torch import Tensor, nn


class Options(LayerOptions):
    """What a recipe may say."""

    projection: bool = Field(
        default=False, description="learn a linear map from the student's width to the teacher's"
    )


def state(options: Options, shapes: Shapes) -> nn.Module | None:
    """The map (student's features, teacher's features), where one is asked for."""
    import math

    from torch import nn

    student, teacher = shapes.pair(options)
    return nn.Linear(math.prod(student), math.prod(teacher), bias=False) if options.projection else None


def loss(batch: Batch, options: Options, state: nn.Module | None = None) -> Tensor:
    """Mean 1 - cos(P student, teacher); P the identity without projection.

    Shapes (B, ...), flattened to (B, F). As in DistilBERT: Sanh et al. 2019, arXiv 1910.01108, section 3.
    """
    import torch.nn.functional as F

    student, teacher = (rows(x) for x in batch.pair(options))
    if state is not None:
        student = state(student)
    same_shape("cosine", student, teacher)
    return (1 - F.cosine_similarity(student, teacher, dim=1)).mean()
