"""DIST: match how predictions relate, between classes and between samples, instead of their values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgekd.config import Strict
from edgekd.fields import PositiveScheduled, Scheduled, value_at
from edgekd.losses.common import Batch, same_shape

if TYPE_CHECKING:
    from torch import Tensor


CONSTANT = 1e-5


class Options(Strict):
    """What a recipe may say."""

    beta: Scheduled = Field(default=1.0, description="weight of relations between classes")
    gamma: Scheduled = Field(default=1.0, description="weight of relations between samples")
    temperature: PositiveScheduled = Field(default=4.0, description="softens both; a number or its schedule")


def loss(batch: Batch, options: Options, state: None = None) -> Tensor:
    """T² (beta mean_b d(Y_b, Z_b) + gamma mean_k d(Y_.k, Z_.k)), d = 1 - Pearson's correlation.

    Y and Z are the softened probabilities (B, K) of student and teacher; the first mean goes
    over samples (rows), the second over classes (columns).

    Paper: Huang et al. 2022, arXiv 2205.10536, equations 7 to 10.
    """
    import torch.nn.functional as F

    student, teacher = batch.outputs()
    same_shape("dist", student, teacher)
    temperature = value_at(options.temperature, batch.progress)
    y, z = (F.softmax(x / temperature, dim=1) for x in (student, teacher))
    beta, gamma = (value_at(x, batch.progress) for x in (options.beta, options.gamma))
    return temperature**2 * (beta * pearson_distance(y, z).mean() + gamma * pearson_distance(y.T, z.T).mean())


def pearson_distance(x: Tensor, y: Tensor) -> Tensor:
    """1 - Pearson's correlation of each row of two (R, C): (R,); a constant row correlates with none.

    Constant is a row whose norm about its mean is below `CONSTANT`: it gives 1 and no gradient, which
    would be the rounding error's, blown up.
    """
    import torch
    import torch.nn.functional as F

    x, y = (a - a.mean(dim=1, keepdim=True) for a in (x, y))
    varies = (x.norm(dim=1) > CONSTANT) & (y.norm(dim=1) > CONSTANT)
    # Replaced before the division: a gradient that is left out afterwards would be 0 times infinity.
    x, y = (torch.where(varies[:, None], a, 1.0) for a in (x, y))
    return torch.where(varies, 1 - F.cosine_similarity(x, y, dim=1), 1.0)
