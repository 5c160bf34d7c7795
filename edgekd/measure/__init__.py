"""Measuring an artifact in its runtime: accuracy, latency, memory, operators, parity."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Layout = Literal["NCHW", "NHWC"]


def to_layout(batch: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """A batch (N, C, H, W) in the layout that a file has; batches without images stay as they are."""
    if batch.ndim != 4 or layout == "NCHW":
        return batch
    return np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
