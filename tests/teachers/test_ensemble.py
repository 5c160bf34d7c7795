"""Against the formulas written out sample by sample."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.errors import UsageError
from edgekd.stages.ensemble import Together
from edgekd.teachers import ensemble

DRAW = np.random.default_rng(0)
FIRST, SECOND = (DRAW.normal(scale=s, size=(5, 4)).astype(np.float32) for s in (1, 3))
X = np.zeros((5, 2), np.float32)


def says(logits):
    return lambda x: logits[: len(x)]


def softmax(row):
    powers = [math.exp(v) for v in row]
    return [p / sum(powers) for p in powers]


def weights_of(i, weights):
    if weights is not None:
        return weights
    sure = [1 + sum(p * math.log(p) for p in softmax(logits[i])) / math.log(4) for logits in (FIRST, SECOND)]
    return [s / sum(sure) for s in sure]


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.2, 0.8], None])
def test_the_mean_of_probabilities(weights):
    found = ensemble.combine([says(FIRST), says(SECOND)], "probabilities", weights)(X)
    assert found.dtype == np.float32
    for i in range(5):
        w = weights_of(i, weights)
        expected = [w[0] * a + w[1] * b for a, b in zip(softmax(FIRST[i]), softmax(SECOND[i]), strict=True)]
        assert softmax(found[i]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.2, 0.8], None])
def test_the_mean_of_logits_is_the_geometric_mean_of_probabilities(weights):
    found = ensemble.combine([says(FIRST), says(SECOND + 7)], "logits", weights)(X)
    for i in range(5):
        w = weights_of(i, weights)
        powers = [a ** w[0] * b ** w[1] for a, b in zip(softmax(FIRST[i]), softmax(SECOND[i]), strict=True)]
        assert softmax(found[i]) == pytest.approx([p / sum(powers) for p in powers], rel=1e-5)


def test_members_that_are_all_at_a_loss_count_alike():
    flat = np.zeros((5, 4), np.float32)
    found = ensemble.combine([says(flat), says(flat)], "probabilities", None)(X)
    np.testing.assert_allclose(found, math.log(0.25), rtol=1e-6)


def test_members_of_different_tasks_are_refused():
    with pytest.raises(UsageError, match=r"outputs of shapes \[\(5, 4\), \(5, 3\)\]"):
        ensemble.combine([says(FIRST), says(FIRST[:, :3])], "logits", [0.5, 0.5])(X)


def test_probabilities_as_logits():
    probabilities = np.array([[0.25, 0.75], [0.0, 1.0]], np.float32)
    found = ensemble.logits_of(says(probabilities))(X[:2])
    assert softmax(found[0]) == pytest.approx([0.25, 0.75])
    assert np.isfinite(found).all() and softmax(found[1])[0] < 1e-6


@pytest.mark.parametrize("what", ["probabilities", "logits"])
@pytest.mark.parametrize("weights", [[0.3, 0.7], None])
def test_each_head_is_a_mean_of_its_own(what, weights):
    columns = (slice(0, 2), slice(2, 4))
    found = ensemble.combine([says(FIRST), says(SECOND)], what, weights, columns)(X)
    for head in columns:
        alone = ensemble.combine([says(FIRST[:, head]), says(SECOND[:, head])], what, weights)(X)
        np.testing.assert_array_equal(found[:, head], alone)


@pytest.mark.parametrize("what", ["probabilities", "logits"])
@pytest.mark.parametrize("columns", [(slice(0, 4),), (slice(0, 2), slice(2, 4))])
@pytest.mark.parametrize("scale", [4, 400])  # of answers so sure that their probabilities are 0 in float32
def test_networks_as_one_say_in_torch_what_they_say_apart(what, columns, scale):
    torch.manual_seed(0)
    networks = [nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))]
    x = np.random.default_rng(1).normal(scale=scale, size=(7, 3)).astype(np.float32)
    with torch.no_grad():
        members = [lambda x, net=net: net(torch.from_numpy(x)).detach().numpy() for net in networks]
        found = Together(networks, what, [0.3, 0.7], columns)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(
        found, ensemble.combine(members, what, [0.3, 0.7], columns)(x), rtol=1e-6, atol=1e-5
    )
