"""Single weights set to zero."""

from collections import OrderedDict

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
        p: m.weight.detach().numpy()
        for p, m in net.named_modules()
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
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
    cut = zeros.smallest(net, sparse_config(), zeros.nonzeros(net) // 2, seed=0)
    hold, gone = zeros.held(cut), {p: w == 0 for p, w in weights_of(cut).items()}
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter += 1.0
    hold()
    for path, weight in weights_of(cut).items():
        np.testing.assert_array_equal(weight == 0, gone[path])


def test_zeros_of_layers_that_were_left_alone_may_move():
    net = flat()
    with torch.no_grad():
        net.conv.weight[0] = 0
    hold = zeros.held(net, ignored=("conv",))
    with torch.no_grad():
        net.conv.weight += 1
    hold()
    assert (net.conv.weight != 0).all()


def test_how_weights_lie_in_memory_does_not_matter():
    net = tiny_resnet(8, (1, 1))
    expected = weights_of(zeros.smallest(net, sparse_config(), zeros.nonzeros(net) // 2, seed=0))
    last = tiny_resnet(8, (1, 1)).to(memory_format=torch.channels_last)
    found = weights_of(zeros.smallest(last, sparse_config(), zeros.nonzeros(last) // 2, seed=0))
    for path, weight in expected.items():
        np.testing.assert_array_equal(found[path], weight)


def test_by_layer_the_limit_is_met_where_small_layers_cannot_give_their_share():
    net = nn.Sequential(*(nn.Linear(3, 1) for _ in range(10)), nn.Linear(100, 1))
    config = sparse_config(scope="layer", max_pruning_ratio=0.5)
    kept = [np.count_nonzero(w) for w in weights_of(zeros.smallest(net, config, 75, seed=0)).values()]
    assert sum(kept) == 75 and kept[:10] == [2] * 10  # of three at most one may go


@pytest.mark.parametrize("importance", ["l2", "random"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_zeros_that_are_there_already_count_as_gone(scope, importance):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(100, 10), nn.Linear(100, 10))
    with torch.no_grad():
        net[1].weight[1:] = 0
    config = sparse_config(scope=scope, importance=importance, max_pruning_ratio=0.5)
    for limit in (1050, 800, 600):
        assert zeros.nonzeros(zeros.smallest(net, config, limit, seed=0)) == limit
    with pytest.raises(UsageError, match="599 weights are out of reach: at least 600 stay"):
        zeros.smallest(net, config, 599, seed=0)


def test_two_of_four_leaves_grouped_and_transposed_convolutions_whole():
    net = nn.Sequential(nn.Conv2d(16, 16, 3, groups=2), nn.ConvTranspose2d(16, 8, 3), nn.Conv2d(8, 4, 1))
    after = weights_of(zeros.two_of_four(net, sparse_config(keep=None, pattern="2:4")))
    whole = {path: np.count_nonzero(weight) == weight.size for path, weight in after.items()}
    assert whole == {"0": True, "1": True, "2": False}


def test_a_weight_that_layers_share_is_one_and_any_of_them_names_it():
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    net[1].weight = net[0].weight
    assert zeros.nonzeros(net) == 64 + 32
    cut = zeros.smallest(net, sparse_config(ignored_layers=("1",), max_pruning_ratio=0.9), 64 + 8, seed=0)
    assert np.count_nonzero(cut[0].weight.detach()) == 64 and np.count_nonzero(cut[2].weight.detach()) == 8
    assert cut[0].weight is cut[1].weight


def test_weights_that_are_worked_out_from_others_are_refused():
    net = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    with pytest.raises(UsageError, match="the weights of body are worked out from others"):
        zeros.smallest(nn.Sequential(OrderedDict(body=net)), sparse_config(), 32, seed=0)


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
        ("nonzero_weights", {"pattern": "2:4", "importance": "random"}, "leave importance, scope and max"),
        ("nonzero_weights", {"pattern": "2:4", "max_pruning_ratio": 0.5}, "leave importance, scope and max"),
        ("nonzero_weights", {}, "exactly one of prune.keep and prune.limit"),
    ],
)
def test_settings_that_do_not_go_together(goal, rest, message):
    with pytest.raises(ValidationError, match=message):
        prune_config(goal, **({"epochs": 4} | rest))
