"""Weights in 8 bits: each by the axis that its operator gives it, against float64."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import run_onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import ExportError
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


def model(nodes, weights, shape, kind=TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def weight(*shape):
    """Channels of very different size, whichever axis they lie on."""
    values = RNG.normal(size=shape)
    for axis, size in enumerate(shape):
        values = values * np.geomspace(0.1, 3, size).reshape(
            [-1 if i == axis else 1 for i in range(len(shape))]
        )
    return values.astype(np.float32)


CASES = {
    "Gather": (weight(6, 4), 0, {}, (1, 3)),
    "Conv": (weight(4, 3, 2, 2), 0, {}, (1, 3, 5, 5)),
    "ConvTranspose": (weight(3, 4, 2, 2), 1, {}, (1, 3, 5, 5)),
    "Gemm": (weight(6, 4), 1, {}, (1, 6)),
    "Gemm, transposed": (weight(4, 6), 0, {"transB": 1}, (1, 6)),
    "MatMul": (weight(6, 4), 1, {}, (1, 6)),
}


@pytest.mark.parametrize("case", CASES)
def test_each_weight_by_its_own_axis(case, tmp_path):
    w, axis, attributes, shape = CASES[case]
    fed = ["w", "x"] if case == "Gather" else ["x", "w"]
    node = helper.make_node(case.split(",")[0], fed, ["y"], **attributes)
    x = RNG.integers(0, 6, shape) if case == "Gather" else RNG.normal(size=shape).astype(np.float32)
    kind = TensorProto.INT64 if case == "Gather" else TensorProto.FLOAT
    found, expected = (
        model([node], {"w": value.astype(np.float32)}, shape, kind) for value in (w, in_8_bits(w, axis))
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


def run_of(made, x):
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


X = RNG.normal(size=(1, 4)).astype(np.float32)


def changed(made):
    """As it was, and in 8 bits: both run."""
    before = run_of(made, X)
    to_8_bits(made)
    after = run_of(made, X)
    np.testing.assert_allclose(after, before, atol=0.05 * abs(before).max())
    assert abs(after - before).max() > 0
    return {i.name: i.data_type for i in made.graph.initializer}


def test_names_that_are_taken_and_weights_listed_as_inputs():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Mul", ["a", "w_scale"], ["y"])]
    made = model(nodes, {"w": weight(4, 4), "w_scale": np.float32([2.0])}, (1, 4))
    made.ir_version = 3
    made.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (4, 4)))
    made.graph.input.append(helper.make_tensor_value_info("w_scale", TensorProto.FLOAT, (1,)))
    assert set(changed(made)) == {"w_scale", "w_int8", "w_scale_"}
    assert [i.name for i in made.graph.input] == ["x", "w_scale"]


def test_weights_that_a_constant_gives():
    value = numpy_helper.from_array(weight(4, 3))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=value),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    made = model(nodes, {}, (1, 4))
    assert set(changed(made)) == {"w_int8", "w_scale"}
    assert [n.op_type for n in made.graph.node] == ["Cast", "Mul", "MatMul"]


def test_one_that_a_condition_reads_too_stays_in_float():
    info = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    bodies = [
        helper.make_graph([helper.make_node("MatMul", ["a", name], ["z"])], name, [], [info])
        for name in ("w", "inner")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "v"], ["b"]),
        helper.make_node("If", ["yes"], ["c"], then_branch=bodies[0], else_branch=bodies[1]),
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    weights = {"w": weight(4, 4), "v": weight(4, 4), "inner": weight(4, 4), "yes": np.array(True)}
    assert {"w", "inner", "v_int8"} <= set(changed(model(nodes, weights, (1, 4))))


def test_nothing_to_turn_is_an_error():
    made = model([helper.make_node("Add", ["x", "w"], ["y"])], {"w": weight(1, 4)}, (1, 4))
    with pytest.raises(ExportError, match="no weight of the ONNX file can be stored in 8 bits"):
        to_8_bits(made)
