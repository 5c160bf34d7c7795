"""Batch norms that take their statistics anew."""

import copy

import numpy as np
import pytest
import torch
from nets import SPEC, TABLE, images
from torch import nn

from edgekd.training import reestimate


def norm(channels, **settings):
    """A batch norm that has seen a hundred batches of something else."""
    found = nn.BatchNorm2d(channels, **settings)
    found.running_mean.fill_(7.0)
    found.running_var.fill_(7.0)
    found.num_batches_tracked.fill_(100)
    return found


@pytest.mark.parametrize("n", [256, 30, 512])
def test_they_are_the_mean_and_variance_of_the_samples(n):
    """Of the first layer they are those of its inputs, by hand; nothing else is at work meanwhile."""
    net = nn.Sequential(nn.Dropout(0.5), norm(2, momentum=0.2), nn.Flatten(), nn.Linear(128, 5)).train()
    before = copy.deepcopy(net[3].state_dict())
    raw = images(n)
    assert reestimate(net, raw, SPEC) == 1
    x = SPEC.preprocess(raw).transpose(1, 0, 2, 3).reshape(2, -1)
    np.testing.assert_allclose(net[1].running_mean, x.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(net[1].running_var, x.var(axis=1, ddof=1), rtol=5e-3)
    assert net[1].momentum == 0.2 and not net[1].training
    assert all(torch.equal(before[k], v) for k, v in net[3].state_dict().items())


def test_the_order_of_the_samples_does_not_matter():
    """Sorted by class: all of one batch would lie on one side."""
    raw = np.concatenate([np.full((512, 2, 8, 8), low, np.uint8) for low in (3, 16)])
    net = nn.Sequential(norm(2), nn.Flatten(), nn.Linear(128, 5))
    reestimate(net, raw, SPEC)
    x = SPEC.preprocess(raw).transpose(1, 0, 2, 3).reshape(2, -1)
    np.testing.assert_allclose(net[0].running_var, x.var(axis=1), rtol=0.02)


def test_a_last_smaller_batch_is_left_out():
    """It would count like a whole one: 255 images alike, and one that is another."""
    raw = np.concatenate([np.full((256, 2, 8, 8), 3, np.uint8), np.full((1, 2, 8, 8), 16, np.uint8)])
    net = nn.Sequential(norm(2), nn.Flatten(), nn.Linear(128, 5))
    reestimate(net, raw, SPEC)
    low, high = (SPEC.preprocess(raw[[i]])[0, 0, 0, 0] for i in (0, 256))
    assert net[0].running_mean[0] < low + (high - low) / 200


def test_without_batch_norms_nothing_is_done():
    assert reestimate(nn.Sequential(nn.Linear(6, 5)), np.zeros((4, 6), np.float32), TABLE) == 0
