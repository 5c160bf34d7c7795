"""Augmentation that teacher and student can share: what happens to a sample is a function of (seed, view)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekd.tokens import PADDING

ERASED_AREA = (0.02, 0.4)  # of the image
ERASED_RATIO = 1 / 0.3  # of a rectangle's sides, at most
REPLACED = 0.15  # of a text's words


def largest_shift(height: int) -> int:
    """Pixels that an image may be moved by: 2 in 28, 1 in 8."""
    return max(1, round(height / 14))


def draw(
    num_samples: int, names: Sequence[str], shape: Sequence[int], seed: int, view: int
) -> NDArray[np.int64]:
    """What is done to each sample in one view: (N, 3) = rows moved, columns moved, mirrored or not.

    With "erase" (N, 7): also top, left, height and width of a rectangle, of which one sample in two has none
    (random erasing: Zhong et al. 2020, arXiv 1708.04896; a rectangle too long is cut, not drawn again).
    The same (seed, view) always gives the same, so a teacher's cached outputs and the
    student's pixels belong together without any image being stored. Without names any shape will do.
    """
    rng = np.random.default_rng([seed, view])
    shift = largest_shift(shape[-1])
    moves = rng.integers(-shift, shift + 1, size=(num_samples, 2))
    flips = rng.integers(0, 2, size=(num_samples, 1))
    parts = [moves * ("crop" in names), flips * ("flip" in names)]
    if "erase" in names:
        sides = np.array(shape[-2:])
        area = rng.uniform(*ERASED_AREA, num_samples) * sides.prod()
        ratio = np.exp(rng.uniform(-1, 1, num_samples) * np.log(ERASED_RATIO))
        box = np.sqrt(np.stack([area * ratio, area / ratio], axis=1)).round()
        box = np.clip(box, 1, sides).astype(np.int64)
        corner = rng.integers(0, sides - box + 1)
        parts.append(np.hstack([corner, box]) * rng.integers(0, 2, size=(num_samples, 1)))
    return np.hstack(parts).astype(np.int64)


def replace_words(ids: NDArray[np.int32], seed: int, view: int) -> NDArray[np.int32]:
    """Texts (N, L) in one view: some words of each are others, drawn as often as they stand in all texts.

    TinyBERT asks a language model which (Jiao et al. 2020, arXiv 1909.10351, section 3.3).
    Padding and what stands in every text (the marks of its ends) are left.
    """
    rng = np.random.default_rng([seed, view, 2])
    kept = {PADDING, *(int(i) for i in np.unique(ids[0]) if (ids == i).any(axis=1).all())}
    word = ~np.isin(ids, list(kept))
    drawn = rng.choice(ids[word], ids.shape)
    return np.where(word & (rng.random(ids.shape) < REPLACED), drawn, ids)


def apply(raw: Tensor, params: Tensor, background: float) -> Tensor:
    """Moves, mirrors and erases raw images (B, C, H, W) by params (B, 3 or 7).

    `background` fills what comes in, and rectangles.
    """
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
    moved = picked.permute(0, 3, 1, 2)
    if params.shape[1] == 3:
        return moved
    top, left, box_height, box_width = (params[:, i : i + 1] for i in range(3, 7))
    row, column = torch.arange(height), torch.arange(width)
    bare = ((row >= top) & (row < top + box_height))[:, :, None]
    bare = bare & ((column >= left) & (column < left + box_width))[:, None, :]
    return moved.masked_fill(bare[:, None], background)
