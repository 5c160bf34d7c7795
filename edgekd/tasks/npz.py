"""Arrays in a .npz file: train_x, val_x, val_y, test_x, test_y and, if there, train_y and unlabelled_x.

train_x.NAME, val_x.NAME and so on are further inputs of the same samples: a modality that a teacher may see.
train_y.NAME and so on are the labels of a further head. test_column.NAME are texts or whole numbers that say
what a sample is besides: what the gate may slice by.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgekd.config import Strict
from edgekd.errors import DataError
from edgekd.tasks.common import classification, existing, input_spec, numbered
from edgekd.types import InputSpec, Split, Task

VERSION = 2
KEYS = ("train_x", "val_x", "val_y", "test_x", "test_y")
OPTIONAL = ("train_y", "unlabelled_x")
_FURTHER = re.compile(r"(train|val|test|unlabelled)_[xy]\.[a-z0-9_]+|test_column\..+")


class Options(Strict):
    """Options of the kind `npz`."""

    path: str = Field(description="the .npz file; $VAR is filled in")
    layout: Literal["NCHW", "NHWC"] = Field(default="NCHW", description="of images with four dimensions")
    class_names: tuple[str, ...] | None = Field(
        default=None, strict=False, min_length=2, description="by label; numbers where left out"
    )


def sources(options: Options) -> tuple[Path, ...]:
    """The file."""
    return (existing(options.path, "path"),)


def read(options: Options, seed: int) -> Task:
    """Images (N, C, H, W) or features (N, F), uint8 or float32; ids are `train/0`, `train/1` ..."""
    (path,) = sources(options)
    arrays = _arrays(path)
    splits = []
    for name in ("train", "val", "test", "unlabelled"):
        if f"{name}_x" not in arrays:
            continue
        x, y = arrays[f"{name}_x"], arrays.get(f"{name}_y")
        x = _inputs(f"{path}: {name}_x", x, options)
        others = {
            key.partition(".")[2]: _inputs(f"{path}: {key}", array, options)
            for key, array in arrays.items()
            if key.startswith(f"{name}_x.")
        }
        labels = None if y is None else _labels(f"{path}: {name}_y", y, len(x))
        heads = {
            key.partition(".")[2]: _labels(f"{path}: {key}", array, len(x))
            for key, array in arrays.items()
            if key.startswith(f"{name}_y.")
        }
        columns = {
            key.partition(".")[2]: _texts(f"{path}: {key}", array)
            for key, array in arrays.items()
            if key.startswith(f"{name}_column.")
        }
        splits.append(Split(name, numbered(name, len(x)), x, labels, others, heads, columns))
    train, val = splits[:2]
    assert val.labels is not None  # val_y is among KEYS
    known = val.labels if train.labels is None else train.labels
    spec = _spec(train.inputs, path)
    modalities = {name: _spec(inputs, path) for name, inputs in train.modalities.items()}
    names = options.class_names or _names(known)
    further = {head: _names(labels) for head, labels in (train.head_labels or val.head_labels).items()}
    return replace(classification(path.stem, splits, spec, names), modalities=modalities, heads=further)


def _names(labels: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(str(c) for c in range(max(2, int(labels.max(initial=-1)) + 1)))


def _labels(where: str, y: NDArray[Any], count: int) -> NDArray[np.int64]:
    if y.shape != (count,) or y.dtype.kind not in "iu":
        raise DataError(f"{where} is {y.dtype} {y.shape}, expected whole numbers ({count},)")
    return y.astype(np.int64)


def _texts(where: str, values: NDArray[Any]) -> NDArray[np.str_]:
    if values.dtype.kind not in "iuU":
        raise DataError(f"{where} is {values.dtype}, expected texts or whole numbers")
    return np.asarray(values, np.str_)


def _inputs(where: str, x: NDArray[Any], options: Options) -> NDArray[Any]:
    if x.ndim not in (2, 4) or x.dtype not in (np.uint8, np.float32):
        raise DataError(
            f"{where} is {x.dtype} {x.shape}",
            hint="give uint8 or float32 in 2 dimensions (tables) or 4 (images, with a channel axis)",
        )
    if x.ndim == 4 and options.layout == "NHWC":
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return x


def _spec(inputs: NDArray[Any], path: Path) -> InputSpec:
    if inputs.dtype == np.uint8:
        return input_spec(inputs, 255.0, (0.0, 255.0), str(path))
    return input_spec(inputs, 1.0, where=str(path))


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: a single array, not a .npz file")
        with opened as file:
            for key in KEYS:
                if key not in file.files:
                    raise DataError(f"{path}: array {key!r} is missing", hint=f"needed: {', '.join(KEYS)}")
            for key in file.files:
                if key not in (*KEYS, *OPTIONAL) and not _FURTHER.fullmatch(key):
                    raise DataError(
                        f"{path}: array {key!r} is none that is read",
                        hint=f"known: {', '.join((*KEYS, *OPTIONAL))}, train_x.NAME, train_y.NAME ..."
                        " (NAME in small letters, digits and _), test_column.NAME",
                    )
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable .npz file: {error}") from None
