"""FitNets: the student's layer learns to give what the teacher's layer gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.errors import UsageError
from edgekd.losses.common import Batch, NeededLayerOptions, Shapes, same_shape

if TYPE_CHECKING:
    from torch import Tensor, nn


class Options(NeededLayerOptions):
    """What a recipe may say."""


def state(options: Options, shapes: Shapes) -> nn.Module | None:
    """The regressor from the student's channels to the teacher's, where they differ."""
    from torch import nn

    student, teacher = shapes.pair(options)
    if len(student) != len(teacher):
        raise UsageError(
            f"loss 'hint': {options.student_layer} of the student gives {student}, "
            f"{options.teacher_layer} of the teacher {teacher}",
            hint="name two layers that are both images or both vectors",
        )
    if student[0] == teacher[0]:
        return None
    if len(student) == 3:
        return nn.Conv2d(student[0], teacher[0], 1, bias=False)
    if len(student) == 1:
        return nn.Linear(student[0], teacher[0], bias=False)
    raise UsageError(f"loss 'hint': no regressor for activations of shape {student}")


def loss(batch: Batch, options: Options, state: nn.Module | None = None) -> Tensor:
    """Mean (r(student) - teacher)² / 2; r a learned 1x1 convolution or linear map where widths differ.

    Shapes (B, C, H, W) or (B, C); the larger of two images is averaged down to the smaller.
    Paper: Romero et al. 2015, arXiv 1412.6550, equation 3 (there with a full convolution).
    """
    import torch.nn.functional as F

    student, teacher = batch.pair(options)
    if student.dim() == 4 and student.shape[2:] != teacher.shape[2:]:
        size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
        student, teacher = (F.adaptive_avg_pool2d(x, size) for x in (student, teacher))
    if state is not None:
        student = state(student)
    same_shape("hint", student, teacher)
    return (student - teacher).square().mean() / 2
