"""Mixtures, worked out pixel by pixel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import SPEC, images, split
from scipy import stats

from edgekd import mixing
from edgekd.batches import TrainingSet, View, steps
from edgekd.config import DistillConfig, MixConfig, TrainConfig, build
from edgekd.errors import UsageError
from edgekd.losses import Batch, cross_entropy

SHAPE = (3, 9, 6)


@given(seed=st.integers(0, 100), both=st.booleans())
def test_images_are_pasted_and_blended_as_the_pairs_say(seed, both):
    mix = MixConfig(mixup=0.5 if both else None, cutmix=1.0)
    pairs = mixing.draw(mix, 8, SHAPE, seed, 0)
    x = np.random.default_rng(seed).normal(size=(8, *SHAPE)).astype(np.float32)
    picked = np.array([1, 4, 6])
    found = mixing.apply(
        torch.from_numpy(x[picked]), torch.from_numpy(x[pairs.partners[picked]]), pairs, picked
    )
    for row, i in enumerate(picked):
        other, share = x[pairs.partners[i]], float(pairs.shares[i])
        expected = share * x[i] + (1 - share) * other
        if pairs.pasted[i]:
            top, bottom, left, right = pairs.boxes[i]
            expected = x[i].copy()
            expected[:, top:bottom, left:right] = other[:, top:bottom, left:right]
            assert share == pytest.approx(1 - (bottom - top) * (right - left) / 54, abs=1e-6)
        np.testing.assert_allclose(found[row], expected, atol=1e-5)
    assert pairs.pasted.all() or both


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_beta(alpha):
    shares = mixing.draw(MixConfig(mixup=alpha), 4000, (5,), 1, 2).shares
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.001


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_areas_are_beta(alpha):
    """The side of a box of share 1 - a is sqrt(1 - a): where the border cuts nothing off, a is Beta.

    A box lies inside with a probability that hangs on its size, so each is taken as often as it is rare.
    """
    pairs = mixing.draw(MixConfig(cutmix=alpha), 40_000, (1, 1000, 1000), 1, 2)
    top, bottom, left, right = pairs.boxes.T
    assert (
        np.abs((bottom - top) - (right - left))[
            (top > 0) & (bottom < 1000) & (left > 0) & (right < 1000)
        ].max()
        <= 1
    )
    side = (bottom - top) / 1000
    inside = (top > 0) & (bottom < 1000) & (side < 0.7)
    edges = np.linspace(1 - 0.65**2, 1 - 0.1**2, 8)
    kept = 1 - side[inside] ** 2
    found = np.histogram(kept, edges, weights=1 / (1 - side[inside]))[0] / 40_000
    expected = np.diff(stats.beta(alpha, alpha).cdf(edges))
    np.testing.assert_allclose(found, expected, atol=0.012)


def test_of_both_each_sample_draws_one():
    pairs = mixing.draw(MixConfig(mixup=0.3, cutmix=1.0), 4000, (1, 8, 8), 1, 2)
    assert stats.binomtest(int(pairs.pasted.sum()), 4000, 0.5).pvalue > 0.001
    assert stats.kstest(pairs.shares[~pairs.pasted], stats.beta(0.3, 0.3).cdf).pvalue > 0.001


def test_each_view_has_pairs_of_its_own_and_each_sample_is_a_partner_once():
    first, again, other = (mixing.draw(MixConfig(mixup=1.0), 50, (5,), 3, view) for view in (0, 0, 1))
    np.testing.assert_array_equal(first.partners, again.partners)
    np.testing.assert_array_equal(first.shares, again.shares)
    assert not np.array_equal(first.partners, other.partners)
    np.testing.assert_array_equal(np.sort(first.partners), np.arange(50))


def test_the_pairs_do_not_hang_on_the_order_of_samples():
    """What a sample is mixed with in a view is the same in whatever batch it comes."""
    data = split(images(20))
    view = View(data, SPEC, ("crop",), MixConfig(mixup=1.0), 5, 0)
    whole = view.inputs(np.arange(20))
    np.testing.assert_array_equal(view.inputs(np.array([3, 17])), whole[[3, 17]])


def test_labels_come_with_their_shares():
    odd = np.arange(20) % 2
    data = replace(split(images(20)), head_labels={"odd": odd})
    config = TrainConfig(epochs=1, batch_size=10, mix=MixConfig(mixup=1.0))
    pairs = mixing.draw(config.mix, 20, SPEC.shape, 5, 0)
    for step in steps(TrainingSet(data, SPEC, None, 1, 5), config, 0):
        picked = step.picked.numpy()
        np.testing.assert_array_equal(step.labels, data.labels[picked])
        np.testing.assert_array_equal(step.other_labels, data.labels[pairs.partners[picked]])
        np.testing.assert_array_equal(step.shares, pairs.shares[picked])
        np.testing.assert_array_equal(step.head_labels["odd"], odd[picked])
        np.testing.assert_array_equal(step.other_head_labels["odd"], odd[pairs.partners[picked]])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_a_mixture_by_hand(smoothing):
    rng = np.random.default_rng(0)
    logits, labels, others = rng.normal(size=(6, 4)), rng.integers(0, 4, 6), rng.integers(0, 4, 6)
    shares = rng.random(6)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    target = shares[:, None] * np.eye(4)[labels] + (1 - shares[:, None]) * np.eye(4)[others]
    target = (1 - smoothing) * target + smoothing / 4
    batch = Batch(
        torch.from_numpy(logits),
        None,
        torch.from_numpy(labels),
        torch.arange(6),
        other_labels=torch.from_numpy(others),
        shares=torch.from_numpy(shares),
    )
    found = cross_entropy.loss(batch, cross_entropy.Options(smoothing=smoothing))
    assert found.item() == pytest.approx(-(target * logs).sum(axis=1).mean(), rel=1e-12)


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(UsageError, match=r"mix.mixup = 0.0: .*greater than 0"):
        build(TrainConfig, {"epochs": 1, "mix": {"mixup": 0.0}}, "recipe")
    with pytest.raises(UsageError, match="dkd is about one true class"):
        build(DistillConfig, {"epochs": 1, "mix": {"mixup": 0.2}, "losses": [{"kind": "dkd"}]}, "recipe")
