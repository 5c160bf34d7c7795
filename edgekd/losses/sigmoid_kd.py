"""Knowledge distillation where each output is a yes or no of its own: binary and multi-label tasks."""

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

    temperature: PositiveScheduled = Field(default=1.0, description="softens both; a number or its schedule")


def loss(batch: Batch, options: Options, state: None = None) -> Tensor:
    """T² · mean KL(Bernoulli(sigmoid(teacher / T)) ‖ Bernoulli(sigmoid(student / T))).

    Shapes (B, K) both; the mean goes over all B K outputs. The two-class case of Hinton et al.
    2015, arXiv 1503.02531; for many labels: Yang et al. 2023, arXiv 2308.06453, section 3.2.
    """
    import torch.nn.functional as F

    student, teacher = batch.outputs()
    same_shape("sigmoid_kd", student, teacher)
    temperature = value_at(options.temperature, batch.progress)
    s, t = student / temperature, teacher / temperature
    p = t.sigmoid()
    yes = p * (F.logsigmoid(t) - F.logsigmoid(s))
    no = (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return temperature**2 * (yes + no).mean()
