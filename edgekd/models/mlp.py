"""Fully connected networks for tables and small inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between: (B, ...) -> logits (B, classes)."""

    def __init__(self, features: int, num_classes: int, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [features, *hidden]
        layers: list[nn.Module] = []
        for inner, outer in itertools.pairwise(sizes):
            layers += [nn.Linear(inner, outer), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Flatten, hidden layers, head."""
        return self.head(self.body(x.flatten(1)))  # type: ignore[no-any-return]


def build(input_shape: tuple[int, ...], num_classes: int, hidden: Sequence[int] = (128, 128)) -> nn.Module:
    """An MLP with the given hidden widths."""
    if not hidden or min(hidden) < 1:
        raise ValueError("hidden must be one width or more, each at least 1")
    return MLP(math.prod(input_shape), num_classes, hidden)
