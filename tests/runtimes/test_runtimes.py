import ast
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekd.runtimes as runtimes
from edgekd.devices import package
from edgekd.errors import MeasurementError, UsageError
from edgekd.runtimes import TensorInfo, open_session

PACKAGE = Path(runtimes.__file__).parents[1]
TRAVELLERS = [PACKAGE / name for name in package.FILES]


@pytest.mark.parametrize("name", sorted(runtimes.RUNTIMES))
def test_every_runtime_in_the_table_has_what_a_runtime_needs(name):
    module = importlib.import_module(runtimes.RUNTIMES[name])
    assert "cpu" in module.DELEGATES
    assert all(callable(getattr(module, f)) for f in ("open_session", "list_operators", "preload", "version"))


@pytest.mark.parametrize("name", ["litert", "onnxruntime"])
def test_the_version_without_a_model_is_that_of_a_session(name):
    assert runtimes.version(name) == runtimes.probe(name)


def test_unknown_runtime_and_delegate_name_the_known_ones(tmp_path):
    file = tmp_path / "x.onnx"
    file.write_bytes(b"")
    with pytest.raises(UsageError, match=r"unknown runtime 'tvm'.*litert, onnxruntime, tflite_runtime"):
        open_session("tvm", file)
    with pytest.raises(UsageError, match=r"onnxruntime has no delegate 'npu'.*cpu, xnnpack, gpu"):
        open_session("onnxruntime", file, delegate="npu")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MeasurementError, match=r"absent\.onnx: no such file"):
        open_session("onnxruntime", tmp_path / "absent.onnx")


@pytest.mark.parametrize("path", TRAVELLERS, ids=lambda p: p.name)
def test_files_that_travel_to_boards_need_nothing_else_and_no_newer_python(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    ours = {name for name in imported if name.startswith("edgekd")}
    there = {
        f"edgekd/{n}".removesuffix(".py").removesuffix("/__init__").replace("/", ".") for n in package.FILES
    }
    assert ours <= there, ours - there
    others = {name.split(".")[0] for name in imported - ours}
    assert others <= sys.stdlib_module_names | {"numpy", "onnxruntime", "ai_edge_litert"}
    assert "tomllib" not in others  # standard only from Python 3.11


# real = 0.5 * (q - 3), so q = real / 0.5 + 3, clipped to [-128, 127]
INT8 = TensorInfo("x", (None, 4), "int8", 0.5, 3)


def test_encode_quantizes_as_the_file_says():
    values = INT8.encode(np.array([[-1000.0, -1.5, 0.2, 62.5]], np.float32))
    assert values.dtype == np.int8
    assert values.tolist() == [[-128, 0, 3, 127]]


def test_decode_is_its_inverse_on_the_grid():
    assert INT8.decode(np.array([-128, 0, 3, 127], np.int8)).tolist() == [-65.5, -1.5, 0.0, 62.0]
    plain = TensorInfo("y", (None,), "float16").decode(np.array([1.5], np.float16))
    assert plain.dtype == np.float32 and plain.tolist() == [1.5]


def test_encode_takes_values_of_the_files_own_type_as_they_are():
    own = np.array([[-128, -1, 5, 127]], np.int8)
    assert INT8.encode(own).tolist() == own.tolist()


def test_encode_refuses_floats_where_the_file_tells_no_scale():
    with pytest.raises(MeasurementError, match="'ids' is int64 without a scale: float32"):
        TensorInfo("ids", (None, 4), "int64").encode(np.zeros((1, 4), np.float32))
