"""Losses on the outputs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(student: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits (B, classes) against labels (B,)."""
    return F.cross_entropy(student, labels, label_smoothing=smoothing)


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over the batch.

    Shapes (B, classes) both. T² keeps the gradient's size independent of the temperature
    (Hinton et al. 2015, arXiv 1503.02531, section 2).
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2
