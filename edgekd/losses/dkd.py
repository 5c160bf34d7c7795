"""Decoupled knowledge distillation: the true class apart from what is said of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgekd.config import Strict
from edgekd.fields import PositiveScheduled, Scheduled, value_at
from edgekd.losses.common import Batch, at_least, same_shape

if TYPE_CHECKING:
    from torch import Tensor


class Options(Strict):
    """What a recipe may say."""

    alpha: Scheduled = Field(default=1.0, description="weight of the part on the true class")
    beta: Scheduled = Field(default=8.0, description="weight of the part on the other classes")
    temperature: PositiveScheduled = Field(
        default=4.0, description="softens the outputs of student and teacher; a number or its schedule"
    )


def loss(batch: Batch, options: Options, state: None = None) -> Tensor:
    """T² (alpha TCKD + beta NCKD), mean over the batch.

    TCKD = KL of (p_y, 1 - p_y), teacher against student; NCKD = KL of the other classes'
    probabilities, scaled to sum to 1. Shapes (B, K), (B, K), labels (B,); K at least 3. With
    beta = 1 - p_y of the teacher, sample by sample, the sum is KD.

    Paper: Zhao et al. 2022, arXiv 2203.08679, equations 3 to 7.
    """
    import torch
    import torch.nn.functional as F

    student, teacher = batch.outputs()
    same_shape("dkd", student, teacher)
    at_least("dkd", student.shape[1], 3, "classes")
    assert batch.labels is not None  # checked where the stage starts
    temperature = value_at(options.temperature, batch.progress)
    true = F.one_hot(batch.labels, student.shape[1]).bool()
    logs = [F.log_softmax(x / temperature, dim=1) for x in (student, teacher)]
    # log of (p_y, 1 - p_y), the second from the others' own logs: 1 - p_y would lose its digits.
    binary = [torch.stack((x[true], x[~true].reshape(len(x), -1).logsumexp(dim=1)), dim=1) for x in logs]
    others = [F.log_softmax(x[~true].reshape(len(x), -1), dim=1) for x in logs]
    target, rest = (F.kl_div(s, t, reduction="batchmean", log_target=True) for s, t in (binary, others))
    alpha, beta = (value_at(x, batch.progress) for x in (options.alpha, options.beta))
    return temperature**2 * (alpha * target + beta * rest)
