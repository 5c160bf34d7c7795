import numpy as np
import pytest

from edgekd.errors import UsageError
from edgekd.layouts import layout_for, to_layout


def test_images_are_transposed_and_tables_left_alone():
    batch = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    moved = to_layout(batch, "NHWC")
    assert moved.shape == (2, 4, 5, 3) and moved.flags["C_CONTIGUOUS"]
    assert moved[1, 3, 4, 2] == batch[1, 2, 3, 4]
    assert to_layout(batch, "NCHW") is batch
    table = np.zeros((2, 3), np.float32)
    assert to_layout(table, "NHWC") is table


def test_the_layout_that_a_model_takes():
    assert layout_for((3, 8, 9), (3, 8, 9), "m") == "NCHW"
    assert layout_for((8, 9, 3), (3, 8, 9), "m") == "NHWC"
    assert layout_for((None, None, 3), (3, 8, 9), "m") == "NHWC"
    assert layout_for((3, 3, 3), (3, 3, 3), "m") == "NCHW"  # cannot be told: as it stands here
    assert layout_for((5,), (5,), "m") == "NCHW"
    with pytest.raises(UsageError, match=r"m: takes inputs of shape \(4,\), the task's samples are \(5,\)"):
        layout_for((4,), (5,), "m")
    with pytest.raises(UsageError):
        layout_for((3, 8), (3, 8, 8), "m")
