from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import tiny_resnet
from onnx import TensorProto, helper, numpy_helper

from edgekd import probes
from edgekd.errors import MeasurementError
from edgekd.layers import Layer
from edgekd.measure.contents import Constant, constants_of

# A 3x3 convolution of 4 channels to 8, a dense layer of 8 to 5.
LAYERS = (
    Layer("conv", 6, 6, 4, 8, kernel=3, padding=1),
    Layer("global_pool", 6, 6, 8, 8),
    Layer("linear", 1, 1, 8, 5),
)
CONV, DENSE = 8 * 4 * 3 * 3, 8 * 5


def by_type(constants):
    found = Counter()
    for c in constants:
        found[c.op_type, c.dtype] += c.size_bytes
    return found


@pytest.mark.parametrize(
    ("scheme", "weights", "bias"), [("fp32", "float32", "float32"), ("static_wi8_ai8", "int8", "int32")]
)
def test_tflite_constants_belong_to_the_operator_that_reads_them(tmp_path, scheme, weights, bias):
    path = tmp_path / "probe.tflite"
    path.write_bytes(probes.build(LAYERS, format="tflite", scheme=scheme, activations="signed"))
    width = {"float32": 4, "int8": 1, "int32": 4}
    found = by_type(constants_of(path, "tflite"))
    expected = Counter()
    expected["CONV_2D", weights] += CONV * width[weights]
    expected["CONV_2D", bias] += 8 * width[bias]
    expected["FULLY_CONNECTED", weights] += DENSE * width[weights]
    expected["FULLY_CONNECTED", bias] += 5 * width[bias]
    expected["MEAN", "int32"] += 2 * 4  # the axes
    assert found == expected


def test_onnx_constants_belong_to_the_operator_behind_what_unpacks_them(tmp_path):
    def constant(name, values):
        return numpy_helper.from_array(values, name)

    whole = np.arange(24, dtype=np.int8).reshape(4, 6)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["wf"], name="unpack"),
        helper.make_node("Transpose", ["wf"], ["wt"], name="turn"),
        helper.make_node("MatMul", ["x", "wt"], ["m"], name="multiply"),
        helper.make_node("Constant", [], ["two"], value=constant("", np.full(7, 2, np.float64))),
        helper.make_node("Add", ["m", "blocks.3.fc.bias"], ["a"], name="sum"),
        helper.make_node("Cast", ["a"], ["y"], name="cast", to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["y", "two"], ["z"], name="double"),
    ]
    # Not packed as raw bytes, as some exporters write them.
    typed = helper.make_tensor("blocks.3.fc.bias", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    assert not typed.raw_data
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
        [helper.make_tensor_value_info("z", TensorProto.DOUBLE, [1, 4])],
        [
            constant("w", whole),
            constant("scale", np.float32(0.5)),
            constant("zero", np.int8(0)),
            typed,
            constant("unread", np.zeros(3, np.uint16)),
        ],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph), path)
    assert set(constants_of(path, "onnx")) == {
        Constant("multiply", "MatMul", "int8", 24),
        Constant("multiply", "MatMul", "float32", 4),
        Constant("multiply", "MatMul", "int8", 1),
        Constant("blocks.3.fc", "Add", "float32", 16),
        Constant("double", "Mul", "float64", 56),
        Constant("unread", "", "uint16", 6),
    }


@pytest.mark.parametrize("scheme", ["fp32", "static_wi8_ai8"])
def test_exported_onnx_has_the_bytes_that_the_onnx_library_finds(exported, scheme):
    _, path = exported("onnx", scheme)
    expected = Counter()
    for tensor in onnx.load(path).graph.initializer:
        values = numpy_helper.to_array(tensor)
        expected[str(values.dtype)] += values.nbytes
    found = Counter()
    for c in constants_of(path, "onnx"):
        found[c.dtype] += c.size_bytes
    assert found == expected
    assert sum(found.values()) < path.stat().st_size


@pytest.mark.parametrize("scheme", ["fp32", "fp16", "static_wi8_ai8"])
def test_exported_tflite_names_its_layers(exported, scheme):
    _, path = exported("tflite", scheme)
    constants = [c for c in constants_of(path, "tflite") if c.op_type in ("CONV_2D", "FULLY_CONNECTED")]
    assert {"head", "blocks.0.conv1", "blocks.0.conv2"} <= {c.layer for c in constants}
    weights = {"fp32": "float32", "fp16": "float16", "static_wi8_ai8": "int8"}[scheme]
    width = {"float32": 4, "float16": 2, "int8": 1}[weights]
    # The dense layer's weights by the network itself.
    size = max(c.size_bytes for c in constants if c.layer == "head" and c.dtype == weights)
    dense = dict(tiny_resnet().named_modules())["head"]
    assert size == dense.in_features * dense.out_features * width
    assert all(c.op_type != "DEQUANTIZE" for c in constants_of(path, "tflite"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    found = {}
    for format in ("onnx", "tflite"):
        data = probes.build(LAYERS, format=format, scheme="static_wi8_ai8", activations="signed")
        found[format] = folder / f"damaged.{format}", data
    return found


@given(st.data())
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_a_damaged_file_is_an_error_in_words_or_read(files, format, data):
    path, whole = files[format]
    spoiled = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 6))):
        if spoiled:
            spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(spoiled)
    try:
        found = constants_of(path, format)
    except MeasurementError as error:
        assert path.name in str(error)
    else:
        assert all(c.size_bytes > 0 for c in found)
