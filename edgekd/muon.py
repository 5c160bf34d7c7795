"""Muon: momentum whose step on a convolution's kernel is made orthogonal (Jordan et al. 2024).

Weight decay of kernels is decoupled (Liu et al. 2025, arXiv 2502.16982).
A gradient's step is ruled by its few largest singular values; levelling them lets the rare
directions learn too, so a network of convolutions needs fewer epochs. PyTorch's own Muon
takes matrices only and multiplies in bfloat16, which many processors emulate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

MATRIX_MOMENTUM = 0.95
OTHER_MOMENTUM = 0.9
# All else learns by SGD, whose steps shrink with the gradient and so want a higher rate.
OTHER_LR_FACTOR = 5.0
# A quintic whose fifth iterate takes singular values from 0.002 .. 1 to 0.68 .. 1.16: near enough to 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix (R, C) with the same singular vectors, and singular values near 1 save the tiniest."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def kernels(module: nn.Module) -> list[Tensor]:
    """Kernels of the convolutions that mix several channels: matrices (out, in * h * w)."""
    convolutions = (m for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d))
    found = (m.weight for m in convolutions if m.groups == 1 and m.in_channels > 1)
    return list(dict.fromkeys(p for p in found if p.requires_grad))


class Muon(torch.optim.Optimizer):
    """Orthogonal momentum for the groups with `orthogonal`, SGD with Nesterov momentum for the others.

    Weight decay is decoupled in the first, where a gradient's length is lost, and L2 in the second.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step on every parameter that has a gradient."""
        assert closure is None, "Muon evaluates no closure"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        grad, lr, decay = parameter.grad, group["lr"], group["weight_decay"]
        assert grad is not None
        orthogonal = group["orthogonal"]
        if not orthogonal:
            grad, lr = grad.add(parameter, alpha=decay), lr * OTHER_LR_FACTOR
        state, momentum = self.state[parameter], MATRIX_MOMENTUM if orthogonal else OTHER_MOMENTUM
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        buffer = state["momentum_buffer"].mul_(momentum).add_(grad)
        step = grad.add(buffer, alpha=momentum)
        if orthogonal:
            rows = step.reshape(len(step), -1)
            step = orthogonalised(rows).reshape(step.shape)
            lr_of_shape = lr * max(1.0, rows.shape[0] / rows.shape[1]) ** 0.5
            parameter.mul_(1 - lr * decay).sub_(step, alpha=lr_of_shape)
        else:
            parameter.sub_(step, alpha=lr)
