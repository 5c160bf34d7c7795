"""What channels are worth, by each way of telling; the ways themselves worked out again here."""

import numpy as np
import pytest
import torch
from nets import CLASSES, flat, inputs, outputs, prune_config, samples, tiny_mobilenet, tiny_resnet
from torch import nn

from edgekd.errors import UsageError
from edgekd.prune.groups import Prunable
from edgekd.prune.importance import Samples

EXAMPLE = torch.from_numpy(inputs(1))
KINDS = ("l1", "l2", "bn_scale", "taylor", "activation", "random")


def scores(net, kind, seen=None):
    """Of each group, by the name of the layer that makes its channels."""
    torch.manual_seed(0)
    found = Prunable(net, EXAMPLE, prune_config(keep=0.5, importance=kind), seen or samples())
    names = {module: name for name, module in found.net.named_modules()}
    return {names[group.members[0].dep.target.module]: group.scores.numpy() for group in found.groups}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [lambda: tiny_resnet(16), lambda: tiny_mobilenet(16)])
def test_scores_are_one_on_average_and_leave_the_network_alone(make, kind):
    net = make()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = scores(net, kind)
    assert len(found) >= 4
    for values in found.values():
        assert (values >= 0).all() and len(np.unique(values)) > len(values) / 2
        if kind != "random":
            assert values.mean() == pytest.approx(1, rel=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_taylor_is_weight_times_gradient_summed_over_what_goes_with_a_channel():
    net, seen = flat().double(), samples()
    logits = net(seen.inputs.double())
    nn.functional.cross_entropy(logits, seen.labels).backward()
    of_conv = (net.conv.weight * net.conv.weight.grad).abs().flatten(1).sum(1)
    of_fc = (net.fc.weight * net.fc.weight.grad).abs().sum(0).view(16, 64).sum(1)
    expected = (of_conv + of_fc).detach().numpy()
    found = scores(flat(), "taylor")["conv"]
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-3)


def test_taylor_works_on_frozen_networks_too():
    net = flat().requires_grad_(False)
    np.testing.assert_allclose(scores(net, "taylor")["conv"], scores(flat(), "taylor")["conv"], rtol=1e-5)
    assert not any(p.requires_grad for p in net.parameters())


def test_activation_is_what_flows_into_the_layers_after_it():
    net, seen = flat(), samples()
    x = seen.inputs.numpy()
    kernels, bias = net.conv.weight.detach().numpy(), net.conv.bias.detach().numpy()
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    flowing = np.maximum(np.einsum("nchwij,ocij->nohw", windows, kernels) + bias[:, None, None], 0)
    expected = flowing.mean(axis=(0, 2, 3))
    np.testing.assert_allclose(scores(net, "activation")["conv"], expected / expected.mean(), rtol=1e-4)


def test_activation_of_a_channel_that_is_always_zero_is_zero():
    net = flat()
    with torch.no_grad():
        net.conv.weight[3] = 0
        net.conv.bias[3] = -1
    found = scores(net, "activation")["conv"]
    assert found[3] == 0 and (np.delete(found, 3) > 0).all()


def test_bn_scale_is_the_size_of_the_factors():
    net = tiny_resnet(16)
    found = scores(net, "bn_scale")["blocks.0.conv1"]
    factors = net.blocks[0].bn1.weight.detach().abs().numpy()
    np.testing.assert_allclose(found, factors / factors.mean(), rtol=1e-5)


def test_bn_scale_where_there_is_no_batch_norm():
    with pytest.raises(UsageError, match=r"'bn_scale': the channels of .* have no BatchNorm"):
        scores(flat(), "bn_scale")


def test_taylor_without_labels():
    with pytest.raises(UsageError, match="'taylor' needs labels"):
        scores(flat(), "taylor", samples(labels=False))


def test_a_head_that_is_not_judged_does_not_count():
    net, seen = flat(), samples()
    wide = flat()
    wide.head = nn.Linear(24, CLASSES + 2)
    with torch.no_grad():
        wide.head.weight[:CLASSES], wide.head.bias[:CLASSES] = net.head.weight, net.head.bias
    several = Samples(seen.inputs, seen.labels, [slice(0, CLASSES), slice(CLASSES, CLASSES + 2)])
    np.testing.assert_allclose(outputs(wide, inputs(4))[:, :CLASSES], outputs(net, inputs(4)), rtol=1e-5)
    np.testing.assert_allclose(
        scores(wide, "taylor", several)["conv"], scores(net, "taylor")["conv"], rtol=1e-4
    )


class Normed(nn.Module):
    """A BatchNorm behind a flatten; a second trunk that no judged output sees."""

    def __init__(self, flat):
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3, padding=1)
        self.other = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.norm = nn.BatchNorm1d(512) if flat else nn.Identity()
        self.head, self.second = nn.Linear(512, CLASSES), nn.Linear(512, 2)

    def forward(self, x):
        first = self.head(self.norm(self.conv(x).relu().flatten(1)))
        return torch.cat([first, self.second(self.other(x).relu().flatten(1))], dim=1)


def test_a_norm_of_another_width_has_no_scale_for_a_channel():
    with pytest.raises(UsageError, match=r"512 scores for the 8 channels of conv"):
        scores(Normed(flat=True).eval(), "bn_scale", samples())


def test_what_the_judged_head_does_not_see_is_worth_nothing_by_taylor():
    seen = samples()
    several = Samples(seen.inputs, seen.labels, [slice(0, CLASSES), slice(CLASSES, CLASSES + 2)])
    found = scores(Normed(flat=False).eval(), "taylor", several)
    assert (found["other.0"] == 0).all()
    assert found["conv"].mean() == pytest.approx(1, rel=1e-4)


def test_a_gradient_that_is_no_number_is_told():
    net = flat()
    with torch.no_grad():
        net.fc.weight[0, 0] = float("nan")
    with pytest.raises(UsageError, match="a gradient is no number"):
        scores(net, "taylor")


class Twice(nn.Module):
    """A layer that is called twice, once by name."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, CLASSES)

    def parts(self, x):
        first = self.stem(x).relu()
        second = self.conv(input=first).relu()
        return first, second, self.conv(second).relu()

    def forward(self, x):
        return self.head(self.parts(x)[-1].mean((2, 3)))


def test_a_layer_called_twice_counts_once():
    torch.manual_seed(1)
    net = Twice().eval()
    with torch.no_grad():
        first, second, third = (a.abs().mean((0, 2, 3)).numpy() for a in net.parts(samples().inputs))
    (found,) = scores(net, "activation").values()  # one group: what goes in is as wide as what comes out
    expected = ((first + second) / 2 + third) / 2
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-4)
