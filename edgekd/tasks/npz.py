"""Arrays in a .npz file: train_x, val_x, val_y, test_x, test_y and, if there, train_y and unlabelled_x."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgekd.config import Strict
from edgekd.errors import DataError
from edgekd.tasks.common import classification, existing, input_spec, numbered
from edgekd.types import Split, Task

VERSION = 1
KEYS = ("train_x", "val_x", "val_y", "test_x", "test_y")
OPTIONAL = ("train_y", "unlabelled_x")


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
        if x.ndim not in (2, 4) or x.dtype not in (np.uint8, np.float32):
            raise DataError(
                f"{path}: {name}_x is {x.dtype} {x.shape}",
                hint="give uint8 or float32 in 2 dimensions (tables) or 4 (images, with a channel axis)",
            )
        if x.ndim == 4 and options.layout == "NHWC":
            x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        if y is not None and (y.shape != (len(x),) or y.dtype.kind not in "iu"):
            raise DataError(f"{path}: {name}_y is {y.dtype} {y.shape}, expected whole numbers ({len(x)},)")
        splits.append(Split(name, numbered(name, len(x)), x, None if y is None else y.astype(np.int64)))
    train, val = splits[:2]
    assert val.labels is not None  # val_y is among KEYS
    known = val.labels if train.labels is None else train.labels
    spec = (
        input_spec(train.inputs, 255.0, (0.0, 255.0), str(path))
        if train.inputs.dtype == np.uint8
        else input_spec(train.inputs, 1.0, where=str(path))
    )
    names = options.class_names or tuple(str(c) for c in range(max(2, int(known.max()) + 1)))
    return classification(path.stem, splits, spec, names)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: a single array, not a .npz file")
        with opened as file:
            for key in KEYS:
                if key not in file.files:
                    raise DataError(f"{path}: array {key!r} is missing", hint=f"needed: {', '.join(KEYS)}")
            return {k: file[k] for k in (*KEYS, *OPTIONAL) if k in file.files}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable .npz file: {error}") from None
