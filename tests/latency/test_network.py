import pytest
import torch
from nets import CLASSES, flat, inputs, tiny_mobilenet, tiny_resnet
from torch import nn

from edgekd.errors import UsageError
from edgekd.latency.network import layers_at, layers_of
from edgekd.layers import Layer
from edgekd.prune.structured import count

EXAMPLE = torch.from_numpy(inputs(1))


def test_layers_of_a_resnet_by_hand():
    # Stem and one block at 8x8, one block at 4x4 with a shortcut; width 8.
    conv = lambda side, a, b, k=3, s=1: Layer("conv", side, side, a, b, k, s, k // 2)  # noqa: E731
    assert layers_of(tiny_resnet(), EXAMPLE) == (
        conv(8, 2, 8),
        conv(8, 8, 8),
        conv(8, 8, 8),
        Layer("add", 8, 8, 8, 8),
        conv(8, 8, 16, 3, 2),
        conv(4, 16, 16),
        conv(8, 8, 16, 1, 2),
        Layer("add", 4, 4, 16, 16),
        Layer("global_pool", 4, 4, 16, 16),
        Layer("linear", 1, 1, 16, CLASSES),
    )


def test_what_runs_within_a_module_is_found_however_often_it_is_called():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(128, 3)

        def forward(self, x):
            return self.head(self.conv(self.conv(x)).flatten(1))

    conv = Layer("conv", 8, 8, 2, 2, 3, 1, 1)
    assert layers_at(Twice(), EXAMPLE, ["head", "conv"]) == {
        "head": (Layer("linear", 1, 1, 128, 3),),
        "conv": (conv, conv),
    }
    net = tiny_resnet()
    assert layers_at(net, EXAMPLE, [""])[""] == layers_of(net, EXAMPLE)
    assert layers_at(net, EXAMPLE, ["blocks.0"])["blocks.0"] == layers_of(net, EXAMPLE)[1:4]


def macs(layer):
    per_output = {
        "conv": layer.kernel**2 * layer.in_channels,
        "depthwise": layer.kernel**2,
        "linear": layer.in_channels,
    }
    return layer.out_elements * per_output.get(layer.kind, 0)


@pytest.mark.parametrize("net", [tiny_resnet, tiny_mobilenet, flat])
def test_the_memory_layout_that_training_leaves_changes_nothing(net):
    expected = layers_of(net(), EXAMPLE)
    last = EXAMPLE.contiguous(memory_format=torch.channels_last)
    moved = net().to(memory_format=torch.channels_last)
    assert layers_of(moved, last) == expected
    weights = [w for w in moved.parameters() if w.dim() == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.parametrize("net", [tiny_resnet, tiny_mobilenet, flat])
def test_multiplications_are_those_that_torch_counts(net):
    assert sum(map(macs, layers_of(net(), EXAMPLE))) == count(net(), EXAMPLE)[0]


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(training):
    net = tiny_resnet().train(training)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    layers_of(net, EXAMPLE)
    assert net.training is training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


class Mean(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.dims = dims

    def forward(self, x):
        return x.mean(self.dims)


@pytest.mark.parametrize("pool", [Mean((2, 3)), Mean((-1, -2)), nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(6)])
def test_means_over_the_whole_image_are_pools(pool):
    found = layers_of(Odd(nn.Conv2d(2, 4, 3), nn.ReLU6(), pool, nn.Flatten(), nn.Linear(4, 3)), EXAMPLE)
    assert found[1:] == (Layer("global_pool", 6, 6, 4, 4), Layer("linear", 1, 1, 4, 3))


@pytest.mark.parametrize(
    ("pool", "layer"),
    [
        (nn.MaxPool2d(2), Layer("max_pool", 6, 6, 4, 4, 2, 2, 0)),
        (nn.MaxPool2d(3, 2, 1), Layer("max_pool", 6, 6, 4, 4, 3, 2, 1)),
        (nn.MaxPool2d((3, 3), (1, 1)), Layer("max_pool", 6, 6, 4, 4, 3, 1, 0)),
    ],
)
def test_the_largest_in_each_window_is_a_layer(pool, layer):
    net = Odd(nn.Conv2d(2, 4, 3), nn.ReLU(), pool)
    (_, found) = layers_of(net, EXAMPLE)
    assert found == layer and tuple(net(EXAMPLE).shape[2:]) == (layer.out_height, layer.out_width)
    assert found.macs == found.weights == 0


class Odd(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize(
    ("layers", "name"),
    [
        ([nn.Conv2d(2, 4, 3), nn.Softmax(1)], "softmax"),
        ([nn.Conv2d(2, 4, 3), nn.Hardswish()], "hardswish"),
        ([nn.ConvTranspose2d(2, 4, 3)], "convolution"),
        ([nn.Conv2d(2, 4, 3, dilation=2)], r"dilation \[2, 2\]"),
        ([nn.Conv2d(2, 4, (3, 1))], r"kernel \(3, 1\)"),
        ([nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=2)], "groups 2"),
        ([nn.Conv2d(2, 4, 3, groups=2)], "groups 2"),
        ([nn.ReLU()], "relu.* apart from"),
        ([nn.Conv2d(2, 4, 3), nn.Hardtanh(-1, 1)], "hardtanh.* from -1"),
        ([nn.Conv2d(2, 4, 3), Mean((1, 2))], "mean.* whole image"),
        ([nn.Conv2d(2, 4, 3), Mean((1, 3))], "mean.* whole image"),
        ([nn.MaxPool2d((2, 1))], r"max_pool2d.* kernel \(2, 1\)"),
        ([nn.MaxPool2d(2, (2, 1))], r"max_pool2d.* stride \(2, 1\)"),
        ([nn.MaxPool2d(2, dilation=2)], r"max_pool2d.* dilation \(2, 2\)"),
        ([nn.MaxPool2d(3, ceil_mode=True)], "max_pool2d.* ceil_mode True"),
        ([nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.ReLU()], "relu.* apart from"),
        ([nn.Linear(8, 3)], "on 16 rows"),
        ([nn.AvgPool2d(2)], "avg_pool2d.* whole image"),
    ],
)
def test_what_tables_do_not_know_is_named(layers, name):
    with pytest.raises(UsageError, match=f"operator aten.*{name}.* is not in latency tables"):
        layers_of(Odd(*layers), EXAMPLE)
