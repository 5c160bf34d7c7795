"""Cross-entropy with the labels; label smoothing is the control that distillation has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgekd.config import Strict
from edgekd.losses.common import Batch

if TYPE_CHECKING:
    from torch import Tensor


class Options(Strict):
    """What a recipe may say."""

    smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of the target that is spread over all classes"
    )


def loss(batch: Batch, options: Options, state: None = None) -> Tensor:
    """-mean log softmax(student)[label], the label smoothed: (1 - s) onehot + s / K.

    Of mixed samples both labels count, each by its share. Shapes (B, K) and (B,).
    Label smoothing: Szegedy et al. 2016, arXiv 1512.00567, section 7.
    """
    import torch.nn.functional as F

    assert batch.labels is not None  # checked where the stage starts
    if batch.shares is None or batch.other_labels is None:
        return F.cross_entropy(batch.student, batch.labels, label_smoothing=options.smoothing)
    own, others = (
        F.cross_entropy(batch.student, labels, label_smoothing=options.smoothing, reduction="none")
        for labels in (batch.labels, batch.other_labels)
    )
    return (batch.shares * own + (1 - batch.shares) * others).mean()
