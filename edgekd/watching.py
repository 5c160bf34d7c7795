"""What a training that stops early goes by, where that is not accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.types import Metric


@dataclass(frozen=True)
class Watched:
    """A figure of a network on the validation split.

    Attributes:
        metric: by its name the history has it, as `val_auc`.
        of: scores (N, classes) on val to the figure.
    """

    metric: Metric
    of: Callable[[NDArray[np.float32]], float]

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.metric.direction == "higher" else -1
