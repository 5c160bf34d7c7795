"""Augmentation that teacher and student can share: what happens to a sample is a function of (seed, view)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def largest_shift(height: int) -> int:
    """Pixels that an image may be moved by: 2 in 28, 1 in 8."""
    return max(1, round(height / 14))


def draw(
    num_samples: int, names: Sequence[str], shape: Sequence[int], seed: int, view: int
) -> NDArray[np.int64]:
    """What is done to each sample in one view: (N, 3) = rows moved, columns moved, mirrored or not.

    The same (seed, view) always gives the same, so a teacher's cached outputs and the
    student's pixels belong together without any image being stored. Without names any shape will do.
    """
    rng = np.random.default_rng([seed, view])
    shift = largest_shift(shape[-1])
    moves = rng.integers(-shift, shift + 1, size=(num_samples, 2))
    flips = rng.integers(0, 2, size=(num_samples, 1))
    return np.hstack([moves * ("crop" in names), flips * ("flip" in names)]).astype(np.int64)


def apply(raw: Tensor, params: Tensor, background: float) -> Tensor:
    """Moves and mirrors raw images (B, C, H, W) by params (B, 3); `background` fills what comes in."""
    if raw.dim() != 4 or not params.any():
        return raw
    height, width = raw.shape[2:]
    pad = largest_shift(width)
    padded = torch.nn.functional.pad(raw, (pad, pad, pad, pad), value=background)
    rows = torch.arange(height) + pad + params[:, 0:1]
    columns = torch.arange(width).expand(len(raw), width)
    columns = torch.where(params[:, 2:3] == 1, width - 1 - columns, columns) + pad + params[:, 1:2]
    batch = torch.arange(len(raw))[:, None, None]
    # Indexing the image axes together puts them behind the batch, with channels last: (B, H, W, C).
    picked = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
