"""Data made from a seed: tiny images and the two moons, for tests and first steps."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgekd.config import Positive, Strict
from edgekd.tasks.common import classification, input_spec, numbered, take
from edgekd.types import Task

VERSION = 1


class Options(Strict):
    """Options of the kind `synthetic`."""

    dataset: Literal["images", "moons"] = Field(default="images", description="what to make")
    num_train: Positive = Field(default=256, description="samples")
    num_val: Positive = Field(default=64, description="samples")
    num_test: Positive = Field(default=128, description="samples")
    num_unlabelled: int = Field(default=0, ge=0, description="samples without labels")
    num_classes: int = Field(default=4, ge=2, description="classes of images; there are two moons")
    channels: Positive = Field(default=1, description="of images")
    size: int = Field(default=8, ge=4, description="height and width of images")
    noise: float = Field(
        default=0.2, gt=0, le=1, description="standard deviation; 1 is a pattern's full range"
    )


def sources(options: Options) -> tuple[Path, ...]:
    """There are none."""
    return ()


def read(options: Options, seed: int) -> Task:
    """`images`: one random pattern a class plus noise, uint8. `moons`: two features, float32."""
    rng = np.random.default_rng(seed)
    sizes = {"train": options.num_train, "val": options.num_val, "test": options.num_test}
    if options.num_unlabelled:
        sizes["unlabelled"] = options.num_unlabelled
    total = sum(sizes.values())
    classes = options.num_classes if options.dataset == "images" else 2
    # Classes take turns, so that every split of at least `classes` samples holds them all.
    labels = np.arange(total, dtype=np.int64) % classes
    inputs = _images(labels, options, rng) if options.dataset == "images" else _moons(labels, options, rng)
    ids = numbered(options.dataset, total)
    splits, start = [], 0
    for name, size in sizes.items():
        index = np.arange(start, start + size)
        splits.append(take(name, index, ids, inputs, None if name == "unlabelled" else labels))
        start += size
    spec = (
        input_spec(splits[0].inputs, 255.0, (0.0, 255.0))
        if options.dataset == "images"
        else input_spec(splits[0].inputs, 1.0)
    )
    return classification(f"synthetic-{options.dataset}", splits, spec, [str(c) for c in range(classes)])


def _images(labels: NDArray[np.int64], options: Options, rng: np.random.Generator) -> NDArray[np.uint8]:
    shape = (options.channels, options.size, options.size)
    # Blocks of 2x2 pixels survive a convolution and a shift by one pixel better than single ones.
    half = (options.size + 1) // 2
    coarse = rng.uniform(0.2, 0.8, (int(labels.max()) + 1, options.channels, half, half))
    patterns = coarse.repeat(2, axis=2).repeat(2, axis=3)[:, :, : options.size, : options.size]
    noisy = patterns[labels] + rng.normal(0.0, options.noise, (len(labels), *shape))
    return np.asarray(np.clip(np.rint(noisy * 255), 0, 255), np.uint8)


def _moons(labels: NDArray[np.int64], options: Options, rng: np.random.Generator) -> NDArray[np.float32]:
    angle = rng.uniform(0.0, np.pi, len(labels))
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    points = np.where(labels[:, None] == 0, upper, lower)
    return np.asarray(points + rng.normal(0.0, options.noise, points.shape), np.float32)
