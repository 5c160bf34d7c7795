"""Activations in integers: what they compute, and that the files have nothing else."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from nets import gates, inputs, outputs, policy, run_onnx, run_tflite, write
from scipy.special import erf, expit
from torch import nn

from edgekd.exporters.onnx import _scale_at_dequantizers
from edgekd.measure.inventory import inventory_of
from edgekd.quantize import gaps, qat
from edgekd.quantize.decompositions import Decompositions
from edgekd.quantize.schemes import _PerTensor, lower

EXAMPLE = torch.from_numpy(inputs(1))
X = np.linspace(-9, 9, 4001)
STEP, UNIT = 1 / 256, 1 / 255
# What each is in float64, and how far its form may be from it: half a step of the gate times x, and for GELU
# the sigmoid's 0.0203; where tflite rounds on the way to the gate, that too.
EXPECTED = {
    "hardsigmoid": (np.clip(X / 6 + 0.5, 0, 1), {"onnx": UNIT, "tflite": 1.5 * UNIT}),
    "hardswish": (X * np.clip(X / 6 + 0.5, 0, 1), {"onnx": UNIT * abs(X), "tflite": 1.5 * UNIT * abs(X)}),
    "silu": (X * expit(X), {"onnx": STEP * abs(X), "tflite": STEP * abs(X)}),
    "gelu": (
        X * (1 + erf(X / np.sqrt(2))) / 2,
        {"onnx": 0.0203 + STEP * abs(X), "tflite": 0.0203 + (STEP + 0.0255 / 4 + 0.001) * abs(X)},
    ),
}


@pytest.mark.parametrize("low", [0, -128])
@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("name", EXPECTED)
def test_each_form_is_its_activation_within_the_steps_of_its_gate(name, format, low):
    expected, most = EXPECTED[name]
    x = torch.from_numpy(X)
    with Decompositions(format, _PerTensor, low):
        found = getattr(F, name)(x.float()).numpy()
        named = getattr(F, name)(input=x.float()).numpy()
    np.testing.assert_array_equal(found, named)
    assert (np.abs(found - expected) <= most[format] + 1e-6).all()
    gate = found if name == "hardsigmoid" else found[abs(X) > 0.1] / X[abs(X) > 0.1]
    steps = gate * (255 if name.startswith("hard") else 256)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


def test_what_has_kernels_is_called_as_it_is():
    x = torch.linspace(-3, 3, 50)
    with Decompositions("tflite", _PerTensor, -128):
        assert torch.equal(F.relu(x), x.clamp(min=0))
        assert torch.equal(torch.sigmoid(x), F.sigmoid(x))
        assert torch.equal(F.leaky_relu(x, negative_slope=0.5), torch.where(x > 0, x, x / 2))


@pytest.fixture(scope="module")
def quantized():
    source = gates()
    return source, qat.prepare(source, inputs(48), policy())


@pytest.mark.parametrize(
    "call",
    [
        lambda x, layer: x.mean(1),
        lambda x, layer: x.mean((-2,), True),
        lambda x, layer: torch.mean(x, dim=[1], keepdim=True),
        lambda x, layer: x.mean(axis=1, keepdim=True),
        lambda x, layer: x.mean(-1, keepdim=True),
        lambda x, layer: x.mean(),
        lambda x, layer: x[0].mean(1),
        lambda x, layer: layer(x),
        lambda x, layer: layer(x[0]),
        lambda x, layer: F.linear(input=x[None], weight=layer.weight),
    ],
)
def test_means_and_layers_on_tokens_are_what_they_were(call):
    torch.manual_seed(0)
    x, layer = torch.randn(3, 4, 6), nn.Linear(6, 5)
    expected = call(x, layer)
    with Decompositions("onnx", lambda *_: nn.Identity(), 0):
        found = call(x, layer)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected)


def test_new_quantizers_do_not_narrow_what_comes_after_them():
    source = gates()
    with torch.no_grad():
        for weight in source.parameters():
            weight *= 4  # so that activations leave the range that a new quantizer has before it is given one
    net = qat.prepare(source, inputs(48), policy())
    expected, found = outputs(source, inputs(64, 9)), outputs(net, inputs(64, 9))
    assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)


def test_gates_have_a_range_of_their_own_that_training_leaves(quantized):
    _, net = quantized

    def ranges():
        found = {}
        for path, q in qat.activation_quantizers(net.body):
            if gaps.gate_of(path):
                found[path] = q.input_low.item(), q.input_low.item() + q.input_range.item()
        return found

    before = ranges()
    assert sorted(before.values()) == [
        pytest.approx((0, 255 / 256), abs=1e-7),
        pytest.approx((0, 1), abs=1e-7),
    ]
    net.train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.5)
    nn.functional.cross_entropy(net(torch.from_numpy(inputs(16))), torch.arange(16) % 5).backward()
    optimizer.step()
    net.eval()
    assert ranges() == before


@pytest.mark.parametrize(("format", "activations"), [("onnx", "unsigned"), ("tflite", "signed")])
def test_files_compute_every_activation_in_integers_and_as_the_network_does(tmp_path, format, activations):
    net = qat.prepare(gates(), inputs(48), policy())
    low = lower(net, EXAMPLE, activations, format)
    path = tmp_path / f"model.{format}"
    write(low, path, format, "static_wi8_ai8")
    found = inventory_of(path, format)
    assert found.float_ops == 0, found.operators
    assert found.int8_ops >= 20
    run = {"onnx": run_onnx, "tflite": run_tflite}[format]
    step = float(net.output.scale)
    # To the network as it is emitted by a step; to what was trained by what the forms may differ.
    assert np.abs(run(path, inputs(64, 9)) - outputs(low, inputs(64, 9))).max() <= 1.01 * step
    assert np.abs(run(path, inputs(64, 9)) - outputs(net, inputs(64, 9))).max() <= 6.01 * step


def test_what_has_no_kernels_is_named_with_its_number():
    class Net(nn.Module):
        def forward(self, x):
            return F.mish(F.softplus(x) + F.mish(x)).flatten(1).relu()

    assert gaps.float_operators(Net(), EXAMPLE) == {"mish": 2, "softplus": 1}
    assert gaps.float_operators(gates(), EXAMPLE) == {}


@pytest.mark.parametrize(
    ("op", "factor", "folds", "first"),
    [
        ("Mul", 1.7, True, False),
        ("Mul", 1.7, True, True),
        ("Div", 6.0, True, False),
        ("Div", 6.0, False, True),
        ("Mul", -2.0, False, False),
    ],
)
def test_a_constant_factor_goes_into_the_scale(tmp_path, op, factor, folds, first):
    make, scalar = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [
        make("DequantizeLinear", ["x", "s", "z"], ["real"]),
        make(op, ["c", "real"] if first else ["real", "c"], ["scaled"]),
        make("Add", ["scaled", "real"], ["y"]),
    ]
    constants = [
        scalar(np.float32(0.1), "s"),
        scalar(np.uint8(7), "z"),
        scalar(np.array([factor], np.float32), "c"),
    ]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [info("x", onnx.TensorProto.UINT8, [1, 248])],
        [info("y", onnx.TensorProto.FLOAT, [1, 248])],
        constants,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    _scale_at_dequantizers(model)
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["DequantizeLinear", "DequantizeLinear" if folds else op, "Add"]
    x = np.arange(8, 256, dtype=np.uint8)[None]  # above the zero point: one divides by it
    real = (x.astype(np.float64) - 7) * 0.1
    quotient = factor / real if first else real / factor
    expected = real + (quotient if op == "Div" else real * factor)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    found = run_onnx(path, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
