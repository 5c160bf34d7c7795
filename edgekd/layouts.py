"""Where the channels of an image stand: (C, H, W) everywhere here, (H, W, C) in some files."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import UsageError

Layout = Literal["NCHW", "NHWC"]


def to_layout(batch: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """A batch (N, C, H, W) in the layout that a file has; batches without images stay as they are."""
    if batch.ndim != 4 or layout == "NCHW":
        return batch
    return np.ascontiguousarray(batch.transpose(0, 2, 3, 1))


def layout_for(wanted: tuple[int | None, ...], shape: tuple[int, ...], name: str) -> Layout:
    """The layout in which a model takes samples of `shape`, (C, H, W) or any other.

    Args:
        wanted: what the model takes, without the batch; None fits any size.
        shape: of the task's samples.
        name: of the model, for the error.

    Raises:
        UsageError: it takes them in none.
    """

    def takes(candidate: tuple[int, ...]) -> bool:
        return len(wanted) == len(candidate) and all(
            a is None or a == b for a, b in zip(wanted, candidate, strict=True)
        )

    if takes(shape):
        return "NCHW"
    if len(shape) == 3 and takes((*shape[1:], shape[0])):
        return "NHWC"
    raise UsageError(
        f"{name}: takes inputs of shape {wanted}, the task's samples are {shape}",
        hint="the model does not fit the task",
    )
