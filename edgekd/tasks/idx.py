"""IDX files as MNIST and Fashion-MNIST come: gzip around a header and raw bytes."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgekd.config import Positive, Strict
from edgekd.errors import DataError
from edgekd.tasks.common import classification, existing, input_spec, numbered, take
from edgekd.types import Split, Task

VERSION = 1
TRAIN = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
TEST = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
# A header can claim any size; the real sets stay below 1/40 of this.
_LARGEST_BYTES = 2**31


class Options(Strict):
    """Options of the kind `idx`."""

    path: str = Field(description="folder with the .gz files; $VAR is filled in")
    num_test: Positive = Field(
        default=10000, description="last training images, test where no t10k files are"
    )
    num_val: Positive = Field(default=5000, description="last training images before these, for val")
    class_names: tuple[str, ...] | None = Field(
        default=None, strict=False, min_length=2, description="by label; numbers where left out"
    )


def sources(options: Options) -> tuple[Path, ...]:
    """The two training files, and the two t10k files where they exist."""
    folder = existing(options.path, "path")
    there = [name for name in TEST if (folder / name).exists()]
    if len(there) == 1:
        raise DataError(
            f"{folder} holds {there[0]} but not the other t10k file", hint="give both, or neither"
        )
    paths = tuple(folder / name for name in (*TRAIN, *there))
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file", hint=f"task.path must hold {' and '.join(TRAIN)}")
    return paths


def read(options: Options, seed: int) -> Task:
    """Images as uint8 (1, H, W); the t10k files are test, or else the last training images are."""
    paths = sources(options)
    images, labels = _pair(*paths[:2])
    # With t10k files the last images are val; without, they are test and val stands before them.
    num_test = options.num_test if len(paths) == 2 else 0
    num_train = len(labels) - num_test - options.num_val
    if num_train < 1:
        raise DataError(
            f"{paths[0]}: {len(labels)} images are too few for num_test = {num_test} and"
            f" num_val = {options.num_val}"
        )
    ids = numbered("train", len(labels))
    bounds = {"train": (0, num_train), "val": (num_train, num_train + options.num_val)}
    if num_test:
        bounds["test"] = (num_train + options.num_val, len(labels))
    splits = [take(name, np.arange(*b), ids, images, labels) for name, b in bounds.items()]
    if not num_test:
        test_images, test_labels = _pair(*paths[2:])
        if test_images.shape[1:] != images.shape[1:]:
            raise DataError(
                f"{paths[2]}: images are {test_images.shape[2:]}, those of train {images.shape[2:]}"
            )
        splits.append(Split("test", numbered("t10k", len(test_labels)), test_images, test_labels))
    names = options.class_names or tuple(str(c) for c in range(max(2, int(labels.max()) + 1)))
    folder = paths[0].parent
    return classification(
        folder.name or "idx", splits, input_spec(splits[0].inputs, 255.0, (0.0, 255.0)), names
    )


def _pair(images_path: Path, labels_path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path}: {len(images)} images, but {labels_path.name} has {len(labels)} labels"
        )
    return images[:, None], labels.astype(np.int64)


def read_idx(path: Path, num_dims: int) -> NDArray[np.uint8]:
    """The array of unsigned bytes in a gzipped IDX file.

    Raises:
        DataError: not gzip, corrupt, another type or number of dimensions, too short or too long.
    """
    try:
        with gzip.open(path) as file:
            header = file.read(4 + 4 * num_dims)
            if header[:4] != bytes((0, 0, 8, num_dims)):
                raise DataError(
                    f"{path}: the header starts with {header[:4].hex()}, expected 000008{num_dims:02x}"
                    f" (unsigned bytes in {num_dims} dimensions)"
                )
            if len(header) < 4 + 4 * num_dims:
                raise DataError(f"{path}: the header is cut short")
            shape = tuple(int(n) for n in np.frombuffer(header, ">u4", offset=4))
            size = math.prod(shape)
            if not 0 < size <= _LARGEST_BYTES:
                raise DataError(f"{path}: the header claims the shape {shape}")
            data = file.read(size)
            rest = file.read(1)  # reading on to the end also checks gzip's own checksum
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file: {error}", hint="fetch the file again") from None
    if len(data) != size or rest:
        found = f"more than {size}" if rest else str(len(data))
        raise DataError(f"{path}: the header promises {size} bytes for {shape}, the file holds {found}")
    return np.frombuffer(data, np.uint8).reshape(shape)
