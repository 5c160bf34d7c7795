import numpy as np
import pytest
from model_files import linear_onnx, linear_tflite, write_onnx

from edgekd.errors import UsageError
from edgekd.teachers.model_file import open_path

WEIGHT, BIAS = np.random.default_rng(0).normal(size=(6, 4)), np.arange(4)


def rows(n):
    return np.random.default_rng(1).normal(size=(n, 6)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 7])
def test_onnx_with_an_open_batch_and_a_fixed_one(tmp_path, n):
    for batch in ("N", 3):
        path = linear_onnx(tmp_path / f"{batch}.onnx", WEIGHT, BIAS, batch=batch)
        np.testing.assert_allclose(
            open_path(path, (6,))(rows(n)), rows(n) @ WEIGHT + BIAS, rtol=1e-5, atol=1e-5
        )


def test_tflite(tmp_path):
    for free_batch in (True, False):
        path = linear_tflite(tmp_path / f"{free_batch}.tflite", WEIGHT.T, free_batch=free_batch)
        np.testing.assert_allclose(open_path(path, (6,))(rows(5)), rows(5) @ WEIGHT, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("last", [False, True])
def test_images_in_either_layout(tmp_path, last):
    """The mean over the image, channel by channel: it tells which axis was taken for the channels."""
    shape, axes = (["N", 4, 5, 2], [1, 2]) if last else (["N", 2, 4, 5], [2, 3])
    path = write_onnx(
        tmp_path / "mean.onnx",
        [("ReduceMean", ["x", "axes"], ["y"], {"keepdims": 0})],
        [("x", shape)],
        [("y", ["N", 2])],
        {"axes": np.array(axes, np.int64)},
    )
    x = np.random.default_rng(2).normal(size=(3, 2, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(open_path(path, (2, 4, 5))(x), x.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)


def test_a_file_for_other_samples_is_refused(tmp_path):
    path = linear_onnx(tmp_path / "a.onnx", WEIGHT, BIAS)
    for shape in ((7,), (3, 8, 8)):
        with pytest.raises(UsageError, match=r"a.onnx: takes inputs of shape \(6,\), the task's samples are"):
            open_path(path, shape)
