import numpy as np
import pytest

from edgekd.types import ACCURACY, InputSpec, Split, Task


def _split(name, inputs, labels, prefix=None):
    ids = np.array([f"{prefix or name}-{i}" for i in range(len(inputs))])
    return Split(name, ids, inputs, labels)


@pytest.fixture
def split():
    """A split from bytes: one sample of two features for each (a, b), ids `<name>-0` ..."""
    return _split


@pytest.fixture
def make_task():
    """A task of splits (name=(inputs, labels)) over two uint8 features."""

    def make(classes=2, notes=None, dtype=np.uint8, **splits):
        built = {
            name: _split(name, np.array(x, dtype), None if y is None else np.array(y, np.int64))
            for name, (x, y) in splits.items()
        }
        spec = InputSpec(
            "input", (2,), "NC", np.dtype(dtype).name, (0.0, 255.0), 255.0, (0.1, 0.2), (0.3, 0.7)
        )
        return Task("t", built, (ACCURACY,), spec, tuple(f"c{i}" for i in range(classes)), notes or {})

    return make


@pytest.fixture
def clean(make_task):
    """Eight samples in train, two in val, two in test; nothing wrong with them."""
    return make_task(
        train=([[i, 0] for i in range(8)], [0, 1] * 4),
        val=([[0, 1], [1, 1]], [0, 1]),
        test=([[0, 2], [1, 2]], [0, 1]),
    )


@pytest.fixture
def real(data_root):
    """A folder of $EDGEKD_DATA; the test is skipped where it is not there."""

    def folder(name):
        path = data_root / name
        if not path.is_dir():
            pytest.skip(f"EDGEKD_DATA has no folder {name}")
        return path

    return folder
