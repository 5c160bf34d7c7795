"""Direction of embeddings: the angle between student's and teacher's, whatever their lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.losses.common import Batch, ProjectedOptions, projection, rows, same_shape

if TYPE_CHECKING:
    from torch import Tensor, nn

Options = ProjectedOptions
state = projection


def loss(batch: Batch, options: ProjectedOptions, state: nn.Module | None = None) -> Tensor:
    """Mean 1 - cos(P student, teacher); P the identity without projection.

    Shapes (B, ...), flattened to (B, F). As in DistilBERT: Sanh et al. 2019, arXiv 1910.01108, section 3.
    """
    import torch.nn.functional as F

    student, teacher = (rows(x) for x in batch.pair(options))
    if state is not None:
        student = state(student)
    same_shape("cosine", student, teacher)
    return (1 - F.cosine_similarity(student, teacher, dim=1)).mean()
