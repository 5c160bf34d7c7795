import itertools
import json

import numpy as np
import pytest
import torch
from nets import inputs, outputs, policy, run_onnx, run_python, run_tflite, tiny_resnet
from safetensors.torch import save_file
from torch import nn

from edgekd import exporters
from edgekd.errors import ExportError
from edgekd.folding import fold_batch_norm
from edgekd.measure.inventory import inventory_of
from edgekd.quantize import qat
from edgekd.quantize.observers import BINS, choose_range
from edgekd.quantize.schemes import lower

KINDS = ["resnet", "mobilenet", "gated"]
EXAMPLE = torch.from_numpy(inputs(1))


def ranges(net):
    """quantizer -> (low, high) as NNCF will use them."""
    found = {}
    for name, q in qat.activation_quantizers(net.body):
        if hasattr(q, "input_low"):
            low = q.input_low.item()
            found[name] = low, low + q.input_range.item()
        else:
            found[name] = -q.scale.item(), q.scale.item()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_calibration_leaves_the_source_alone_and_comes_close(prepared, kind):
    source, net = prepared[kind]
    assert any(isinstance(m, nn.BatchNorm2d) for m in source.modules())
    assert not any("nncf" in type(m).__module__ for m in source.modules())
    expected = outputs(source, inputs(64, 9))
    found = outputs(net, inputs(64, 9))
    assert np.abs(found - expected).mean() < 0.02 * np.ptp(expected)
    assert (found != expected).any()


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_lie_on_a_grid_of_256_levels(prepared, kind):
    _, net = prepared[kind]
    step = float(net.output.scale)
    levels = outputs(net, inputs(64, 9)) / step
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
    assert np.ptp(np.rint(levels)) <= 255


@pytest.mark.parametrize("kind", KINDS)
def test_activations_have_one_range_a_tensor_and_weights_one_a_channel(prepared, kind):
    _, net = prepared[kind]
    assert len(ranges(net)) >= 6
    convolutions = [m for m in net.body.modules() if isinstance(m, nn.Conv2d)]
    by_channel = [
        q.scale.numel() for _, q in net.body.named_modules() if hasattr(q, "per_channel") and q.per_channel
    ]
    # Every weight has its quantizer: the convolutions and the head.
    assert sorted(by_channel) == sorted([m.out_channels for m in convolutions] + [5])


def test_ranges_are_what_the_observer_says_of_the_input():
    # The first quantizer sees the samples themselves.
    net = qat.prepare(tiny_resnet(), inputs(40), policy("percentile", percentile=95.0))
    values = inputs(40).ravel()
    counts, _ = np.histogram(values, BINS, (values.min(), values.max()))
    expected = choose_range(counts, values.min(), values.max(), "percentile", 95.0)
    assert expected == pytest.approx(np.percentile(values, [5, 95]), abs=0.01)
    assert any(found == pytest.approx(expected, abs=1e-5) for found in ranges(net).values())


@pytest.mark.parametrize("kind", KINDS)
def test_min_max_ranges_are_those_of_the_folded_network(prepared, kind):
    """Inputs of the convolutions, recorded in the float network, span the quantizers' ranges."""
    source, net = prepared[kind]
    folded, seen = fold_batch_norm(source), []
    for m in folded.modules():
        if isinstance(m, nn.Conv2d):
            m.register_forward_pre_hook(
                lambda _m, args: seen.append((args[0].min().item(), args[0].max().item()))
            )
    outputs(folded, inputs(48))
    for low, high in seen:
        low = min(low, 0.0)
        assert any(
            abs(a - low) < 0.05 * (high - low) and abs(b - high) < 0.05 * (high - low)
            for a, b in ranges(net).values()
        ), (low, high)


def test_logits_keep_their_whole_range_under_any_observer():
    source = tiny_resnet()
    net = qat.prepare(source, inputs(48), policy("percentile", percentile=80.0))
    with torch.no_grad():
        logits = net.body(torch.from_numpy(inputs(48)))
    low, high = logits.min().item(), logits.max().item()
    assert float(net.output.scale) == pytest.approx((max(high, 0) - min(low, 0)) / 255, rel=1e-5)


class Plain(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :5]


def test_a_network_without_layers_is_said():
    with pytest.raises(ExportError, match="no layer takes a quantizer"):
        qat.prepare(Plain(), inputs(8), policy())


@pytest.mark.parametrize("kind", KINDS)
def test_lowered_networks_compute_what_the_fake_quantized_one_does(prepared, kind):
    _, net = prepared[kind]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    expected = outputs(net, inputs(64, 9))
    unsigned, signed = (lower(net, EXAMPLE, s, "onnx") for s in ("unsigned", "signed"))
    found = outputs(unsigned, inputs(64, 9))
    np.testing.assert_array_equal(found, outputs(signed, inputs(64, 9)))
    # The two round in another order, so a value right between two levels may go the other way.
    off = np.abs(found - expected) / float(net.output.scale)
    # Gates are rounded by themselves in what is emitted, which training does not see.
    assert (off > 1e-3).mean() < (0.5 if kind == "gated" else 0.02)
    assert off.max() < 1.01
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    np.testing.assert_array_equal(outputs(net, inputs(64, 9)), expected)
    assert not any(isinstance(m, torch.ao.quantization.FakeQuantize) for m in unsigned.modules())


