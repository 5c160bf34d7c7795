"""Users and items as vectors: a wide part that remembers pairs, and a deep one that generalises.

After wide and deep learning (Cheng et al. 2016, arXiv 1606.07792) and neural collaborative filtering (He et
al. 2017, arXiv 1708.05031). A small network has few rows for many ids: each id is the sum of two rows, by
remainder and by quotient (Shi et al. 2020, arXiv 1909.02107), so no two are the same, and no table maps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from edgekd.errors import UsageError
from edgekd.types import Task


class Vectors(nn.Module):
    """A vector for each id: ids (...) to (..., width)."""

    def __init__(self, count: int, width: int, rows: int | None) -> None:
        super().__init__()
        self.rows = rows if rows is not None and rows < count else None
        self.table = nn.Embedding(self.rows or count, width)
        self.further = nn.Embedding(-(-count // self.rows), width) if self.rows else None
        for table in (self.table, self.further):
            if table is not None:
                nn.init.normal_(table.weight, std=0.1)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows, or sums of two."""
        if self.rows is None or self.further is None:
            return self.table(ids)  # type: ignore[no-any-return]
        quotient = torch.div(ids, self.rows, rounding_mode="floor")
        return self.table(ids - quotient * self.rows) + self.further(quotient)  # type: ignore[no-any-return]


class Recommender(nn.Module):
    """A user and K items, ids (B, 1 + K), to scores (B, K)."""

    def __init__(self, users: int, items: int, width: int, hidden: Sequence[int], rows: int | None) -> None:
        super().__init__()
        self.users, self.items = Vectors(users, width, rows), Vectors(items, width, rows)
        self.popularity = Vectors(items, 1, rows)
        self.wide = nn.Linear(width, 1)
        nn.init.ones_(self.wide.weight)
        self.of_user, self.of_item = nn.Linear(width, hidden[0]), nn.Linear(width, hidden[0], bias=False)
        layers: list[nn.Module] = [nn.ReLU()]
        for inner, outer in pairwise(hidden):
            layers += [nn.Linear(inner, outer), nn.ReLU()]
        self.deep = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Of each item how well it goes with the user."""
        user, items = self.users(ids[:, :1].long()), self.items(ids[:, 1:].long())
        wide = self.wide(user * items) + self.popularity(ids[:, 1:].long())
        deep = self.deep(self.of_user(user) + self.of_item(items))
        return (wide + deep).flatten(1)  # type: ignore[no-any-return]


def build(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    task: Task | None = None,
    width: int = 32,
    hidden: Sequence[int] = (64, 32),
    rows: int | None = None,
) -> nn.Module:
    """A recommender for a task of kind `interactions`.

    Args:
        input_shape: (1 + K,), a user and K items.
        num_classes: K.
        task: whose ids these are.
        width: of a vector.
        hidden: widths of the deep part.
        rows: of a table of vectors, of which each id takes the sum of two; left out: each has its own.

    Raises:
        UsageError: the task's samples are no user with candidates.
    """
    if task is None or not {"users", "items"} <= set(task.notes) or input_shape != (1 + num_classes,):
        raise UsageError(
            "model 'recommender' takes a user and candidates, the task's samples are none",
            hint='task.kind = "interactions"',
        )
    if not hidden or min(*hidden, width, rows or 1) < 1:
        raise UsageError("model 'recommender': width, hidden and rows must be at least 1")
    return Recommender(int(task.notes["users"]), int(task.notes["items"]), width, hidden, rows)
