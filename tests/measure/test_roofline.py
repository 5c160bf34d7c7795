import json
import math
import platform
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from edgekd import cli, probes
from edgekd.config import PeakConfig
from edgekd.errors import MeasurementError
from edgekd.layers import Layer
from edgekd.measure.inventory import inventory_of
from edgekd.measure.onnx_steps import steps_of as onnx_steps
from edgekd.measure.roofline import bounds, roofline_of
from edgekd.measure.work import Work, work_of

# Round numbers, so that every time below can be worked out by hand.
PEAK = PeakConfig(fp32_gflops=10, int8_gops=40, memory_gb_per_s=1, cache_mb=0, source="none")

# 6x6x4 -> 6x6x8 by 3x3; depthwise with stride 2 -> 3x3x8; mean; 8 -> 5.
LAYERS = (
    Layer("conv", 6, 6, 4, 8, kernel=3, padding=1),
    Layer("depthwise", 6, 6, 8, 8, kernel=3, stride=2, padding=1),
    Layer("global_pool", 3, 3, 8, 8),
    Layer("linear", 1, 1, 8, 5),
)
CONV = 6 * 6 * 8 * (3 * 3 * 4)  # every output value: nine places of four channels
DEPTHWISE = 3 * 3 * 8 * (3 * 3)
DENSE = 8 * 5
MULTIPLIES = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"}
MULTIPLIES |= {"Conv", "Gemm", "MatMul", "FusedConv", "QLinearConv", "QGemm", "QLinearMatMul"}
MULTIPLIES |= {"MatMulIntegerToFloat", "DynamicQuantizeMatMul", "FusedGemm", "NhwcFusedConv"}


def probe(tmp_path, format, scheme):
    path = tmp_path / f"probe.{format}"
    path.write_bytes(probes.build(LAYERS, format=format, scheme=scheme, activations="signed"))
    return path


@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("scheme", ["fp32", "static_wi8_ai8"])
def test_a_small_network_by_hand(tmp_path, format, scheme):
    found = roofline_of(probe(tmp_path, format, scheme), format, PEAK)
    rate = {"fp32": 10, "static_wi8_ai8": 40}[scheme]
    kind = {"fp32": "float32", "static_wi8_ai8": "int8"}[scheme]
    counted = [o for o in found.operators if o.work.operations]
    assert [o.work.macs for o in counted] == [CONV, DEPTHWISE, 0, DENSE]
    assert [o.work.operations for o in counted] == [2 * CONV, 2 * DEPTHWISE, 8, 2 * DENSE]
    assert {o.work.dtype for o in counted} == {kind}
    # 1e9 operations a second are 1e6 a millisecond.
    assert [o.compute_ms for o in counted] == pytest.approx(
        [2 * CONV / rate / 1e6, 2 * DEPTHWISE / rate / 1e6, 8 / rate / 1e6, 2 * DENSE / rate / 1e6]
    )
    assert found.macs == CONV + DEPTHWISE + DENSE == 10368 + 648 + 40


def test_bytes_by_hand(tmp_path):
    found = roofline_of(probe(tmp_path, "tflite", "fp32"), "tflite", PEAK)
    conv, depthwise, mean, dense = (o for o in found.operators if o.work.operations)
    image, wide, narrow = 6 * 6 * 4 * 4, 6 * 6 * 8 * 4, 3 * 3 * 8 * 4
    padded = 8 * 8 * 8 * 4  # by an operator of its own, since TFLite's own padding is another at stride 2
    # Weights and biases in float32, the mean's two axes in int32; nothing stays in a cache of no size.
    moved = [
        4 * (8 * 4 * 9 + 8) + image + wide,
        4 * (8 * 9 + 8) + padded + narrow,
        4 * 2 + narrow + 8 * 4,
        4 * (8 * 5 + 5) + 8 * 4 + 5 * 4,
    ]
    assert [o.moved_bytes for o in (conv, depthwise, mean, dense)] == pytest.approx(moved)
    # 1 GB/s are 1e6 bytes a millisecond: 2,912 bytes take longer than 20,736 operations at 10 GFLOP/s.
    assert moved[0] == 2912 and conv.limit == "memory" and conv.bound_ms == pytest.approx(2912e-6)
    fast = PEAK.model_copy(update={"memory_gb_per_s": 100})
    conv, depthwise, *_ = roofline_of(probe(tmp_path, "tflite", "fp32"), "tflite", fast).operators
    assert conv.limit == "compute" and conv.bound_ms == pytest.approx(20736 / 10e6)
    assert roofline_of(tmp_path / "probe.tflite", "tflite", PEAK).bound_ms == pytest.approx(
        sum(max(m / 1e6, 2 * n / 10e6) for m, n in zip(moved, [CONV, DEPTHWISE, 4, DENSE], strict=True))
        + 4 * 2 * 4 / 1e6  # how wide to pad each of four dimensions
    )


