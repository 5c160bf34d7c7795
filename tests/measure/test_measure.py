import numpy as np

from edgekd.measure import to_layout


def test_images_are_transposed_and_tables_left_alone():
    batch = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    moved = to_layout(batch, "NHWC")
    assert moved.shape == (2, 4, 5, 3) and moved.flags["C_CONTIGUOUS"]
    assert moved[1, 3, 4, 2] == batch[1, 2, 3, 4]
    assert to_layout(batch, "NCHW") is batch
    table = np.zeros((2, 3), np.float32)
    assert to_layout(table, "NHWC") is table
