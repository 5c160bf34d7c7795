"""Contrastive representation distillation: tell the teacher's view of this sample from that of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from edgekd import processes
from edgekd.losses.common import Batch, LayerOptions, Shapes, at_least, rows

if TYPE_CHECKING:
    from torch import Tensor, nn


class Options(LayerOptions):
    """What a recipe may say."""

    width: int = Field(default=64, ge=2, description="of the space in which the two are compared")
    negatives: int = Field(default=1024, ge=1, description="other samples that each is compared with")
    temperature: float = Field(default=0.07, gt=0, description="of the comparison")
    momentum: float = Field(default=0.5, ge=0, lt=1, description="share of the memory that a step keeps")


def state(options: Options, shapes: Shapes) -> nn.Module:
    """Two learned maps into the common space, and a memory (samples, width) of what each gave last."""
    import math

    import torch
    import torch.nn.functional as F
    from torch import nn

    at_least("crd", shapes.num_samples, 2, "training samples")
    student, teacher = (math.prod(shape) for shape in shapes.pair(options))
    module = nn.Module()
    module.student, module.teacher = nn.Linear(student, options.width), nn.Linear(teacher, options.width)
    draw = torch.Generator().manual_seed(shapes.seed)
    for side in ("student", "teacher"):
        memory = torch.randn(shapes.num_samples, options.width, generator=draw)
        module.register_buffer(f"{side}_memory", F.normalize(memory, dim=1))
        module.register_buffer(f"{side}_scale", torch.zeros(()))
    return module


def loss(batch: Batch, options: Options, state: Any = None) -> Tensor:
    """-mean (log h(positive) + sum log (1 - h(negative))), student against the teacher's memory and back.

    h = e / (e + m / N), e = exp(u · v / temperature) / Z, with m negatives of N samples and Z set
    once so that e is 1 / N on average over the first batch. Shapes (B, F) and (B, F'), flattened; the memory
    moves towards what was seen. Negatives are drawn from all samples but the one itself.

    Paper: Tian et al. 2020, arXiv 1910.10699, equations 8 to 19; memory after Wu et al. 2018,
    arXiv 1805.01978.
    """
    import torch
    import torch.nn.functional as F

    student, teacher = (
        F.normalize(net(rows(x)), dim=1)
        for net, x in zip((state.student, state.teacher), batch.pair(options), strict=True)
    )
    total = len(state.student_memory)
    drawn = torch.randint(0, total - 1, (len(student), options.negatives), device=student.device)
    others = drawn + (drawn >= batch.index[:, None])  # any but the sample itself
    picked = torch.cat((batch.index[:, None], others), dim=1)
    value = contrast(student, state.teacher_memory[picked], state.teacher_scale, total, options.temperature)
    value = value + contrast(
        teacher, state.student_memory[picked], state.student_scale, total, options.temperature
    )
    index = processes.gathered(batch.index)
    for memory, seen in ((state.student_memory, student), (state.teacher_memory, teacher)):
        moved = options.momentum * memory[index] + (1 - options.momentum) * processes.gathered(seen)
        memory[index] = F.normalize(moved, dim=1)
    return value


def contrast(anchor: Tensor, memory: Tensor, scale: Tensor, total: int, temperature: float) -> Tensor:
    """One side of the loss: anchors (B, D) against memory (B, 1 + m, D), whose first is the positive.

    `scale` is the constant Z; where it is still 0 it is set in place from this batch.
    """
    import torch

    e = torch.exp(torch.einsum("bd,bkd->bk", anchor, memory) / temperature)
    if float(scale) == 0:
        mean = e.detach().mean()
        processes.average(mean)
        scale.copy_(mean * total)
    e = e / scale
    noise = (memory.shape[1] - 1) / total
    positive = torch.log(e[:, 0] / (e[:, 0] + noise))
    negative = torch.log(noise / (e[:, 1:] + noise)).sum(dim=1)
    return -(positive + negative).mean()
