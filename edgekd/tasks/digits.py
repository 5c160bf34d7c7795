"""scikit-learn's handwritten digits: 1,797 images of 8x8, no download, enough for an example."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from edgekd.config import Strict
from edgekd.errors import UsageError
from edgekd.tasks.common import classification, input_spec, numbered, split_by_count, take
from edgekd.types import Task

VERSION = 1
# A third for test: with fewer than 600 samples the gate could hardly resolve a few points.
SIZES = {"test": 597, "val": 200}


class Options(Strict):
    """There is nothing to choose."""


def sources(options: Options) -> tuple[Path, ...]:
    """The data file inside the installed scikit-learn."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UsageError("task digits comes with scikit-learn", hint="pip install 'edgekd[compress]'")
    return (Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz",)


def read(options: Options, seed: int) -> Task:
    """Pixels as uint8 0..16 of shape (1, 8, 8), split 1000/200/597 with the classes' proportions."""
    # A second to import, which a fingerprint can do without.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = bunch.images.astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    ids = numbered("digits", len(labels))
    index = split_by_count(inputs, labels, SIZES, seed)
    splits = [take(name, index[name], ids, inputs, labels) for name in ("train", "val", "test")]
    spec = input_spec(splits[0].inputs, scale=16.0, raw_range=(0.0, 16.0))
    return classification("digits", splits, spec, [str(d) for d in range(10)])
