"""Networks whose forward says `.view` train, answer and are attacked as those that say `.reshape`."""

import copy

import numpy as np
import pytest
import torch
from nets import SPEC, images, quiet, split, tiny_resnet, train_config
from torch import nn

from edgekd.batches import TrainingSet
from edgekd.config import AdversarialConfig, LossConfig
from edgekd.memory_format import lay_out
from edgekd.objective import Objective
from edgekd.stages.teacher import of_module
from edgekd.training import fit, predict


class Flattening(nn.Module):
    def __init__(self, view):
        super().__init__()
        torch.manual_seed(0)
        self.view = view
        self.conv = nn.Conv2d(SPEC.shape[0], 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * (SPEC.shape[1] - 2) * (SPEC.shape[2] - 2), 5)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        return self.fc(x.view(len(x), -1) if self.view else x.reshape(len(x), -1))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("view", [False, True])
def test_the_layout_that_a_network_takes(view, training):
    net = Flattening(view).train(training)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    chosen = torch.contiguous_format if view else torch.channels_last
    assert lay_out(net, SPEC.shape) == chosen
    assert net.conv.weight.is_contiguous(memory_format=chosen) and net.training == training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert lay_out(net, (6,)) == torch.contiguous_format


def test_a_network_that_fails_otherwise_fails_where_it_is_used():
    net = nn.Sequential(tiny_resnet(), nn.Linear(7, 5))
    assert lay_out(net, SPEC.shape) == torch.contiguous_format
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        predict(net, images(4), SPEC)


class Picky(nn.Module):
    """Trains by another forward than it answers by, and does not like an empty image."""

    def __init__(self):
        super().__init__()
        self.net, self.seen = Flattening(view=True), Flattening(view=False)

    def forward(self, x):
        if not x.any():
            raise ValueError("an empty image")
        return self.net(x) if self.training else self.seen(x)


def test_whatever_a_probe_raises_is_left_to_the_real_samples():
    assert lay_out(Picky(), SPEC.shape) == torch.contiguous_format
    assert predict(Picky(), images(4), SPEC).shape == (4, 5)
    fed = Flattening(view=False)
    fed.register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    assert lay_out(fed, SPEC.shape) == torch.channels_last


def test_a_forward_of_its_own_for_training(tmp_path):
    net = Picky()
    net.forward = lambda x: (net.net if net.training else net.seen)(x)
    before, drawn = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    assert lay_out(net, SPEC.shape) == torch.channels_last
    assert lay_out(net, SPEC.shape, training=True) == torch.contiguous_format
    # Statistics and the random numbers that follow are as if nothing had been tried.
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(drawn, torch.random.get_rng_state())


def trained(view, folder, live=False, **changes):
    net = Flattening(view)
    kinds = ["cross_entropy", "kd"] if live else ["cross_entropy"]
    objective = Objective([LossConfig(kind=k) for k in kinds], "fixed", None)
    data = TrainingSet(split(images(24)), SPEC, None, 1, 3, live=Flattening(view) if live else None)
    folder.mkdir()
    found = fit(
        net, data, objective, train_config(**changes), what="student", display=quiet(), checkpoint=folder
    )
    return net, found


@pytest.mark.parametrize("live", [False, True])
def test_both_end_alike(tmp_path, live):
    said = []
    for view in (True, False):
        net, _ = trained(view, tmp_path / str(view), live)
        x = SPEC.preprocess(images(9))
        said += [predict(net, images(9), SPEC), of_module(net, SPEC.shape)(x)]
    for found in said[1:]:
        np.testing.assert_allclose(found, said[0], atol=1e-4)


def test_attacked_ones_train_too(tmp_path):
    _, history = trained(True, tmp_path / "a", adversarial=AdversarialConfig(epsilon=0.1, steps=2))
    assert history[-1]["loss"] < history[0]["loss"]