def work(weights=0, outer=0, ins=(), outs=(), operations=0, dtype="float32"):
    return Work("w", "CONV_2D", dtype, 0, operations, weights, outer, ins, outs)


def test_what_the_caches_hold_does_not_come_from_memory():
    peak = PEAK.model_copy(update={"cache_mb": 3.0})
    small = bounds([work(weights=2_000_000, outer=1_000_000, ins=(3_000_000,))], peak)
    assert [o.moved_bytes for o in small.operators] == [0]
    # Read anew each run: 9 MB of weights and 3 MB of input, of which 3 MB of 12 may have stayed.
    one, two = bounds([work(6_000_000, 3_000_000), work(3_000_000)], peak).operators
    assert (one.moved_bytes, two.moved_bytes) == (pytest.approx(0.75 * 9e6), pytest.approx(0.75 * 3e6))
    # Between operators: 5 MB of 8, and 1 MB of 4, do not fit.
    (found,) = bounds([work(ins=(8_000_000, 2_000_000), outs=(4_000_000,))], peak).operators
    assert found.moved_bytes == 5_000_000 + 1_000_000
    assert found.memory_ms == pytest.approx(6.0) and found.limit == "memory"


def test_cores_share_operations_and_not_the_memory():
    one, four = (bounds([work(operations=40_000_000, outer=7_000_000)], PEAK, n) for n in (1, 4))
    assert (one.operators[0].compute_ms, four.operators[0].compute_ms) == (4.0, 1.0)
    assert one.operators[0].memory_ms == four.operators[0].memory_ms == 7.0


@pytest.mark.parametrize(
    ("dtype", "halves", "fp16", "ms"),
    [
        ("float32", False, 20, 10.0),
        ("float32", True, 20, 5.0),
        ("float16", False, 20, 5.0),
        ("float16", False, None, 10.0),
        ("int8", False, 20, 2.5),
        ("uint8", True, 20, 2.5),
        ("float32xint8", False, 20, 2.5),
        ("int16", False, 20, 2.5),
    ],
)
def test_the_rate_is_that_of_the_type(dtype, halves, fp16, ms):
    peak = PEAK.model_copy(update={"fp16_gflops": fp16})
    found = bounds([work(operations=100_000_000, dtype=dtype)], peak, halves=halves)
    assert found.bound_ms == found.compute_ms == ms


SOURCES = ("resnet", "mobilenet", "pooled")
SCHEMES = [("onnx", s) for s in ("fp32", "static_wi8_ai8")]
SCHEMES += [("tflite", s) for s in ("fp32", "fp16", "static_wi8_ai8")]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("format", "scheme"), SCHEMES)
def test_macs_are_those_that_torch_counts(exported, format, scheme, source):
    _, path = exported(format, scheme, "signed", source)
    import nets

    module = getattr(nets, f"tiny_{source}")()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.from_numpy(nets.inputs(1)))
    assert roofline_of(path, format, PEAK).macs == counter.get_total_flops() // 2 > 0


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("format", "scheme"), SCHEMES)
def test_types_are_those_that_the_runtime_builds(exported, format, scheme, source):
    _, path = exported(format, scheme, "signed", source)
    expected = Counter()
    for o in inventory_of(path, format).operators:
        if o.op_type in MULTIPLIES:
            expected["int8" if o.dtype in ("int8", "uint8", "float32xint8") else o.dtype] += 1
    found = Counter(w.dtype for w in work_of(path, format) if w.macs)
    assert found == expected


@pytest.mark.parametrize("scheme", ["fp32", "static_wi8_ai8"])
def test_weights_are_the_constants_of_the_file(exported, scheme):
    _, path = exported("onnx", scheme)
    whole = sum(numpy_helper.to_array(t).nbytes for t in onnx.load(path).graph.initializer)
    found = sum(w.weight_bytes for w in work_of(path, "onnx"))
    # But for scales, zero points, and shapes: 8 bytes each at most.
    assert whole - 8 * 6 * len(onnx.load(path).graph.node) < found <= whole
    assert sum(w.outer_bytes for w in work_of(path, "onnx")) == 4 * (2 * 8 * 8 + 5)


