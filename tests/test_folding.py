import numpy as np
import pytest
import torch
from nets import inputs, lively, outputs, policy, tiny_mobilenet, tiny_resnet, write
from torch import nn
from torch.nn import functional as F

from edgekd import traceable
from edgekd.errors import ExportError, UsageError
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


class Between(nn.Module):
    """Between a convolution and its norm stands what does nothing in the end."""

    def __init__(self):
        super().__init__()
        self.conv, self.nothing, self.drop = nn.Conv2d(2, 4, 3), nn.Identity(), nn.Dropout2d(0.5)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.norm(self.drop(self.nothing(self.conv(x)))).relu().mean((2, 3)))


class Seen(Between):
    """What stands between is taken by something else too."""

    def forward(self, x):
        y = self.nothing(self.conv(x))
        return self.head((self.norm(y) + y).mean((2, 3)))


class OwnConv(nn.Module):
    """A convolution of a user's class, and one without a module."""

    class Same(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.other = self.Same(2, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(3)
        self.weight, self.head = nn.Parameter(torch.randn(3, 4, 1, 1)), nn.Linear(3, 5)

    def forward(self, x):
        y = self.norm(self.conv(x)).relu()
        return self.head(self.other(F.conv2d(y, self.weight)).relu().mean((2, 3)))


def test_norms_after_what_does_nothing_are_folded():
    net = lively(Between())
    assert norms(fold_batch_norm(net)) == []
    np.testing.assert_allclose(outputs(fold_batch_norm(net), inputs(9)), outputs(net, inputs(9)), atol=1e-5)
    assert norms(fold_batch_norm(lively(Seen()))) == ["norm"]


def test_norms_without_statistics_of_their_own_stay():
    net = Between()
    net.norm = nn.BatchNorm2d(4, track_running_stats=False)
    for folded in (fold_batch_norm(net.eval()), for_integers(net)):
        assert norms(folded) == ["norm"]
        np.testing.assert_allclose(outputs(folded, inputs(9)), outputs(net, inputs(9)), atol=1e-6)


class NormAct(nn.BatchNorm2d):
    """As timm's: a norm with its activation."""

    def forward(self, x):
        found = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps
        )
        return F.relu(found)


def test_a_users_own_norm_stays_what_it_is():
    net = PreActivation()
    net.norm = NormAct(8)
    net = lively(net)
    folded = for_integers(net)
    assert type(folded.norm) is NormAct
    np.testing.assert_allclose(outputs(folded, inputs(9)), outputs(net, inputs(9)), atol=1e-5)


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


@pytest.mark.parametrize("make", [Stays, Functional, PreActivation, Dense, Between, Seen, OwnConv])
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


@pytest.mark.parametrize("make", [Stays, PreActivation, Between, Seen, tiny_resnet, tiny_mobilenet])
def test_tables_count_a_network_as_it_is_emitted(make):
    """Each rule folds in its own way: one follows modules, the other the values of a forward pass."""
    net, example = make(), torch.from_numpy(inputs(1))
    assert layers_of(net, example) == layers_of(for_integers(net), example)


def test_tables_fold_into_torchs_own_layers_alone():
    with pytest.raises(UsageError, match="constant_pad_nd"):  # tables know no padding apart from a layer
        layers_of(OwnConv(), torch.from_numpy(inputs(1)))
    net = OwnConv()
    net.conv = nn.Conv2d(2, 4, 3)
    kinds = [layer.kind for layer in layers_of(net, torch.from_numpy(inputs(1)))]
    assert kinds == ["conv", "conv", "depthwise", "global_pool", "linear"]


class Samples(nn.Module):
    def forward(self, x):
        return torch.stack([sample.flatten()[:5] for sample in x])


class Reads(nn.Module):
    def forward(self, x):
        y = x.flatten(1)[:, :5]
        return y * float(y.max())


def test_what_exporters_cannot_follow_is_told_with_its_place(capfd):
    with pytest.raises(
        ExportError,
        match=r"^Reads: forward cannot be traced at test_folding\.py:\d+, `return y \* float\(y.max",
    ):
        traceable.check(Reads(), torch.from_numpy(inputs(1)), any_batch=False)
    assert capfd.readouterr() == ("", "")
    for any_batch in (False, True):
        traceable.check(tiny_resnet(), torch.from_numpy(inputs(1)), any_batch=any_batch)


def test_what_counts_its_samples_has_no_onnx_file():
    traceable.check(Samples(), torch.from_numpy(inputs(1)), any_batch=False)
    with pytest.raises(ExportError, match="Samples: forward cannot be traced"):
        traceable.check(Samples(), torch.from_numpy(inputs(1)), any_batch=True)
