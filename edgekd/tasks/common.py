"""What several readers need: paths, content hashes, splits by fraction, input statistics."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import DataError, UsageError
from edgekd.types import ACCURACY, InputSpec, Split, Task

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def expand_path(value: str, key: str) -> Path:
    """A path option with `$VAR` and `${VAR}` filled in from the environment.

    A relative path stays relative to the current directory.

    Raises:
        UsageError: the path is empty or a variable is unset; names `key` and the variable.
    """

    def fill(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            raise UsageError(
                f"{key} = {value!r}: the environment variable {name} is not set",
                hint=f"set it to the folder that holds the data: export {name}=...",
            )
        return os.environ[name]

    if not value.strip():
        raise UsageError(f"{key} = {value!r}: not a path")
    return Path(_VARIABLE.sub(fill, value))


def existing(value: str, key: str) -> Path:
    """As `expand_path`, for a file or folder of the task that has to be there."""
    path = expand_path(value, f"task.{key}")
    if not path.exists():
        raise DataError(f"task.{key} = {value!r}: no such file or folder: {path}")
    return path


def sample_hashes(inputs: NDArray[Any]) -> list[bytes]:
    """blake2b (16 bytes) of each sample's raw bytes. `inputs`: (N, ...)."""
    if not len(inputs):
        return []
    rows = np.ascontiguousarray(inputs).data.cast("B")
    step = len(rows) // len(inputs)
    return [
        hashlib.blake2b(rows[at : at + step], digest_size=16).digest() for at in range(0, len(rows), step)
    ]


def apportion(counts: NDArray[np.int64], total: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`total` places shared out over classes in proportion to `counts`, by largest remainder.

    No class gets more than it has; each gets at least one where there are
    places enough. `rng` only breaks ties.
    """
    total = min(total, int(counts.sum()))
    exact = counts * total / max(int(counts.sum()), 1)
    least = ((counts > 0) & (total >= np.count_nonzero(counts))).astype(np.int64)
    share = np.minimum(np.maximum(np.floor(exact).astype(np.int64), least), counts)
    tie = rng.permutation(len(counts))
    while (missing := total - int(share.sum())) != 0:
        step = 1 if missing > 0 else -1
        able = share < counts if step > 0 else share > least
        owed = np.where(able, step * (exact - share), -np.inf)
        share[np.lexsort((tie, -owed))[0]] += step
    return share


def split_by_count(
    inputs: NDArray[Any], labels: NDArray[np.int64], sizes: Mapping[str, int], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Indices of each named split, with the classes' proportions, and of `train`, which gets the rest.

    Samples of equal content go to the same split, so that no split leaks into
    another; sizes are exact up to such duplicates.
    """
    first: dict[bytes, int] = {}
    group = np.array([first.setdefault(h, i) for i, h in enumerate(sample_hashes(inputs))], np.int64)
    rng = np.random.default_rng(seed)
    free = rng.permutation(np.unique(group))
    classes = np.unique(labels)
    chosen: dict[str, NDArray[np.int64]] = {}
    for name, size in sizes.items():
        counts = np.array([np.count_nonzero(labels[free] == c) for c in classes], np.int64)
        share = apportion(counts, size, rng)
        taken = np.concatenate([free[labels[free] == c][:n] for c, n in zip(classes, share, strict=True)])
        chosen[name] = np.flatnonzero(np.isin(group, taken))
        free = free[~np.isin(free, taken)]
    chosen["train"] = np.flatnonzero(np.isin(group, free))
    return chosen


def take(
    name: str, index: NDArray[Any], ids: NDArray[np.str_], x: NDArray[Any], y: NDArray[np.int64] | None
) -> Split:
    """The samples at `index` as a split."""
    return Split(name, ids[index], np.ascontiguousarray(x[index]), None if y is None else y[index])


def numbered(prefix: str, count: int, start: int = 0) -> NDArray[np.str_]:
    """Sample ids `prefix/0000`, `prefix/0001` ..., as wide as the largest needs."""
    width = len(str(max(start + count - 1, 1)))
    return np.array([f"{prefix}/{i:0{width}d}" for i in range(start, start + count)], np.str_)


def channel_statistics(x: NDArray[Any], scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of `x / scale` along axis 1 (channels or features).

    Bytes are counted rather than summed: exact, whatever the order. A channel
    that never changes gets standard deviation 1, so that it maps to 0.
    """
    mean, std = [], []
    for channel in range(x.shape[1]):
        values = x[:, channel].reshape(-1)
        if x.dtype == np.uint8:
            counts = np.bincount(values, minlength=256)
            levels = np.arange(256) / scale
            centre = float((counts * levels).sum() / counts.sum())
            spread = float(np.sqrt((counts * (levels - centre) ** 2).sum() / counts.sum()))
        else:
            scaled = values.astype(np.float64) / scale
            centre, spread = float(scaled.mean()), float(scaled.std())
        mean.append(centre)
        # Rounding alone can leave a constant column with a spread of 1e-17.
        std.append(spread if spread > 1e-9 * max(1.0, abs(centre)) else 1.0)
    return tuple(mean), tuple(std)


def input_spec(
    train: NDArray[Any], scale: float, raw_range: tuple[float, float] | None = None, where: str = "train"
) -> InputSpec:
    """How inputs like `train` (N, C, H, W) or (N, F), uint8 or float32, are fed to a model."""
    if not len(train):
        raise DataError(f"{where}: the train split is empty")
    if 0 in train.shape:
        raise DataError(f"{where}: samples have the shape {train.shape[1:]}, there is nothing in them")
    if raw_range is None:
        raw_range = (float(train.min()), float(train.max()))
    mean, std = channel_statistics(train, scale)
    return InputSpec(
        name="input",
        shape=tuple(int(n) for n in train.shape[1:]),
        layout="NCHW" if train.ndim == 4 else "NC",
        raw_dtype="uint8" if train.dtype == np.uint8 else "float32",
        raw_range=raw_range,
        scale=float(scale),
        mean=mean,
        std=std,
    )


def classification(
    name: str,
    splits: Sequence[Split],
    spec: InputSpec,
    class_names: Sequence[str],
    notes: Mapping[str, Any] | None = None,
) -> Task:
    """A task judged by accuracy."""
    return Task(name, {s.name: s for s in splits}, (ACCURACY,), spec, tuple(class_names), dict(notes or {}))
