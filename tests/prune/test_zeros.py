"""Single weights set to zero."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import flat, prune_config, tiny_mobilenet, tiny_resnet
from pydantic import ValidationError
from torch import nn

from edgekd.errors import UsageError
from edgekd.prune import zeros


def sparse_config(**rest):
    return prune_config("nonzero_weights", **({"keep": 0.5} | rest))


def weights_of(net):
    return {
        p: m.weight.detach().numpy() for p, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
    }


@settings(max_examples=25)
@given(share=st.floats(0.35, 0.99), most=st.floats(0.7, 0.95), seed=st.integers(0, 99))
def test_the_smallest_weights_go_and_no_layer_is_emptied(share, most, seed):
    net = tiny_resnet(8, (2, 1), seed)
    before = weights_of(net)
    limit = int(share * sum(w.size for w in before.values()))
    after = weights_of(zeros.smallest(net, sparse_config(max_pruning_ratio=most), limit, seed=0))
    assert sum(np.count_nonzero(w) for w in after.values()) == limit
    largest_gone, least_kept_where_more_could_go = 0.0, np.inf
    for path, now in after.items():
        old, gone = before[path], now == 0
        np.testing.assert_array_equal(now[~gone], old[~gone])
        assert gone.mean() <= most
        if gone.any():
            assert np.abs(old[gone]).max() <= np.abs(old[~gone]).min()
            largest_gone = max(largest_gone, np.abs(old[gone]).max())
        if gone.sum() < int(most * gone.size):
            least_kept_where_more_could_go = min(least_kept_where_more_could_go, np.abs(old[~gone]).min())
    assert largest_gone <= least_kept_where_more_could_go
    assert all((w == before[p]).all() for p, w in weights_of(net).items())


def test_by_layer_each_loses_the_same_share():
    net = tiny_mobilenet(16)
    after = weights_of(zeros.smallest(net, sparse_config(scope="layer"), zeros.nonzeros(net) // 2, seed=0))
    for path, weight in after.items():
        assert np.count_nonzero(weight) / weight.size == pytest.approx(0.5, abs=1 / weight.size), path


def test_named_layers_stay_whole_and_the_others_pay():
    net = flat()
    limit = int(0.6 * zeros.nonzeros(net))
    after = weights_of(zeros.smallest(net, sparse_config(ignored_layers=("conv",)), limit, seed=0))
    assert (after["conv"] != 0).all() and sum(np.count_nonzero(w) for w in after.values()) == limit


def test_the_control_does_not_look_at_sizes():
    net = flat()
    limit = zeros.nonzeros(net) // 2
    kept = [
        np.abs(
            np.concatenate([w[w != 0] for w in weights_of(zeros.smallest(net, config, limit, 0)).values()])
        )
        for config in (sparse_config(), sparse_config(importance="random"))
    ]
    assert len(kept[0]) == len(kept[1]) == limit
    everything = np.abs(np.concatenate([w.ravel() for w in weights_of(net).values()]))
    assert (
        kept[1].mean() == pytest.approx(everything.mean(), rel=0.03) and kept[0].mean() > 1.3 * kept[1].mean()
    )


def test_two_of_every_four_input_channels_stay():
    net = tiny_mobilenet(8)
    before, after = (
        weights_of(net),
        weights_of(zeros.two_of_four(net, sparse_config(keep=None, pattern="2:4"))),
    )
    cut = set()
    for path, old in before.items():
        if (after[path] == old).all():
            continue
        cut.add(path)
        for place in np.ndindex(old.shape[0], *old.shape[2:]):
            lines = [w[(place[0], slice(None), *place[1:])].reshape(-1, 4) for w in (old, after[path])]
            for was, now in zip(*lines, strict=True):
                kept = np.sort(np.argsort(np.abs(was))[-2:])
                np.testing.assert_array_equal(np.flatnonzero(now), kept)
                np.testing.assert_array_equal(now[kept], was[kept])
    # The stem sees two channels, and depthwise convolutions one each.
    fits = {p for p, w in before.items() if w.shape[1] % 4 == 0}
    assert cut == fits and len(before) > len(cut) > 2


def test_what_is_zero_is_held_whatever_training_does():
    net = tiny_resnet(8, (1, 1))
    zeros.held(copy.deepcopy(net))()
    cut = zeros.smallest(net, sparse_config(), zeros.nonzeros(net) // 2, seed=0)
    hold, gone = zeros.held(cut), {p: w == 0 for p, w in weights_of(cut).items()}
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter += 1.0
    hold()
    for path, weight in weights_of(cut).items():
        np.testing.assert_array_equal(weight == 0, gone[path])


def test_a_limit_that_cannot_be_and_networks_that_cannot_take_it():
    net = flat()
    with pytest.raises(UsageError, match=r"100 weights are out of reach: at least \d,\d{3} stay"):
        zeros.smallest(net, sparse_config(), 100, seed=0)
    with pytest.raises(UsageError, match=r"no layer 'cnov' \(did you mean 'conv'"):
        zeros.smallest(net, sparse_config(ignored_layers=("cnov",)), 1000, seed=0)
    with pytest.raises(UsageError, match=r"nothing in Sequential can be pruned"):
        zeros.smallest(nn.Sequential(nn.ReLU()), sparse_config(), 1000, seed=0)
    narrow = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 6, 3))
    with pytest.raises(UsageError, match="no layer of Sequential has a multiple of 4 input channels"):
        zeros.two_of_four(narrow, sparse_config(keep=None, pattern="2:4"))


@pytest.mark.parametrize(
    ("goal", "rest", "message"),
    [
        ("macs", {"keep": 0.5, "pattern": "2:4"}, "leave prune.keep, limit and rounds out"),
        ("macs", {"pattern": "2:4"}, "pattern = '2:4' goes with goal = \"nonzero_weights\", not 'macs'"),
        ("nonzero_weights", {"pattern": "2:4", "rounds": 2}, "leave prune.keep, limit and rounds out"),
        ("nonzero_weights", {"keep": 0.5, "importance": "taylor"}, "single weights are ranked by their size"),
        ("nonzero_weights", {"keep": 0.5, "scope": "isomorphic"}, "single weights are ranked by their size"),
        ("nonzero_weights", {"keep": 0.5, "sparse": {"epochs": 1}}, "makes whole channels small"),
        ("nonzero_weights", {}, "exactly one of prune.keep and prune.limit"),
    ],
)
def test_settings_that_do_not_go_together(goal, rest, message):
    with pytest.raises(ValidationError, match=message):
        prune_config(goal, **({"epochs": 4} | rest))