class Encoder(nn.Module):
    """Two heads over words, as an encoder of text has them; sizes are worked out in the graph."""

    def __init__(self):
        super().__init__()
        self.words, self.qkv = nn.Embedding(50, 16), nn.Linear(16, 48)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 3)

    def forward(self, ids):
        x = self.words(ids)
        batch, length = ids.shape
        q, k, v = (
            t.view(batch, length, 2, 8).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, dim=-1)
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(8), dim=-1)
        x = x + (weights @ v).transpose(1, 2).reshape(batch, length, 16)
        return self.down(nn.functional.gelu(self.up(x))).mean(1)


def test_an_encoder_whose_shapes_are_worked_out_in_the_graph(tmp_path):
    module, ids = Encoder().eval(), torch.ones(1, 7, dtype=torch.long)
    path = tmp_path / "encoder.onnx"
    torch.onnx.export(
        module,
        (ids.repeat(2, 1),),
        path,
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    model = onnx.load(path)
    del model.graph.value_info[:]  # as after a pass of ONNX Runtime
    onnx.save(model, path)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(ids)
    found = roofline_of(path, "onnx", PEAK)
    assert found.macs == counter.get_total_flops() // 2 > 0
    (words,) = (o.work for o in found.operators if o.work.op_type == "Gather")
    assert words.weight_bytes == 7 * 16 * 4  # of 50 rows, those of seven words


CASES = [
    (
        "Conv",
        {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2], "group": 2},
        [(1, 4, 9, 8), (6, 2, 3, 3)],
    ),
    ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [(1, 4, 9, 8), (6, 4, 3, 3)]),
    ("Conv", {"auto_pad": "VALID"}, [(1, 4, 9), (6, 4, 3)]),
    (
        "ConvTranspose",
        {"strides": [2, 2], "pads": [1, 1, 0, 1], "output_padding": [1, 0]},
        [(1, 4, 5, 5), (4, 3, 3, 3)],
    ),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, [(1, 4, 8, 8)]),
    ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 1, 1]}, [(1, 4, 7, 7)]),
    ("GlobalAveragePool", {}, [(1, 4, 7, 7)]),
    ("Gemm", {"transA": 1, "transB": 1}, [(6, 2), (5, 6), (5,)]),
    ("MatMul", {}, [(2, 1, 3, 4), (5, 4, 6)]),
    ("MatMul", {}, [(4,), (4, 6)]),
    ("Add", {}, [(2, 1, 4), (3, 1)]),
    ("Flatten", {"axis": 2}, [(2, 3, 4, 5)]),
    ("Transpose", {"perm": [2, 0, 1]}, [(2, 3, 4)]),
    ("Transpose", {}, [(2, 3, 4)]),
    ("Concat", {"axis": -1}, [(2, 3), (2, 5)]),
    ("Softmax", {}, [(2, 3)]),
    ("Reshape", {}, [(2, 3, 4), np.array([0, -1])]),
    ("Squeeze", {}, [(2, 1, 4), np.array([1])]),
    ("Squeeze", {}, [(1, 3, 1)]),
    ("Unsqueeze", {}, [(2, 4), np.array([0, -1])]),
    ("ReduceMean", {"keepdims": 0}, [(2, 3, 4), np.array([-1, 1])]),
    ("ReduceSum", {}, [(2, 3, 4)]),
    ("ArgMax", {"axis": 1, "keepdims": 0}, [(2, 3, 4)]),
    ("Gather", {"axis": 1}, [(2, 5, 4), np.array([[0, 1, 2]])]),
    ("Slice", {}, [(9, 8), np.array([1, -5]), np.array([2**62, -1]), np.array([0, 1]), np.array([2, 1])]),
    ("Pad", {}, [(2, 3), np.array([0, 1, 2, 3])]),
    ("Expand", {}, [(3, 1), np.array([2, 1, 6])]),
    ("Split", {"axis": 1, "num_outputs": 2}, [(2, 5)]),
    ("Split", {"axis": 0}, [(6, 5), np.array([1, 5])]),
]


