"""Knowledge distillation on softened classes."""

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
        default=4.0, description="softens the outputs of student and teacher; a number or its schedule"
    )


def loss(batch: Batch, options: Options, state: None = None) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over the batch.

    Shapes (B, K) both. T² keeps the gradient's size independent of the temperature
    (Hinton et al. 2015, arXiv 1503.02531, section 2).
    """
    import torch.nn.functional as F

    student, teacher = batch.outputs()
    same_shape("kd", student, teacher)
    temperature = value_at(options.temperature, batch.progress)
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2
