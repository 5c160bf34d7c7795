"""Weights in 8 bits: each by the axis that its operator gives it, against float64."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import run_onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.exporters.onnx_weights import to_8_bits

RNG = np.random.default_rng(0)


def in_8_bits(values, axis):
    """What is left of a weight: steps of a 127th of the largest of its channel."""
    moved = np.moveaxis(values.astype(np.float64), axis, 0)
    flat = moved.reshape(len(moved), -1)
    found = []
    for row in flat:
        step = max(abs(row)) / 127 or 1.0
        found.append([round(v / step) * step for v in row])
    return np.moveaxis(np.array(found).reshape(moved.shape), 0, axis)


def model(nodes, weights, shape, out="y"):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return made


def weight(*shape):
    """Channels of very different size, whichever axis they lie on."""
    values = RNG.normal(size=shape)
    for axis, size in enumerate(shape):
        values = values * np.geomspace(0.1, 3, size).reshape(
            [-1 if i == axis else 1 for i in range(len(shape))]
        )
    return values.astype(np.float32)


CASES = {
    "Conv": (weight(4, 3, 2, 2), 0, {}, (1, 3, 5, 5)),
    "ConvTranspose": (weight(3, 4, 2, 2), 1, {}, (1, 3, 5, 5)),
    "Gemm": (weight(6, 4), 1, {}, (1, 6)),
    "Gemm, transposed": (weight(4, 6), 0, {"transB": 1}, (1, 6)),
    "MatMul": (weight(6, 4), 1, {}, (1, 6)),
}


@pytest.mark.parametrize("case", CASES)
def test_each_weight_by_its_own_axis(case, tmp_path):
    w, axis, attributes, shape = CASES[case]
    node = helper.make_node(case.split(",")[0], ["x", "w"], ["y"], **attributes)
    x = RNG.normal(size=shape).astype(np.float32)
    found, expected = (
        model([node], {"w": w}, shape),
        model([node], {"w": in_8_bits(w, axis).astype(np.float32)}, shape),
    )
    to_8_bits(found)
    paths = tmp_path / "found.onnx", tmp_path / "expected.onnx"
    for made, path in zip((found, expected), paths, strict=True):
        onnx.save(made, path)
    a, b = (run_onnx(path, x) for path in paths)
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    types = {i.name: i.data_type for i in found.graph.initializer}
    assert types == {"w_int8": TensorProto.INT8, "w_scale": TensorProto.FLOAT}
    # When the runtime has loaded it, it is the float network.
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    ort.InferenceSession(str(paths[0]), options, providers=["CPUExecutionProvider"])
    assert not {"Cast", "Mul", "MatMulNBits"} & {
        n.op_type for n in onnx.load(tmp_path / "loaded.onnx").graph.node
    }


def test_what_is_no_weight_or_used_in_two_ways_stays_in_float():
    nodes = [
        helper.make_node("MatMul", ["x", "both"], ["a"]),
        helper.make_node("Gemm", ["a", "both"], ["b"], transB=1),
        helper.make_node("Add", ["b", "bias"], ["c"]),
        helper.make_node("Mul", ["c", "table"], ["d"]),
        helper.make_node("MatMul", ["d", "zeros"], ["y"]),
    ]
    weights = {
        "both": weight(4, 4),
        "bias": weight(4),
        "table": weight(1, 4),
        "zeros": np.zeros((4, 2), np.float32),
    }
    made = model(nodes, weights, (1, 4))
    to_8_bits(made)
    constants = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
    assert set(constants) == {"both", "bias", "table", "zeros_int8", "zeros_scale"}
    assert not constants["zeros_int8"].any() and np.isfinite(constants["zeros_scale"]).all()
