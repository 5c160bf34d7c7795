"""Mixing of samples in pairs: what is mixed with what, and how much, is a function of (seed, view).

So a teacher's cached outputs are those on the very mixture that the student sees, and labels are mixed by
the same shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekd.config import MixConfig

# Beside the draws of augmentation ([seed, view]) and of the order ([seed, epoch, 1]).
STREAM = 7


@dataclass(frozen=True)
class Pairs:
    """Of each of N samples: its partner, its own share, and the box that the partner fills.

    Attributes:
        partners: (N,) places in the split.
        shares: (N,) float32 from 0 to 1; of labels, as of pixels.
        boxes: (N, 4) top, bottom, left, right; all 0 where the whole image is blended.
        pasted: (N,) whether the partner is pasted into the box, rather than blended.
    """

    partners: NDArray[np.int64]
    shares: NDArray[np.float32]
    boxes: NDArray[np.int64]
    pasted: NDArray[np.bool_]


def draw(mix: MixConfig, num_samples: int, shape: Sequence[int], seed: int, view: int) -> Pairs:
    """The pairs of one view of a split whose samples have `shape`.

    mixup: Zhang et al. 2017, arXiv 1710.09412; cutmix: Yun et al. 2019, arXiv 1905.04899, where the
    share is that of the area that is left (of images only); of both, each sample draws one.
    """
    rng = np.random.default_rng([seed, view, STREAM])
    partners = rng.permutation(num_samples)
    blended = rng.beta(mix.mixup or 1.0, mix.mixup or 1.0, num_samples)
    kept = rng.beta(mix.cutmix or 1.0, mix.cutmix or 1.0, num_samples)
    coin = rng.integers(0, 2, num_samples) == 1
    pasted = np.full(num_samples, mix.mixup is None) if mix.mixup is None or mix.cutmix is None else coin
    boxes = np.zeros((num_samples, 4), np.int64)
    shares = blended
    if mix.cutmix is not None:
        height, width = shape[1:]
        side = np.sqrt(1 - kept)
        middle = rng.integers(0, (height, width), size=(num_samples, 2))
        for axis, size in enumerate((height, width)):
            half = np.round(side * size).astype(np.int64) / 2
            boxes[:, 2 * axis] = np.clip(np.floor(middle[:, axis] - half), 0, size)
            boxes[:, 2 * axis + 1] = np.clip(np.floor(middle[:, axis] + half), 0, size)
        boxes[~pasted] = 0
        area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
        shares = np.where(pasted, 1 - area / (height * width), blended)
    return Pairs(partners, shares.astype(np.float32), boxes, pasted)


def apply(x: Tensor, other: Tensor, pairs: Pairs, picked: NDArray[np.int64]) -> Tensor:
    """Samples (B, *shape) mixed with their partners (B, *shape), as the pairs of `picked` say."""
    along = (-1,) + (1,) * (x.dim() - 1)
    share = torch.from_numpy(pairs.shares[picked]).reshape(along)
    pasted = torch.from_numpy(pairs.pasted[picked]).reshape(along)
    mixed = torch.lerp(other, x, share)
    if not pairs.pasted.any():
        return mixed
    box = torch.from_numpy(pairs.boxes[picked])
    row, column = torch.arange(x.shape[2]), torch.arange(x.shape[3])
    rows = (row >= box[:, 0:1]) & (row < box[:, 1:2])
    columns = (column >= box[:, 2:3]) & (column < box[:, 3:4])
    inside = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(pasted, torch.where(inside, other, x), mixed)
