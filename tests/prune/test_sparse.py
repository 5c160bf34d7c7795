"""The penalty on whole channels."""

import numpy as np
import torch
from nets import CLASSES, flat, inputs, prune_config, tiny_mobilenet, tiny_resnet
from torch import nn

from edgekd.prune.importance import Samples
from edgekd.prune.sparse import group_lasso

EXAMPLE = torch.from_numpy(inputs(1))
SAMPLES = Samples(torch.from_numpy(inputs(8, seed=7)), None, [slice(0, CLASSES)])


def penalty_of(net, **config):
    return group_lasso(net, EXAMPLE, prune_config(keep=0.5, **config), SAMPLES)


def norms(*parts):
    """Of channels, from weights laid out (channel, ...)."""
    rows = [p.detach().double().reshape(len(p), -1) for p in parts]
    return np.linalg.norm(torch.cat(rows, dim=1).numpy(), axis=1)


def test_by_hand_with_a_flatten_between():
    """conv 2 -> 16 on 8x8 pixels, fc 1024 -> 24, head: each channel of conv is read by 64 columns of fc."""
    net = flat()
    columns = net.fc.weight.reshape(24, 16, 64).transpose(0, 1)
    expected = norms(net.conv.weight, columns).sum() + norms(net.fc.weight, net.head.weight.T).sum()
    np.testing.assert_allclose(penalty_of(net)().item(), expected, rtol=1e-5)


def test_by_hand_with_a_residual_sum():
    net = tiny_resnet(8, (1, 1))
    first, second = net.blocks
    made = [net.stem.weight, net.bn.weight, first.conv2.weight, first.bn2.weight]
    read = [first.conv1.weight, second.conv1.weight, second.shortcut[0].weight]
    stream = norms(*made, *(weight.transpose(0, 1) for weight in read))
    inner = norms(first.conv1.weight, first.bn1.weight, first.conv2.weight.transpose(0, 1))
    inner_2 = norms(second.conv1.weight, second.bn1.weight, second.conv2.weight.transpose(0, 1))
    made = [second.conv2.weight, second.bn2.weight, second.shortcut[0].weight, second.shortcut[1].weight]
    last = norms(*made, net.head.weight.T)
    expected = sum(part.sum() for part in (stream, inner, inner_2, last))
    np.testing.assert_allclose(penalty_of(net)().item(), expected, rtol=1e-5)
    alone = penalty_of(net, ignored_layers=["blocks.0.conv1"])
    np.testing.assert_allclose(alone().item(), expected - inner.sum(), rtol=1e-5)


def test_what_a_grouped_convolution_reads_is_not_told_apart():
    """Its weights (12, 4, 3, 3) number the eight channels that it reads anew in each half."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1, groups=2), nn.ReLU(),
        nn.Conv2d(12, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES),
    ).eval()  # fmt: skip
    expected = norms(net[0].weight).sum() + norms(net[2].weight, net[4].weight.transpose(0, 1)).sum()
    expected += norms(net[4].weight, net[7].weight.T).sum()
    np.testing.assert_allclose(penalty_of(net)().item(), expected, rtol=1e-5)


def test_it_follows_the_weights_and_pulls_all_of_a_channel_alike():
    net = tiny_mobilenet(8)
    penalty = penalty_of(net)
    before = penalty().item()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2)
    np.testing.assert_allclose(penalty().item(), 2 * before, rtol=1e-5)
    # The slope of a norm is the weights over the norm: all of a channel shrink by one factor.
    net = flat()
    penalty_of(net)().backward()
    columns = net.fc.weight.reshape(24, 16, 64).transpose(0, 1)
    of_channel = norms(net.conv.weight, columns)
    shrink = (net.conv.weight.grad / net.conv.weight).detach().flatten(1)
    np.testing.assert_allclose(shrink, np.repeat(1 / of_channel[:, None], shrink.shape[1], axis=1), rtol=1e-3)
