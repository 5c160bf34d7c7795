"""What a training stage minimises: its losses, weighted and added up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgekd import losses, processes
from edgekd.config import LossConfig
from edgekd.errors import UsageError
from edgekd.fields import Ramp, value_at
from edgekd.losses.common import Batch, Shapes

# Norms of gradients cost a backward pass a loss, and change slowly.
STEPS_A_NORM = 16
NORM_MEMORY = 0.8


class Objective(nn.Module):
    """The weighted sum of a stage's losses, with all that they learn or remember.

    weighting "fixed": sum of w_i L_i. "uncertainty": sum of w_i (exp(-s_i) L_i + s_i / 2), with s_i
    learned (Kendall, Gal & Cipolla 2018, arXiv 1705.07115, section 3.2); the weight stands outside, or
    s_i would learn to undo it. "gradient_norm": sum of w_i L_i m / g_i, with g_i the norm of the
    gradient of L_i in the student's parameters, averaged over time, and m the mean of those g_i that
    are above 0, so that each loss pulls as hard as its weight says (the aim of Chen et al. 2018,
    arXiv 1711.02257, reached by dividing rather than by learning the weights).

    Losses on labels see the samples that have one. Of the others each weighs `unlabelled_weight` beside a
    labelled one; losses between samples, and a user's own, see all alike.

    Attributes:
        names: of the losses, for records: the kind, with its head, numbered where one stands twice.
        columns: where the outputs of each head stand; None where the task has one alone.
        last: values of the losses at the last step, by name, before weights.
        penalty: of the student's weights, added at each step where there is one.
    """

    norms: Tensor
    steps: Tensor

    def __init__(
        self,
        terms: Sequence[LossConfig],
        weighting: str,
        shapes: Shapes | None,
        unlabelled_weight: float = 1.0,
        columns: Mapping[str, slice] | None = None,
    ) -> None:
        super().__init__()
        self.columns = columns if columns is not None and len(columns) > 1 else None
        self.unlabelled_weight = unlabelled_weight
        self.terms = tuple(terms)
        self.weighting = weighting
        self.names = _names([f"{t.kind}.{t.head}" if t.head else t.kind for t in self.terms])
        self.options = [losses.check(term) for term in terms]
        loaded = [losses.load(term) for term in terms]
        self.functions = [function for function, _ in loaded]
        self.states = nn.ModuleDict()
        for i, (options, (_, make)) in enumerate(zip(self.options, loaded, strict=True)):
            own = shapes
            if shapes is not None and self.columns is not None:
                cut = self.columns[self.terms[i].head or ""]
                own = replace(shapes, student=(cut.stop - cut.start,), teacher=(cut.stop - cut.start,))
            state = make(options, own) if make is not None else None
            if state is not None:
                self.states[str(i)] = state
        if weighting == "uncertainty":
            self.log_variances = nn.Parameter(torch.zeros(len(self.terms)))
        if weighting == "gradient_norm":
            self.register_buffer("norms", torch.zeros(len(self.terms)))
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.last: dict[str, float] = {}
        self._now: Sequence[float] = ()
        self.penalty: Callable[[], Tensor] | None = None

    def forward(self, batch: Batch, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The scalar to go down.

        Args:
            batch: one step.
            parameters: the student's, of which "gradient_norm" takes gradients.
        """
        weights = [value_at(term.weight, batch.progress) for term in self.terms]
        used = [i for i, weight in enumerate(weights) if weight]
        values = {i: self._value(i, batch) for i in used}
        self.last = {self.names[i]: float(value.detach()) for i, value in values.items()}
        if self.weighting == "gradient_norm":
            factors = self._balance(values, parameters)
            weights = [weight * factor for weight, factor in zip(weights, factors, strict=True)]
        parts = []
        for i in used:
            part = values[i]
            if self.weighting == "uncertainty":
                part = part * torch.exp(-self.log_variances[i]) + self.log_variances[i] / 2
            parts.append(weights[i] * part)
        self._now = weights
        # Not sum(): its leading 0 would be one more operation a step.
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total if self.penalty is None else total + self.penalty()

    def weights(self) -> dict[str, float]:
        """At the last step of those losses whose weight changes, by name: `kd_weight`."""
        found = {}
        for name, term, weight in zip(self.names, self.terms, self._now, strict=False):
            if self.weighting == "uncertainty":
                factors = torch.exp(-self.log_variances.detach()).tolist()
                found[f"{name}_weight"] = weight * factors[self.names.index(name)]
            elif self.weighting == "gradient_norm" or isinstance(term.weight, Ramp):
                found[f"{name}_weight"] = weight
        return found

    @torch.no_grad()
    def try_layers(self, shapes: Shapes) -> None:
        """Evaluates each loss that names layers once, on ones of these shapes.

        Raises:
            UsageError: the layers do not fit the loss, or each other.
        """
        count = 8  # more than any loss between samples needs
        batch = Batch(
            student=torch.ones(count, *shapes.student),
            teacher=torch.ones(count, *shapes.teacher),
            labels=torch.zeros(count, dtype=torch.int64),
            index=torch.arange(count) % shapes.num_samples,
            student_layers={path: torch.ones(count, *s) for path, s in shapes.student_layers.items()},
            teacher_layers={path: torch.ones(count, *s) for path, s in shapes.teacher_layers.items()},
        )
        for i, options in enumerate(self.options):
            if getattr(options, "student_layer", None) is not None:
                self._on(i, batch)

    def _value(self, i: int, batch: Batch) -> Tensor:
        kind, head = self.terms[i].kind, self.terms[i].head or ""
        if self.columns is not None:
            batch = batch.of_head(head, self.columns[head])
        if batch.clean is not None and kind in losses.OF_LABELS and batch.teacher is not None:
            batch = replace(batch, student=batch.clean)
        labelled = None if batch.labels is None else batch.labels >= 0
        if labelled is None or labelled.all():
            return self._on(i, batch)
        if kind in losses.OF_LABELS:
            return self._on(i, batch.take(labelled)) if labelled.any() else batch.student.sum() * 0
        whole = kind in losses.BETWEEN_SAMPLES or ":" in kind
        if whole or self.unlabelled_weight == 1 or not labelled.any():
            return self._on(i, batch)
        share = float(labelled.float().mean())
        weight = self.unlabelled_weight * (1 - share)
        with_labels, without = self._on(i, batch.take(labelled)), self._on(i, batch.take(~labelled))
        return (share * with_labels + weight * without) / (share + weight)

    def _on(self, i: int, batch: Batch) -> Tensor:
        state = self.states[str(i)] if str(i) in self.states else None
        return self.functions[i](batch, self.options[i], state)

    def _balance(self, values: dict[int, Tensor], parameters: Sequence[nn.Parameter]) -> list[float]:
        """Factors by which each loss is scaled, from the norms of their gradients; unused ones get 1."""
        due = int(self.steps) % STEPS_A_NORM == 0
        self.steps += 1
        for i, value in values.items():
            known = float(self.norms[i])
            if due or known == 0:  # a weight that rises from 0 comes in between two measurements
                norm = self._norm(i, value, parameters)
                self.norms[i] = NORM_MEMORY * known + (1 - NORM_MEMORY) * norm if known else norm
        measured = {i: norm for i in values if (norm := float(self.norms[i])) > 0}
        mean = sum(measured.values()) / max(1, len(measured))
        return [mean / measured[i] if i in measured else 1.0 for i in range(len(self.terms))]

    def _norm(self, i: int, value: Tensor, parameters: Sequence[nn.Parameter]) -> float:
        found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        gradients = [g.detach().float() for g in found if g is not None]
        if not gradients:
            raise UsageError(
                f"loss {self.names[i]!r} does not depend on any weight of the student that is trained",
                hint='name a later layer, or choose another weighting than "gradient_norm"',
            )
        for gradient in gradients:
            processes.average(gradient)  # of the whole step, of which this process has seen a part
        return float(torch.stack([gradient.norm() for gradient in gradients]).norm())


def _names(kinds: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        kind if kinds.count(kind) == 1 else f"{kind}_{kinds[: i + 1].count(kind)}"
        for i, kind in enumerate(kinds)
    )
