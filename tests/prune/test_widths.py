import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import CLASSES, flat, inputs, outputs, prune_config, tiny_mobilenet, tiny_resnet
from scipy.special import softmax
from torch import nn

from edgekd.errors import UsageError
from edgekd.latency.network import layers_of
from edgekd.layers import Layer
from edgekd.prune import structured, widths
from edgekd.prune.groups import Prunable, rebuild
from edgekd.prune.importance import Samples
from edgekd.prune.widths import Budget
from edgekd.prune.wiring import Width, Wire, wire

EXAMPLE = torch.from_numpy(inputs(1))
X = inputs(16, seed=7)
SAMPLES = Samples(torch.from_numpy(X), None, [slice(0, CLASSES)])
NETS = {"resnet": lambda: tiny_resnet(16, (2, 1)), "mobilenet": lambda: tiny_mobilenet(8), "flat": flat}


def macs(layer):
    """Multiplications, and one for each value that a sum or a pool reads, so that nothing is for nothing."""
    each = {
        "conv": layer.kernel**2 * layer.in_channels,
        "linear": layer.in_channels,
        "depthwise": layer.kernel**2,
    }
    return layer.out_elements * each.get(layer.kind, 0) + layer.in_elements


def stairs(layer):
    """As kernels of 8 by 4 channels: a width in between costs like the next step."""
    if layer.kind not in ("conv", "linear"):
        return macs(layer)
    return macs(layer.at(-(-layer.in_channels // 4) * 4, -(-layer.out_channels // 8) * 8))


def wires_of(net):
    config = prune_config(keep=0.5)
    found = Prunable(net, EXAMPLE, config, SAMPLES)
    return structured._wires(Prunable(net, EXAMPLE, config, SAMPLES), EXAMPLE), found.widths


def test_the_wires_of_a_resnet_by_hand():
    # Groups in any order: stem with both sums (16), each block's inner convolution, the second stage (32).
    net = tiny_resnet(16, (1, 1))
    wires, whole = wires_of(net)
    assert sorted(whole) == [16, 16, 32, 32]
    at = {w.layer: w for w in wires}
    stem = at[Layer("conv", 8, 8, 2, 16, 3, 1, 1)]
    assert stem.inner == Width(2) and stem.outer.fixed == 0 and len(stem.groups) == 1
    (residual,) = stem.groups
    assert at[Layer("add", 8, 8, 16, 16)].groups == (residual,)
    head = at[Layer("linear", 1, 1, 32, 5)]
    assert head.outer == Width(5) and head.inner.per_group == ((head.groups[0], 1),)
    shortcut = at[Layer("conv", 8, 8, 16, 32, 1, 2, 0)]
    assert shortcut.inner.per_group == ((residual, 1),)
    assert shortcut.outer == head.inner


def test_a_linear_layer_behind_an_image_follows_with_every_pixel():
    wires, whole = wires_of(flat())
    fc = next(w for w in wires if w.layer == Layer("linear", 1, 1, 1024, 24))
    (group,) = (g for g, times in fc.inner.per_group if times == 64)
    assert whole[group] == 16 and fc.inner.fixed == 0


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("seed", range(3))
def test_wires_tell_the_layers_of_any_widths(kind, seed):
    net = NETS[kind]()
    wires, whole = wires_of(net)
    chosen = [int(np.random.default_rng([seed, i]).integers(1, w + 1)) for i, w in enumerate(whole)]
    found = Prunable(net, EXAMPLE, prune_config(keep=0.5), SAMPLES)
    for i, kept in enumerate(chosen):
        found.narrow(i, kept)
    assert tuple(w.at(chosen) for w in wires) == layers_of(found.net, EXAMPLE)
    assert tuple(w.at(whole) for w in wires) == tuple(w.layer for w in wires)


def test_a_network_that_changes_its_layers_with_its_widths_is_refused():
    one = [Layer("conv", 8, 8, 2, 16, 3, 1, 1)]
    with pytest.raises(ValueError, match="group 0"):
        wire([one, [Layer("conv", 8, 8, 2, 15, 5, 1, 2)]], [16], [0])


def chain(*groups):
    """1x1 convolutions from group to group, each on one pixel."""
    return [
        Wire(Layer("conv", 1, 1, 1, 1), Width(0, ((a, 1),)), Width(0, ((b, 1),)))
        for a, b in itertools.pairwise(groups)
    ]


def by_trying_all(wires, candidates, losses, budgets):
    """(the least that is lost, None) or, where no choice will do, (None, the budget and what it takes)."""
    choices = list(itertools.product(*(range(len(c)) for c in candidates)))
    lost = np.array([sum(loss[i] for loss, i in zip(losses, choice, strict=True)) for choice in choices])
    widths_of = [[c[i] for c, i in zip(candidates, choice, strict=True)] for choice in choices]
    fits = np.ones(len(choices), bool)
    for budget in budgets:
        costs = np.array([widths.total(wires, chosen, budget.price) for chosen in widths_of])
        if not (fits & (costs <= budget.limit)).any():
            return None, (budget, costs[fits].min())
        fits &= costs <= budget.limit
    return lost[fits].min(), None


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.05, 1.0), other=st.floats(0.05, 1.2))
def test_the_choice_is_the_best_of_all(seed, share, other):
    rng = np.random.default_rng(seed)
    # A ring and a group of three: pairs, a cycle, and a layer that looks at a concatenation.
    wires = chain(0, 1, 2, 0, 3)
    wires.append(Wire(Layer("conv", 1, 1, 1, 1), Width(0, ((1, 1), (2, 2))), Width(0, ((3, 1),))))
    wires.append(Wire(Layer("add", 1, 1, 1, 1), Width(0, ((3, 1),)), Width(0, ((3, 1),))))
    wires.append(Wire(Layer("linear", 1, 1, 7, 5), Width(7), Width(5)))
    candidates = [sorted(rng.choice(np.arange(1, 17), 3, replace=False).tolist()) for _ in range(4)]
    losses = [np.sort(rng.random(3))[::-1] for _ in range(4)]
    # A kernel that likes multiples of four: the narrowest network is not the fastest.
    price = lambda layer: 0.1 + macs(layer) // 20 + 9 * (layer.in_channels % 4 > 0)  # noqa: E731
    memory = lambda layer: layer.out_channels  # noqa: E731
    whole = [widths.total(wires, [c[-1] for c in candidates], each) for each in (price, memory)]
    budgets = [Budget("time", price, share * whole[0]), Budget("memory", memory, other * whole[1])]
    best, exceeded = by_trying_all(wires, candidates, losses, budgets)
    if exceeded is not None:
        with pytest.raises(widths.OutOfReach) as caught:
            widths.choose(wires, candidates, losses, budgets)
        assert (caught.value.budget, caught.value.least) == exceeded
        return
    chosen = widths.choose(wires, candidates, losses, budgets)
    lost = sum(loss[c.index(w)] for loss, c, w in zip(losses, candidates, chosen, strict=True))
    for budget in budgets:
        assert widths.total(wires, chosen, budget.price) <= budget.limit * (1 + 1e-6)
    assert lost <= best * (1 + 2 * widths.GAP) + 1e-9


def test_edges_are_the_widths_just_below_a_step():
    wires = chain(0, 1)
    price = lambda layer: -(-layer.in_channels // 8) * -(-layer.out_channels // 16)  # noqa: E731
    found = widths.edges(wires, [32, 40], [5, 4], [price])
    assert found == [[8, 16, 24, 32], [16, 32, 40]]


def test_a_width_at_the_edge_of_any_price_is_worth_choosing():
    wires = chain(0, 1)
    time = lambda layer: -(-layer.in_channels // 16)  # noqa: E731
    memory = lambda layer: -(-layer.in_channels // 12)  # noqa: E731
    found = widths.edges(wires, [32, 40], [5, 4], [time, memory])
    assert found == [[12, 16, 24, 32], [40]]


@pytest.mark.parametrize("kind", NETS)
def test_what_layers_have_is_what_torch_counts_in_a_network(kind):
    net, layers = NETS[kind](), layers_of(NETS[kind](), EXAMPLE)
    macs, params = structured.count(net, EXAMPLE)
    assert sum(map(structured.counted("macs", 1), layers)) == macs
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    # Folded, a norm leaves one bias a channel of its two numbers.
    assert sum(map(structured.counted("params", 1), layers)) == params - sum(m.num_features for m in norms)
    biases = sum(m.bias.numel() for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.Linear))
    if kind == "flat":  # its convolution has a bias of its own
        biases = sum(m.bias.numel() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    weights = sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert sum(map(structured.counted("size_bytes", 2), layers)) == 2 * weights + 4 * biases


def test_where_there_are_no_steps_the_range_is_covered():
    (narrow, _) = widths.edges(chain(0, 1), [256, 8], [16, 8], [lambda layer: layer.in_channels])
    assert len(narrow) <= widths.MOST_CANDIDATES
    assert narrow[0] < 24 and narrow[-1] == 256
    assert max(b - a for a, b in itertools.pairwise(narrow)) < 64


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("share", [0.8, 0.5])
def test_a_price_is_met_and_told_and_the_important_channels_stay(kind, share):
    net, config = NETS[kind](), prune_config(keep=0.5)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    whole = sum(map(stairs, layers_of(net, EXAMPLE)))
    cut, history = structured.prune_by_price(
        net,
        EXAMPLE,
        config,
        budgets=[Budget("time", stairs, share * whole)],
        samples=SAMPLES,
        seed=0,
    )
    layers = layers_of(cut, EXAMPLE)
    assert sum(map(stairs, layers)) <= share * whole * (1 + 1e-6)
    assert history["channels"] and not history["blocks"]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    # Widths lie at the edges of steps; rebuilt from its history, the network is the same.
    again = rebuild(NETS[kind](), EXAMPLE, [history])
    assert layers_of(again, EXAMPLE) == layers
    assert layers[-1].out_channels == 5


@pytest.mark.parametrize("kind", NETS)
def test_a_masked_group_answers_as_the_pruned_network(kind):
    config = prune_config(keep=0.5)
    found = Prunable(NETS[kind](), EXAMPLE, config, SAMPLES)
    whole = outputs(found.net, X)
    for i, width in enumerate(found.widths):
        with found.masked(i, width // 2):
            masked = outputs(found.net, X)
        cut = Prunable(NETS[kind](), EXAMPLE, config, SAMPLES)
        cut.narrow(i, width // 2)
        np.testing.assert_allclose(masked, outputs(cut.net, X), atol=1e-5)
        assert np.abs(masked - whole).max() > 1e-3
    np.testing.assert_array_equal(outputs(found.net, X), whole)
    assert not any(m._forward_hooks for m in found.net.modules())


@pytest.mark.parametrize("columns", [[slice(None)], [slice(0, 3), slice(3, 5)]])
def test_what_a_width_loses_is_how_far_the_answers_of_each_head_move(columns):
    config, heads = prune_config(keep=0.5), Samples(SAMPLES.inputs, None, columns)
    found = Prunable(tiny_resnet(16), EXAMPLE, config, SAMPLES)
    candidates = [[w // 4, w // 2, w] for w in found.widths]
    for i, lost in enumerate(structured._losses(found, [], candidates, heads)):
        by_hand = []
        for width in candidates[i]:
            cut = Prunable(tiny_resnet(16), EXAMPLE, config, SAMPLES)
            cut.narrow(i, width)
            moved = 0.0
            for head in columns:
                answers = (outputs(n, X).astype(np.float64)[:, head] for n in (found.net, cut.net))
                p, q = (softmax(answer, axis=1) for answer in answers)
                moved += (p * (np.log(p) - np.log(q))).sum(axis=1).mean()
            by_hand.append(moved)
        # Narrower never counts as better.
        expected = [max(by_hand[k:]) for k in range(3)]
        np.testing.assert_allclose(lost, expected, rtol=1e-3, atol=1e-6)
        assert lost[0] > 1e-3


def test_what_a_width_loses_of_a_vector_is_who_is_near_whom():
    columns, vector = [slice(0, 3)], slice(3, 5)
    config = prune_config(keep=0.5)
    found = Prunable(tiny_resnet(16), EXAMPLE, config, SAMPLES)
    candidates = [[w // 2, w] for w in found.widths]

    def lost(**vector):
        return structured._losses(found, [], candidates, Samples(SAMPLES.inputs, None, columns, **vector))

    for i, (plain, both) in enumerate(zip(lost(), lost(vector=vector), strict=True)):
        cut = Prunable(tiny_resnet(16), EXAMPLE, config, SAMPLES)
        cut.narrow(i, candidates[i][0])
        chances = []
        for net in (found.net, cut.net):
            own = outputs(net, X).astype(np.float64)[:, vector]
            unit = own / np.linalg.norm(own, axis=1, keepdims=True)
            near = unit @ unit.T / 0.05
            others = near[~np.eye(len(near), dtype=bool)].reshape(len(near), -1)
            chances.append(softmax(others, axis=1))
        p, q = chances
        moved = (p * (np.log(p) - np.log(q))).sum(axis=1).mean()
        assert both[0] - plain[0] == pytest.approx(moved, rel=1e-2, abs=1e-4)
        assert moved > 1e-3


class Early(nn.Module):
    """A depthwise convolution on the image itself, and groups of 3 and 2 channels."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 2, 3, padding=1, groups=2),
            nn.Conv2d(2, 16, 1),
            nn.ReLU(),
            nn.Conv2d(16, 3, 1),
            nn.ReLU(),
            nn.Conv2d(3, 2, 1),
            nn.Conv2d(2, 2, 3, padding=1, groups=2),
            nn.Conv2d(2, 16, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 5),
        )

    def forward(self, x):
        return self.layers(x)


def test_channels_of_the_image_and_tiny_groups_are_left_alone():
    torch.manual_seed(0)
    net = Early().eval()
    found = Prunable(net, EXAMPLE, prune_config(keep=0.5), SAMPLES)
    assert sorted(found.widths) == [2, 3, 16, 16]
    limit = 0.7 * sum(map(stairs, layers_of(net, EXAMPLE)))
    settings = {"samples": SAMPLES, "seed": 0}
    cut, _ = structured.prune_by_price(
        net, EXAMPLE, prune_config(keep=0.5), budgets=[Budget("time", stairs, limit)], **settings
    )
    layers = layers_of(cut, EXAMPLE)
    assert layers[0].in_channels == 2 and sum(map(stairs, layers)) <= limit * (1 + 1e-6)


def test_of_two_channels_that_cost_the_same_the_smaller_goes():
    net = flat()
    with torch.no_grad():
        net.conv.weight *= torch.linspace(0.1, 2.0, 16)[torch.randperm(16)].reshape(16, 1, 1, 1)
        sizes = net.conv.weight.flatten(1).norm(dim=1) ** 2
        net.fc.weight.zero_()  # the group is the convolution and the columns that read it
        net.fc.weight[:, ::64] = 1e-3
    cut, _ = structured.prune_by_price(
        net,
        EXAMPLE,
        prune_config(keep=0.5, ignored_layers=("fc",)),
        budgets=[Budget("macs", macs, 0.8 * sum(map(macs, layers_of(net, EXAMPLE))))],
        samples=SAMPLES,
        seed=0,
    )
    kept = cut.conv.weight.flatten(1).norm(dim=1) ** 2
    assert torch.equal(kept.sort().values, sizes.sort().values[-len(kept) :])
    assert len(kept) < 16


def test_nothing_to_prune_is_an_error():
    with pytest.raises(UsageError, match="nothing in Flat can be pruned that any width would make cheaper"):
        structured.prune_by_price(
            flat(),
            EXAMPLE,
            prune_config(keep=0.5),
            budgets=[Budget("time", lambda layer: 1.0, 1.0)],
            samples=SAMPLES,
            seed=0,
        )
