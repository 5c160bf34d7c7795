import hashlib

import numpy as np
import pytest
from model_files import linear_onnx, linear_tflite, write_onnx

from edgekd.errors import DataError, MeasurementError
from edgekd.measure.accuracy import predict, run_batches
from edgekd.types import Artifact, File, InputSpec, Split

WEIGHT, BIAS = np.array([[1, -2, 0], [0.5, 3, 1]]), np.array([10, 20, 0])
TABLE = InputSpec("x", (2,), "NC", "float32", (0, 100), 10.0, (1.0, 2.0), (0.5, 4.0))
RAW = np.array([[20, 60], [0, 0], [10, 100], [100, 20], [50, 50]], np.float32)
# (raw / 10 - mean) / std by hand
INPUTS = np.array([[2, 1], [-2, -0.5], [0, 2], [18, 0], [8, 0.75]])


def artifact(path, spec=TABLE, classes=3):
    data = path.read_bytes()
    file = File(path, hashlib.sha256(data).hexdigest(), len(data))
    names = tuple("abcdefgh"[:classes])
    return Artifact("art", (file,), "onnx" if path.suffix == ".onnx" else "tflite", "fp32", spec, names)


def split(labels=(0, 0, 1, 0, 0), raw=RAW):
    ids = np.array([f"s{i}" for i in range(len(raw))])
    return Split("test", ids, raw, None if labels is None else np.array(labels, np.int64))


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_predictions_by_hand(tmp_path, batch_size):
    file = linear_onnx(tmp_path / "m.onnx", WEIGHT, BIAS)
    found = predict(artifact(file), split(), "onnxruntime", 1, tmp_path / "w", batch_size=batch_size)
    np.testing.assert_allclose(found.scores, INPUTS @ WEIGHT + BIAS, atol=1e-5)
    assert found.sample_ids.tolist() == ["s0", "s1", "s2", "s3", "s4"]
    assert found.labels.tolist() == [0, 0, 1, 0, 0]
    # First scores 12.5, 7.75, 11, 28, 18.375; second 19, 22.5, 26, -16, 6.25; third is least or equal.
    assert found.scores.argmax(axis=1).tolist() == [1, 1, 1, 0, 0]
    assert found.correct.mean() == 0.6
    assert not list((tmp_path / "w").iterdir())


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_images_reach_the_file_in_its_layout(tmp_path, layout):
    """The file flattens its input, so each weight belongs to one channel and pixel of one layout."""
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (1030, 2, 3, 4)).astype(np.uint8)  # more than one piece
    spec = InputSpec("x", (2, 3, 4), "NCHW", "uint8", (0, 255), 255.0, (0.5, 0.25), (0.5, 0.125))
    weight = rng.integers(-8, 8, (2, 3, 4, 3)) / 8
    inside = weight if layout == "NCHW" else weight.transpose(1, 2, 0, 3)
    file = write_onnx(
        tmp_path / "m.onnx",
        [("Flatten", ["x"], ["flat"], {}), ("MatMul", ["flat", "w"], ["y"], {})],
        [("x", ["N", *inside.shape[:3]])],
        [("y", ["N", 3])],
        {"w": inside.reshape(24, 3).astype(np.float32)},
    )
    labels = np.zeros(len(raw), np.int64)
    data = Split("test", np.array([str(i) for i in range(len(raw))]), raw, labels)
    found = predict(artifact(file, spec), data, "onnxruntime", 1, tmp_path, layout=layout)
    inputs = (raw / 255.0 - np.array([0.5, 0.25]).reshape(1, 2, 1, 1)) / np.array([0.5, 0.125]).reshape(
        1, 2, 1, 1
    )
    np.testing.assert_allclose(found.scores, np.einsum("nchw,chwk->nk", inputs, weight), atol=1e-4)


def test_tflite_gives_what_onnx_gives(tmp_path):
    onnx = artifact(linear_onnx(tmp_path / "m.onnx", WEIGHT, np.zeros(3)))
    tflite = artifact(linear_tflite(tmp_path / "m.tflite", WEIGHT.T))
    one = predict(onnx, split(), "onnxruntime", 1, tmp_path)
    two = predict(tflite, split(), "litert", 1, tmp_path, layout="NHWC", delegate="xnnpack")
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-5)


def test_split_without_labels_or_samples_cannot_be_judged(tmp_path):
    made = artifact(linear_onnx(tmp_path / "m.onnx", WEIGHT, BIAS))
    with pytest.raises(DataError, match="'test' has no labels"):
        predict(made, split(None), "onnxruntime", 1, tmp_path)
    with pytest.raises(DataError, match="'test' has no samples"):
        predict(made, split((), RAW[:0]), "onnxruntime", 1, tmp_path)


def test_wrong_number_of_classes_is_an_error(tmp_path):
    made = artifact(linear_onnx(tmp_path / "m.onnx", WEIGHT, BIAS), classes=4)
    with pytest.raises(MeasurementError, match=r"art: gave scores of shape \(5, 3\), not \(5, 4\)"):
        predict(made, split(), "onnxruntime", 1, tmp_path)


def test_nan_is_an_error_that_counts_the_samples(tmp_path):
    file = write_onnx(
        tmp_path / "m.onnx", [("Sqrt", ["x"], ["y"], {})], [("x", ["N", 2])], [("y", ["N", 2])], {}
    )
    inputs = np.array([[1, 4], [-1, 4], [9, -1], [0, 0]], np.float32)
    with pytest.raises(MeasurementError, match="art: 2 of 4 outputs hold NaN or infinity"):
        run_batches(file, inputs, "onnxruntime", 1, tmp_path, name="art")
    scores = run_batches(file, inputs[:1], "onnxruntime", 1, tmp_path, name="art")
    assert scores.tolist() == [[1, 2]]