@pytest.mark.parametrize(("kind", "attributes", "inputs"), CASES)
def test_shapes_are_those_that_onnx_works_out(tmp_path, kind, attributes, inputs):
    infos, constants, names = [], [], []
    for i, given_ in enumerate(inputs):
        names.append(f"i{i}")
        if isinstance(given_, tuple):
            infos.append(helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, given_))
        else:
            constants.append(numpy_helper.from_array(given_.astype(np.int64), names[-1]))
    outputs = ["a", "b"] if kind == "Split" else ["a"]
    graph = helper.make_graph(
        [helper.make_node(kind, names, outputs, **attributes)],
        "g",
        infos,
        [onnx.ValueInfoProto(name=n) for n in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    told = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    expected = [tuple(d.dim_value for d in o.type.tensor_type.shape.dim) for o in told.graph.output]
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    (step,) = onnx_steps(path)
    assert [t.shape for t in step.outputs] == expected


@pytest.mark.parametrize(("size", "kernel", "stride"), [(8, 1, 2), (7, 2, 3), (9, 2, 2), (5, 3, 4)])
def test_no_window_begins_behind_the_end(tmp_path, size, kernel, stride):
    expected = nn.functional.max_pool2d(torch.zeros(1, 1, size, size), kernel, stride, ceil_mode=True)
    node = helper.make_node(
        "MaxPool", ["x"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2, ceil_mode=1
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, size, size])],
        [onnx.ValueInfoProto(name="y")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    (step,) = onnx_steps(path)
    assert step.outputs[0].shape == tuple(expected.shape)


def test_shapes_worked_out_of_shapes(tmp_path):
    """Half of the channels of what has as many as the input is wide, doubled: all of it integers."""
    one = [
        numpy_helper.from_array(np.array([v], np.int64), n)
        for n, v in (("zero", 0), ("two", 2), ("rest", -1))
    ]
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "two"], ["w"]),
        helper.make_node("Mul", ["w", "two"], ["w2"]),
        helper.make_node("Cast", ["w2"], ["w3"], to=TensorProto.INT64),
        helper.make_node("Concat", ["rest", "w3"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["r"]),
        helper.make_node("MatMul", ["r", "m"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6])],
        [onnx.ValueInfoProto(name="y")],
        [*one, numpy_helper.from_array(np.zeros((12, 5), np.float32), "m")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    found = work_of(path, "onnx")
    assert [(w.op_type, w.macs) for w in found if w.macs] == [("MatMul", 2 * 12 * 5)]
    assert all(w.operations == 0 for w in found if not w.macs)


def test_a_shape_that_does_not_follow_is_no_bound(tmp_path):
    graph = helper.make_graph(
        [
            helper.make_node("NonZero", ["x"], ["places"]),
            helper.make_node("Cast", ["places"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["f", "m"], ["y"], name="head"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.zeros((12, 5), np.float32), "m")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    with pytest.raises(MeasurementError, match=r"m\.onnx: the shapes of MatMul head do not follow"):
        roofline_of(path, "onnx", PEAK)


def test_what_is_inside_a_recurrent_operator_is_told_of_and_not_counted(tmp_path):
    weights = [
        numpy_helper.from_array(np.zeros((1, 12, n), np.float32), name) for name, n in (("w", 5), ("r", 3))
    ]
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=3)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [7, 1, 5])],
        [onnx.ValueInfoProto(name="y")],
        weights,
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    found = roofline_of(path, "onnx", PEAK)
    assert found.uncounted == ("LSTM",)
    assert found.macs == 0 and found.bound_ms > 0  # its weights are read all the same


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
        found = roofline_of(path, format, PEAK)
    except MeasurementError as error:
        assert path.name in str(error)
    else:
        assert found.bound_ms >= 0 and math.isfinite(found.bound_ms)


# Multiply-accumulates of MLPerf Tiny's networks, layer by layer as their architectures are published.
AUTOENCODER = 640 * 128 + 3 * 128 * 128 + 128 * 8 + 8 * 128 + 3 * 128 * 128 + 128 * 640
KEYWORDS = 25 * 5 * 64 * (10 * 4) + 4 * 25 * 5 * 64 * (3 * 3 + 64) + 64 * 12


@pytest.mark.parametrize(
    ("file", "macs", "dtypes"),
    [
        ("ad01_fp32", AUTOENCODER, {"float32"}),
        ("ad01_int8", AUTOENCODER, {"int8"}),
        ("kws_ref_model", KEYWORDS, {"int8"}),
        ("kws_ref_model_float32", KEYWORDS, {"float32", "float32xint8"}),  # its weights are bytes
    ],
)
def test_files_of_others_by_hand(data_root, file, macs, dtypes):
    path = data_root / f"models/mlperf_tiny/{file}.tflite"
    found = work_of(path, "tflite")
    assert sum(w.macs for w in found) == macs
    assert {w.dtype for w in found if w.macs} == dtypes


TARGET = """
name = "mine"
description = "this computer"
[processor]
isa = "any"
[runtime]
name = "litert"
delegate = "xnnpack"
[artifact]
format = "tflite"
scheme = "fp32"
layout = "NHWC"
"""
RATES = """
[peak]
fp32_gflops = 10
int8_gops = 40
memory_gb_per_s = 1
cache_mb = 1
source = "by hand"
"""


@pytest.mark.parametrize(("isa", "kind"), [("any", "measured"), ("aarch64", "host")])
def test_bench_tells_the_bound_and_the_share_of_what_ran_on_the_target(tmp_path, monkeypatch, isa, kind):
    if isa == platform.machine():
        pytest.skip("this computer is what the target stands for")
    path = probe(tmp_path, "tflite", "fp32")
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets/mine.toml").write_text((TARGET + RATES).replace('"any"', f'"{isa}"'))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["bench", str(path), "--target", "mine", "--json"])
    found = json.loads(result.stdout)
    operations = 2 * (CONV + DEPTHWISE + DENSE) + 8
    assert found["kind"] == kind
    assert found["bound_ms"] == pytest.approx(operations / 10e6)  # all of it fits into 1 MB
    expected = operations / 10e6 / found["median_ms"] if kind == "measured" else None
    assert found["bound_reached"] == (None if expected is None else pytest.approx(expected))


def test_bench_without_rates_tells_no_bound(tmp_path, monkeypatch):
    path = probe(tmp_path, "tflite", "fp32")
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets/mine.toml").write_text(TARGET)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["bench", str(path), "--target", "mine", "--json"])
    found = json.loads(result.stdout)
    assert found["bound_ms"] is None and found["bound_reached"] is None


@pytest.mark.parametrize(
    ("kind", "weights", "then", "zero", "dtype"),
    [
        ("MatMul", (6, 4), (), -128, "int8"),
        ("MatMul", (6, 4), ("QuantizeLinear",), -128, "int8"),
        ("Gemm", (6, 4), (), -128, "int8"),
        ("Conv", (4, 6, 1, 1), (), -128, "float32"),
        ("Conv", (4, 6, 1, 1), ("QuantizeLinear",), -128, "int8"),
        ("Conv", (4, 6, 1, 1), ("QuantizeLinear",), 0, "int8"),
        ("Conv", (4, 6, 1, 1), ("Relu", "QuantizeLinear"), -128, "int8"),
        ("Conv", (4, 6, 1, 1), ("Relu", "QuantizeLinear"), 0, "float32"),  # it has codes below zero
        ("Conv", (4, 6, 1, 1), ("Sigmoid", "QuantizeLinear"), -128, "float32"),
    ],
)
def test_what_follows_an_operator_says_whether_it_is_int8(tmp_path, kind, weights, then, zero, dtype):
    shape = [1, 6, 3, 3] if kind == "Conv" else [2, 6]
    scales = ["scale", "zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *scales], ["q"]),
        helper.make_node("DequantizeLinear", ["q", *scales], ["f"]),
        helper.make_node("DequantizeLinear", ["w", "scale", "middle"], ["wf"]),
        helper.make_node(kind, ["f", "wf"], ["y0"]),
    ]
    for i, after in enumerate(then):
        more = scales if after == "QuantizeLinear" else []
        nodes.append(helper.make_node(after, [f"y{i}", *more], [f"y{i + 1}"]))
    constants = [
        numpy_helper.from_array(np.float32(0.1), "scale"),
        numpy_helper.from_array(np.int8(zero), "zero"),
        numpy_helper.from_array(np.int8(0), "middle"),
        numpy_helper.from_array(np.ones(weights, np.int8), "w"),
    ]
    given_ = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    last = f"y{len(then)}"
    element = TensorProto.INT8 if "QuantizeLinear" in then else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "g", [given_], [helper.make_tensor_value_info(last, element, None)], constants
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    (found,) = (w.dtype for w in work_of(path, "onnx") if w.macs)
    assert found == dtype
    (built,) = (o for o in inventory_of(path, "onnx").operators if o.op_type in MULTIPLIES)
    assert (built.dtype in ("int8", "uint8", "float32xint8")) == (dtype == "int8"), built
