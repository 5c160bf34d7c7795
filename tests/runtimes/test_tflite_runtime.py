import types

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from model_files import linear_tflite

from edgekd.errors import MeasurementError
from edgekd.runtimes import open_session, tflite_runtime


def test_absent_package_is_named_with_the_remedy(tmp_path):
    try:
        import tflite_runtime as installed  # noqa: F401
    except ImportError:
        file = linear_tflite(tmp_path / "m.tflite", [[1]])
        with pytest.raises(MeasurementError, match="pip install tflite-runtime"):
            open_session("tflite_runtime", file)
    else:
        pytest.skip("tflite_runtime is installed here")


def test_package_that_breaks_only_when_an_interpreter_is_made(tmp_path, monkeypatch):
    """As tflite_runtime does beside numpy 2."""

    def broken(**options):
        raise SystemError("CreateWrapperFromFile returned a result with an exception set")

    fake = types.SimpleNamespace(Interpreter=broken)
    monkeypatch.setattr(tflite_runtime, "_import", lambda: fake)
    monkeypatch.setattr(tflite_runtime.metadata, "version", lambda name: "2.14.0")
    with pytest.raises(MeasurementError, match=r"tflite_runtime 2\.14\.0 cannot make.*numpy<2"):
        open_session("tflite_runtime", linear_tflite(tmp_path / "m.tflite", [[1]]))


def test_session_is_the_interpreters(tmp_path, monkeypatch):
    monkeypatch.setattr(tflite_runtime, "_import", lambda: litert)  # the two packages share this interface
    monkeypatch.setattr(tflite_runtime.metadata, "version", lambda name: "2.14.0")
    session = open_session("tflite_runtime", linear_tflite(tmp_path / "m.tflite", [[1, 2], [3, 4]]))
    assert (session.runtime, session.version) == ("tflite_runtime", "2.14.0")
    assert session.run(np.array([[10, 1]], np.float32)).tolist() == [[12, 34]]
