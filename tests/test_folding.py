import numpy as np
import pytest
import torch
from nets import inputs, lively, outputs, policy, tiny_mobilenet, tiny_resnet, write
from torch import nn

from edgekd import traceable
from edgekd.errors import ExportError
from edgekd.folding import fold_batch_norm, for_integers
from edgekd.latency.network import layers_of
from edgekd.measure.inventory import inventory_of
from edgekd.quantize import gaps, qat
from edgekd.quantize.schemes import lower

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def norms(module):
    return [name for name, m in module.named_modules() if isinstance(m, BATCH_NORMS)]


@pytest.mark.parametrize("make", [tiny_resnet, tiny_mobilenet])
def test_folding_keeps_the_outputs_and_the_original(make):
    net = make()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    expected = outputs(net, inputs(20))
    folded = fold_batch_norm(net)
    assert norms(folded) == []
    assert type(folded) is type(net)
    np.testing.assert_allclose(outputs(folded, inputs(20)), expected, atol=1e-5)
    assert norms(net) != []
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_folded_weights_by_hand():
    net = tiny_resnet()
    folded = fold_batch_norm(net.train())
    scale = net.bn.weight / torch.sqrt(net.bn.running_var + net.bn.eps)
    torch.testing.assert_close(folded.stem.weight, net.stem.weight * scale[:, None, None, None])
    torch.testing.assert_close(folded.stem.bias, net.bn.bias - net.bn.running_mean * scale)
    assert not folded.training


class Linears(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.bn, self.head = nn.Linear(128, 9), nn.BatchNorm1d(9), nn.Linear(9, 5)

    def forward(self, x):
        return self.head(self.bn(self.fc(x.flatten(1))).relu())


class Stays(nn.Module):
    """BatchNorms that have no layer of their own before them."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(2)  # on the input
        self.conv, self.twice = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.after_relu, self.shared, self.beside = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        y = self.after_relu(self.conv(self.first(x)).relu())
        y = self.shared(self.twice(y)) + self.shared(self.twice(y.relu()))
        z = self.twice(y)
        return self.head((self.beside(z) + z).mean((2, 3)))


def test_linear_layers_take_their_norm_in():
    torch.manual_seed(0)
    net = lively(Linears())
    folded = fold_batch_norm(net)
    assert norms(folded) == []
    np.testing.assert_allclose(outputs(folded, inputs(9)), outputs(net, inputs(9)), atol=1e-5)


def test_norms_that_cannot_be_folded_stay_and_still_compute():
    torch.manual_seed(0)
    net = lively(Stays())
    folded = fold_batch_norm(net)
    assert norms(folded) == ["first", "after_relu", "shared", "beside"]
    np.testing.assert_allclose(outputs(folded, inputs(9)), outputs(net, inputs(9)), atol=1e-6)


class Functional(nn.Module):
    """A BatchNorm after a sum of an input and a plain tensor: what comes before is no layer."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(2)
        self.register_buffer("shift", torch.ones(2, 1, 1))
        self.head = nn.Linear(2, 5)

    def forward(self, x):
        return self.head(self.bn(x + self.shift).mean((2, 3)))


def test_norms_after_arithmetic_stay():
    net = lively(Functional())
    assert norms(fold_batch_norm(net)) == ["bn"]
    np.testing.assert_allclose(outputs(fold_batch_norm(net), inputs(3)), outputs(net, inputs(3)), atol=1e-6)


class Branches(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        x = self.norm(x)
        return x if x.sum() > 0 else -x


def test_a_forward_that_cannot_be_traced_is_said():
    with pytest.raises(
        ExportError,
        match=r"Branches: forward cannot be traced at test_folding\.py:\d+, "
        r"`return x if x\.sum\(\) > 0 else -x`: .*control flow",
    ):
        fold_batch_norm(Branches(nn.BatchNorm1d(3)))
    still = Branches(nn.LayerNorm(3))  # has nothing to fold, and need not be traced
    x = torch.ones(2, 3)
    assert torch.equal(fold_batch_norm(still)(x), still.eval()(x))


class PreActivation(nn.Module):
    """As ResNets of the second kind: norms come before convolutions, beside a branch that goes without."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.norm, self.conv = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.last, self.head = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv(self.norm(x).relu())
        return self.head(self.last(x).relu().mean((2, 3)))


class Dense(nn.Module):
    """As DenseNets: norms of what was joined."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.grow, self.joined, self.head = (
            nn.Conv2d(8, 4, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.Linear(12, 5),
        )

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, self.grow(self.norm(x).relu())], dim=1)
        return self.head(self.joined(x).relu().mean((2, 3)))


@pytest.mark.parametrize("make", [Stays, Functional, PreActivation, Dense])
def test_norms_of_images_on_their_own_are_depthwise_layers(make):
    torch.manual_seed(0)
    net = lively(make())
    folded = for_integers(net)
    assert norms(folded) == []
    np.testing.assert_allclose(outputs(folded, inputs(9)), outputs(net, inputs(9)), atol=1e-5)


@pytest.mark.parametrize(("format", "activations"), [("onnx", "unsigned"), ("tflite", "signed")])
@pytest.mark.parametrize("make", [PreActivation, Dense])
def test_networks_with_such_norms_come_out_in_integers(make, format, activations, tmp_path):
    torch.manual_seed(0)
    net, example = lively(make()), torch.from_numpy(inputs(1))
    assert gaps.float_operators(net, example) == {}
    quantized = qat.prepare(net, inputs(48), policy())
    expected = outputs(net, inputs(64))
    assert np.abs(outputs(quantized, inputs(64)) - expected).mean() < 0.02 * np.ptp(expected)
    path = tmp_path / f"model.{format}"
    write(lower(quantized, example, activations, format), path, format, "static_wi8_ai8")
    found = inventory_of(path, format)
    assert found.float_ops == 0
    assert sum("CONV" in o.op_type.upper() for o in found.operators) == 2 + len([n for n in norms(net)])


def test_tables_count_norms_that_fold_into_nothing():
    example = torch.from_numpy(inputs(1))
    kinds = [(layer.kind, layer.in_channels) for layer in layers_of(PreActivation(), example)]
    assert kinds == [
        ("conv", 2),
        ("depthwise", 8),
        ("conv", 8),
        ("add", 8),
        ("depthwise", 8),
        ("global_pool", 8),
        ("linear", 8),
    ]
    assert "depthwise" not in {layer.kind for layer in layers_of(tiny_resnet(), example)}


class Reads(nn.Module):
    def forward(self, x):
        y = x.flatten(1)[:, :5]
        return y * float(y.max())


def test_what_exporters_cannot_follow_is_told_with_its_place(capfd):
    with pytest.raises(
        ExportError,
        match=r"^Reads: forward cannot be traced at test_folding\.py:\d+, `return y \* float\(y.max",
    ):
        traceable.check(Reads(), torch.from_numpy(inputs(1)))
    assert capfd.readouterr() == ("", "")
    traceable.check(tiny_resnet(), torch.from_numpy(inputs(1)))
