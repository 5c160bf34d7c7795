import numpy as np
import pytest
from model_files import linear_onnx

from edgekd.errors import MeasurementError
from edgekd.measure.memory import peak_memory_bytes


def model(path):
    return {"id": "m", "path": str(path), "runtime": "onnxruntime", "delegate": "cpu", "num_threads": 1}


def test_peak_holds_the_weights_of_the_file(tmp_path):
    small = linear_onnx(tmp_path / "small.onnx", np.ones((10, 10)), np.zeros(10))
    big = linear_onnx(tmp_path / "big.onnx", np.ones((4000, 4000)), np.zeros(4000))  # 64 MB
    assert peak_memory_bytes(model(big)) - peak_memory_bytes(model(small)) > 60e6


def test_file_that_does_not_run_has_no_peak(tmp_path):
    with pytest.raises(MeasurementError, match="no such file"):
        peak_memory_bytes(model(tmp_path / "absent.onnx"))