def test_a_trained_network_is_lowered_to_what_it_computes(prepared):
    """Ranges and weights that moved in training are those in the lowered network."""
    net = qat.prepare(tiny_resnet(seed=4), inputs(16), policy())
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    x, y = torch.from_numpy(inputs(16)), torch.arange(16) % 5
    before = ranges(net)
    net.train()
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    net.eval()
    assert ranges(net) != before
    step = float(net.output.scale)
    for activations in ("unsigned", "signed"):
        found = outputs(lower(net, EXAMPLE, activations, "onnx"), inputs(64, 9))
        # In training, NNCF lets a range begin a little below zero, by less than half a level, where the
        # file's begins at zero: some values land one step away.
        off = np.abs(found - outputs(net, inputs(64, 9))) / step
        assert off.max() < 2.1
        assert off.mean() < 0.4


def test_a_fresh_process_rebuilds_the_very_same_quantized_network(prepared, tmp_path):
    for kind, (source, net) in prepared.items():
        save_file(
            {k: v.clone().contiguous() for k, v in net.state_dict().items()}, tmp_path / f"{kind}.safetensors"
        )
        (tmp_path / f"{kind}.json").write_text(json.dumps(qat.describe(net)))
        np.save(tmp_path / f"{kind}-expected.npy", outputs(net, inputs(33, 9)))
        low = lower(net, EXAMPLE, "signed", "tflite")
        np.save(tmp_path / f"{kind}-low-expected.npy", outputs(low, inputs(33, 9)))
        assert not source.training
    run_python(FRESH, tmp_path)
    for kind in prepared:
        for name in (kind, f"{kind}-low"):
            found = np.load(tmp_path / f"{name}.npy")
            np.testing.assert_array_equal(found, np.load(tmp_path / f"{name}-expected.npy"), err_msg=name)


FRESH = """
import json, sys
import numpy as np, torch
from safetensors.torch import load_file
import nets
from edgekd.quantize import qat, schemes
folder = sys.argv[1]
for kind in ("resnet", "mobilenet", "gated"):
    source = getattr(nets, f"tiny_{kind}")(seed=7)
    net = qat.rebuild(source, json.load(open(f"{folder}/{kind}.json")))
    net.load_state_dict(load_file(f"{folder}/{kind}.safetensors"))
    np.save(f"{folder}/{kind}.npy", nets.outputs(net, nets.inputs(33, 9)))
    low = schemes.lower(net, torch.from_numpy(nets.inputs(1)), "signed", "tflite")
    np.save(f"{folder}/{kind}-low.npy", nets.outputs(low, nets.inputs(33, 9)))
"""


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_every_layer_of_the_file_runs_in_int8(prepared, tmp_path, format):
    source, net = prepared["mobilenet"]
    path = tmp_path / f"model{exporters.SUFFIXES[format]}"
    exporters.export(
        lower(net, EXAMPLE, "signed", "tflite"),
        EXAMPLE,
        path,
        format=format,
        scheme="static_wi8_ai8",
        input_name="image",
        metadata={},
    )
    found = inventory_of(path, format)
    kinds = [o.op_type for o in found.operators]
    convolutions = [m for m in source.modules() if isinstance(m, nn.Conv2d)]
    depthwise = sum(m.groups > 1 for m in convolutions)
    assert depthwise > 0
    if format == "onnx":
        assert kinds.count("QLinearConv") == len(convolutions)
        assert "Conv" not in kinds
    else:
        assert kinds.count("DEPTHWISE_CONV_2D") == depthwise
        assert kinds.count("CONV_2D") == len(convolutions) - depthwise
    assert [
        o for o in found.operators if "conv" in o.op_type.lower() and o.dtype not in ("int8", "uint8")
    ] == []
    assert found.float_ops == 0
    assert found.int8_share == 1.0


def test_a_bare_sequential_is_quantized_saved_and_rebuilt():
    torch.manual_seed(0)
    source = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()
    net = qat.prepare(source, inputs(64), policy())
    again = qat.rebuild(source, qat.describe(net))
    again.load_state_dict(net.state_dict())
    expected = outputs(net, inputs(16, 9))
    np.testing.assert_array_equal(outputs(again, inputs(16, 9)), expected)
    lowered = outputs(lower(net, EXAMPLE, "unsigned", "onnx"), inputs(16, 9))
    assert np.abs(lowered - expected).max() <= float(net.output.scale) * 1.01


def test_what_nncf_cannot_quantize_is_an_error_in_words(monkeypatch):
    import nncf

    def fails(*_, **__):
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr(nncf, "quantize", fails)
    with pytest.raises(ExportError, match="NNCF cannot quantize it: no such operator"):
        qat.prepare(tiny_resnet(), inputs(32), policy())


@pytest.mark.parametrize("kind", KINDS)
def test_both_files_and_the_fake_quantized_network_agree_within_two_steps(prepared, exported, kind):
    _, net = prepared[kind]
    x = inputs(128, 9)
    onnx, tflite = (
        exported(format, "static_wi8_ai8", activations, kind)[1]
        for format, activations in (("onnx", "unsigned"), ("tflite", "signed"))
    )
    found = [outputs(net, x), run_onnx(onnx, x), run_tflite(tflite, x)]
    step = float(net.output.scale)
    for a, b in itertools.combinations(found, 2):
        worst = np.abs(a - b).max(axis=1) / step
        assert (worst <= 2.01).mean() >= 0.99, worst
