"""Listwise distillation for ranking: the teacher's scores of a list as a distribution over its items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgekd.config import Strict
from edgekd.fields import PositiveScheduled, value_at
from edgekd.losses.common import Batch, same_shape

if TYPE_CHECKING:
    from torch import Tensor


class Options(Strict):
    """What a recipe may say."""

    temperature: PositiveScheduled = Field(
        default=1.0, description="softens the outputs of student and teacher; a number or its schedule"
    )


def loss(batch: Batch, options: Options, state: None = None) -> Tensor:
    """KL(softmax(teacher / T) ‖ softmax(student / T)) over the items of each list, mean over the lists.

    Shapes (lists, items) both. Unlike class scores, scores of items have no scale that T² would
    restore. Paper: Cao et al. 2007, "Learning to rank: from pairwise approach to listwise approach".
    """
    import torch.nn.functional as F

    student, teacher = batch.outputs()
    same_shape("listwise", student, teacher)
    temperature = value_at(options.temperature, batch.progress)
    log_student, log_teacher = (F.log_softmax(x / temperature, dim=1) for x in (student, teacher))
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
