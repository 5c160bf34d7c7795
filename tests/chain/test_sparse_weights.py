"""Weights that pruning set to zero stay zero in the shipped files, through recovery and QAT."""

import json
import tomllib
import zlib

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter
from runs import TINY

import edgekd


def onnx_weights(path):
    found = [onnx.numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer]
    return [w for w in found if w.ndim == 2]


def tflite_weights(path):
    interpreter = Interpreter(str(path))
    constants = {int(i) for op in interpreter._get_ops_details() for i in op["inputs"][1:2]}
    found = [d for d in interpreter.get_tensor_details() if d["index"] in constants and len(d["shape"]) == 2]
    return [interpreter.tensor(d["index"])() for d in found]


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_zeros_stay_in_the_files(tmp_path, pattern):
    recipe = tomllib.loads(TINY)
    chosen = {"keep": 0.4, "rounds": 2} if pattern == "unstructured" else {"pattern": pattern}
    common = {"epochs": 2, "batch_size": 16, "optimizer": "adamw"}
    recipe["prune"] = {"goal": "nonzero_weights", **common, **chosen}
    work = tmp_path / "work"
    report = edgekd.compress(recipe, store=tmp_path / "store", workdir=work)
    whole = 64 * 32 + 32 * 32 + 32 * 10
    stages = {s.id.partition("-")[0]: s for s in report.stages}
    limit = int(0.4 * whole) if pattern == "unstructured" else whole // 2
    assert stages["prune"].nonzero_weights == limit
    assert limit / 2 < stages["quantize"].nonzero_weights <= limit
    assert stages["student"].nonzero_weights is None
    shipped = {a.target: a for a in report.artifacts if a.role == "target"}
    floats = {a.format: a for a in report.artifacts if a.role == "student_float"}
    for target, read in (("host", tflite_weights), ("x86-onnx", onnx_weights)):
        (file,) = shipped[target].files
        weights = [w for w in read(work / file.path) if w.dtype == np.int8]
        assert sum(w.size for w in weights) == whole
        assert limit / 2 < sum(np.count_nonzero(w) for w in weights) <= limit
        if pattern == "2:4":
            for w in weights:  # (outputs, inputs)
                assert (np.count_nonzero(w.reshape(-1, 4), axis=1) <= 2).all()
        data = (work / file.path).read_bytes()
        assert file.deflated_bytes == len(zlib.compress(data, 9)) < len(data)
    for reference in floats.values():
        (file,) = reference.files
        assert file.deflated_bytes < 0.75 * file.size_bytes  # floats of a trained network hardly pack
    text = (work / "report.md").read_text()
    assert "Weights that are not zero" in text and f"| {limit:,} |" in text and "Packed by zlib" in text


def test_rounds_over_convolutions(tmp_path):
    recipe = tomllib.loads(TINY) | {"targets": ["x86-onnx"], "student": {"model": {"kind": "resnet"}}}
    recipe["student"]["model"] |= {"blocks": [1], "width": 8}
    goal = {"goal": "nonzero_weights", "keep": 0.5, "rounds": 2, "scope": "layer"}
    recipe["prune"] = {"epochs": 2, "batch_size": 16} | goal
    report = edgekd.compress(recipe, until="prune", store=tmp_path / "store", workdir=tmp_path / "work")
    assert report is None
    (found,) = (tmp_path / "store").glob("prune-*/result.json")
    whole = 9 * 8 + 2 * 9 * 64 + 80
    result = json.loads(found.read_text())["result"]
    assert result["nonzero_weights"] == whole // 2
    assert [r["cost"] for r in result["rounds"]] == [int(whole * 0.5**0.5), whole // 2]
