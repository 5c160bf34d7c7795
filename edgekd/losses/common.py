"""What all losses see of a batch, and options that several share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from edgekd.config import Strict
from edgekd.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """One step, as a loss sees it.

    Attributes:
        student: outputs (B, K).
        teacher: outputs (B, K), or None where no loss wants them.
        labels: classes (B,), -1 of a sample without one; None where none has any.
        index: (B,) places of the samples in the training split.
        student_layers: activations (B, ...) by module path, of the layers that losses name.
        teacher_layers: the same of the teacher.
        progress: share of the training that is done, from 0 to 1.
        other_labels: (B,) of the samples that are mixed in, or None where nothing is.
        shares: (B,) of `labels` in the mixture, the rest being the others'.
        clean: outputs (B, K) of the student on samples as they are, where `student` saw attacked ones.
        head_labels: (B,) of the task's further heads, by name.
        other_head_labels: the same of the samples that are mixed in.
    """

    student: Tensor
    teacher: Tensor | None
    labels: Tensor | None
    index: Tensor
    student_layers: Mapping[str, Tensor] = field(default_factory=dict)
    teacher_layers: Mapping[str, Tensor] = field(default_factory=dict)
    progress: float = 0.0
    other_labels: Tensor | None = None
    shares: Tensor | None = None
    clean: Tensor | None = None
    head_labels: Mapping[str, Tensor] = field(default_factory=dict)
    other_head_labels: Mapping[str, Tensor] = field(default_factory=dict)

    def of_head(self, head: str, columns: slice) -> Batch:
        """What one head gives and is told: its outputs, and its labels as `labels`."""
        return replace(
            self,
            student=self.student[:, columns],
            teacher=None if self.teacher is None else self.teacher[:, columns],
            clean=None if self.clean is None else self.clean[:, columns],
            labels=self.head_labels.get(head) if head else self.labels,
            other_labels=self.other_head_labels.get(head) if head else self.other_labels,
        )

    def take(self, chosen: Tensor) -> Batch:
        """Only the samples where `chosen` (B,) is true."""
        parts: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Mapping):
                parts[name] = {path: layer[chosen] for path, layer in value.items()}
            elif value is not None and name != "progress":
                parts[name] = value[chosen]
        return replace(self, **parts)

    def outputs(self) -> tuple[Tensor, Tensor]:
        """Student's and teacher's outputs, (B, K) and (B, K')."""
        assert self.teacher is not None  # a stage with such a loss has a teacher
        return self.student, self.teacher

    def pair(self, options: LayerOptions) -> tuple[Tensor, Tensor]:
        """The two activations that a loss compares: of its layers, or the outputs where it names none."""
        if options.student_layer is None or options.teacher_layer is None:
            return self.outputs()
        return self.student_layers[options.student_layer], self.teacher_layers[options.teacher_layer]


@dataclass(frozen=True)
class Shapes:
    """Shapes without the batch, for losses that learn or remember something themselves.

    Attributes:
        student: of the outputs.
        teacher: of the outputs.
        student_layers: of the layers that losses name, by module path.
        teacher_layers: the same of the teacher.
        num_samples: of the training split.
        seed: of what is drawn at the start.
    """

    student: tuple[int, ...]
    teacher: tuple[int, ...]
    student_layers: Mapping[str, tuple[int, ...]]
    teacher_layers: Mapping[str, tuple[int, ...]]
    num_samples: int
    seed: int

    def pair(self, options: LayerOptions) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """As `Batch.pair`."""
        if options.student_layer is None or options.teacher_layer is None:
            return self.student, self.teacher
        return self.student_layers[options.student_layer], self.teacher_layers[options.teacher_layer]


class LayerOptions(Strict):
    """Two layers, by module path; neither: the outputs, which need no live teacher."""

    student_layer: str | None = Field(default=None, description="module path in the student")
    teacher_layer: str | None = Field(default=None, description="module path in the teacher")

    @model_validator(mode="after")
    def _both_or_none(self) -> LayerOptions:
        if (self.student_layer is None) != (self.teacher_layer is None):
            raise ValueError("give student_layer and teacher_layer, or neither")
        return self


class NeededLayerOptions(LayerOptions):
    """Two layers, by module path: the teacher runs beside the student."""

    student_layer: str = Field(description="module path in the student")
    teacher_layer: str = Field(description="module path in the teacher")


class ProjectedOptions(LayerOptions):
    """What a recipe may say of a loss that compares vectors of any two widths."""

    projection: bool = Field(
        default=False, description="learn a linear map from the student's width to the teacher's"
    )


def projection(options: ProjectedOptions, shapes: Shapes) -> nn.Module | None:
    """The map (student's features, teacher's features), where one is asked for."""
    import math

    from torch import nn

    student, teacher = shapes.pair(options)
    return nn.Linear(math.prod(student), math.prod(teacher), bias=False) if options.projection else None


def same_shape(kind: str, student: Tensor, teacher: Tensor) -> None:
    """Refuses two tensors that cannot be compared element by element.

    Raises:
        UsageError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise UsageError(
            f"loss {kind!r}: the student gives {tuple(student.shape)}, the teacher {tuple(teacher.shape)}",
            hint="both need the same shape; the losses mse, cosine and hint can learn a map between widths",
        )


def at_least(kind: str, count: int, needed: int, of: str) -> None:
    """Refuses a batch or outputs too few for a loss to say anything.

    Raises:
        UsageError: `count` is below `needed`.
    """
    if count < needed:
        remedy = "raise batch_size" if of == "samples a step" else "choose another loss"
        raise UsageError(f"loss {kind!r} needs at least {needed} {of}, here are {count}", hint=remedy)


def rows(x: Tensor) -> Tensor:
    """(B, ...) as (B, F)."""
    return x.flatten(1)
