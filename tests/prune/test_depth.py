"""Blocks that are taken out whole."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import CLASSES, flat, inputs, outputs, prune_config, tiny_mobilenet, tiny_resnet
from pydantic import ValidationError
from scipy.special import softmax
from torch import nn

from edgekd.errors import UsageError
from edgekd.latency.network import layers_of, spans_of
from edgekd.layers import Layer
from edgekd.prune import depth, structured, widths
from edgekd.prune.groups import Prunable, rebuild
from edgekd.prune.importance import Samples
from edgekd.prune.widths import Budget
from edgekd.prune.wiring import Width, Wire

EXAMPLE = torch.from_numpy(inputs(1))
X = inputs(16, seed=7)
SAMPLES = Samples(torch.from_numpy(X), None, [slice(0, CLASSES)])
BLOCKS = prune_config("latency_ms", keep=0.5, remove_blocks=True)


def flat_clock(layer):
    """A kernel that takes the same time at every width."""
    return 1.0


class Twice(nn.Module):
    """Two blocks in a row, one that is run twice, one that adds something else, one that halves the image."""

    def __init__(self):
        super().__init__()
        net = tiny_resnet(4, (3, 1))
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.pair, self.again = net.blocks[:2], net.blocks[2]
        self.other = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), AddsOne())
        self.halves = net.blocks[3]
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.pair(self.stem(x))
        x = self.halves(self.other(self.again(self.again(x))))
        return self.head(x.mean((2, 3)))


class AddsOne(nn.Module):
    """A sum in which the input has no part."""

    def forward(self, x):
        return x.relu() + torch.ones_like(x)


class Plain(nn.Module):
    """A stem, one block, a head; what stands around the block is for subclasses to say."""

    def __init__(self, block):
        super().__init__()
        self.stem, self.block = nn.Conv2d(2, 4, 3, padding=1), block
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.block(self.stem(x).relu()).mean((2, 3)))


class Inner(nn.Module):
    """x + conv(relu(conv(x))), with more as it is asked for."""

    def __init__(self, inplace=False, pools=False):
        super().__init__()
        self.a, self.b = (nn.Conv2d(4, 4, 3, padding=1) for _ in "ab")
        self.inplace, self.pools = inplace, pools

    def forward(self, x):
        y = self.b(self.a(x).relu())
        if self.inplace:
            x += y
            return x
        return (x + y)[:, :, ::2, ::2] if self.pools else x + y


class ReluAfter(Plain):
    """What comes behind the block could not stand behind what comes before it, for a latency table."""

    def forward(self, x):
        return self.head(self.block(self.stem(x).relu()).relu().mean((2, 3)))


class Asks(Plain):
    """Its forward looks into the block."""

    def forward(self, x):
        x = self.block(self.stem(x).relu())
        return self.head(x.mean((3, 2) if self.block.inplace else (2, 3)))


class TwoNames(Plain):
    """The block goes by two names."""

    def __init__(self, block):
        super().__init__(block)
        self.layers = nn.ModuleList([block])

    def forward(self, x):
        return self.head(self.layers[0](self.stem(x).relu()).mean((2, 3)))


@pytest.mark.parametrize(
    ("net", "blocks"),
    [
        (lambda: Plain(Inner()), ["block"]),
        (lambda: Plain(Inner(inplace=True)), ["block"]),
        (lambda: Plain(Inner(pools=True)), []),
        (lambda: ReluAfter(Inner()), []),
        (lambda: Asks(Inner()), []),
        (lambda: TwoNames(Inner()), []),
    ],
)
def test_only_blocks_that_nothing_else_hangs_on_are_chosen_from(net, blocks):
    torch.manual_seed(0)
    net = net().eval()
    assert depth.removable(net, EXAMPLE) in ([], ["block"])
    if not blocks and isinstance(net.block, Inner) and net.block.pools:
        assert depth.removable(net, EXAMPLE) == []
    else:
        assert structured._blocks(net, EXAMPLE, BLOCKS) == blocks
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("inplace", [False, True])
def test_what_is_lost_without_a_block_is_known_however_it_adds(inplace):
    torch.manual_seed(0)
    net = Plain(Inner(inplace)).eval()
    found = Prunable(net, EXAMPLE, BLOCKS, SAMPLES)
    candidates = [*([w] for w in found.widths), [0, 1]]
    *_, lost = structured._losses(found, ["block"], candidates, SAMPLES)
    without = copy.deepcopy(net)
    without.block = nn.Identity()
    p, q = (softmax(outputs(n, X).astype(np.float64), axis=1) for n in (net, without))
    np.testing.assert_allclose(lost, [(p * np.log(p / q)).sum(axis=1).mean(), 0], rtol=1e-3, atol=1e-7)
    assert lost[0] > 1e-4


@pytest.mark.parametrize(
    "names",
    [
        {"ignored_layers": ["blocks.1.conv1"]},
        {"ignored_layers": ["blocks.1"]},
        {"losses": [{"kind": "mse", "student_layer": "blocks.1.conv2", "teacher_layer": "x"}]},
    ],
)
def test_a_block_with_a_layer_that_the_recipe_names_stays(names):
    config = prune_config("latency_ms", keep=0.5, remove_blocks=True, **names)
    net = tiny_resnet(8, (3, 1))
    assert structured._blocks(net, EXAMPLE, BLOCKS) == ["blocks.0", "blocks.1", "blocks.2"]
    assert structured._blocks(net, EXAMPLE, config) == ["blocks.0", "blocks.2"]


def test_channels_are_cut_again_before_their_block_goes():
    net = tiny_resnet(8, (2, 1))
    found = Prunable(net, EXAMPLE, BLOCKS, SAMPLES)
    for i in range(len(found.groups)):
        found.narrow(i, found.widths[i] // 2)
    taken = found.cut(["blocks.0"])
    again = rebuild(net, EXAMPLE, [taken])
    assert layers_of(again, EXAMPLE) == layers_of(found.net, EXAMPLE)
    assert isinstance(again.blocks[0], nn.Identity) and again.stem.out_channels == 4


@pytest.mark.parametrize(
    ("net", "found"),
    [
        (lambda: tiny_resnet(8, (2, 2)), ["blocks.0", "blocks.1", "blocks.3"]),
        (lambda: tiny_mobilenet(8, (1, 2)), ["features.3", "features.5"]),
        (flat, []),
        (Twice, ["pair.0", "pair.1"]),
    ],
)
def test_what_can_be_taken_out_is_known(net, found):
    net = net().eval()
    assert depth.removable(net, EXAMPLE) == found
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_the_layers_of_a_block_are_those_that_go_with_it():
    net = tiny_resnet(8, (2, 2))
    layers, paths = layers_of(net, EXAMPLE), ["blocks.3", "blocks.0"]
    for path, span in zip(paths, spans_of(net, EXAMPLE, paths), strict=True):
        without = copy.deepcopy(net)
        depth.remove(without, [path])
        assert len(span) == 3  # two convolutions and the sum
        assert layers_of(without, EXAMPLE) == layers[: span.start] + layers[span.stop :]


def test_where_only_depth_costs_only_a_block_can_go_and_it_is_the_one_that_matters_least():
    net = tiny_resnet(8, (3, 1))
    with torch.no_grad():
        net.blocks[1].bn2.weight *= 0.01  # hardly anything is added to what comes in
        net.blocks[1].bn2.bias *= 0.01
    before = copy.deepcopy(net.state_dict())
    limit = len(layers_of(net, EXAMPLE)) - 3
    settings = {"budgets": [Budget("time", flat_clock, limit)], "samples": SAMPLES, "seed": 0}
    with pytest.raises(UsageError, match="nothing in ResNet can be pruned that any width would make cheaper"):
        structured.prune_by_price(net, EXAMPLE, prune_config("latency_ms", keep=0.5), **settings)
    cut, taken = structured.prune_by_price(net, EXAMPLE, BLOCKS, **settings)
    assert taken == {"channels": [], "blocks": ["blocks.1"]}
    by_hand = copy.deepcopy(net)
    by_hand.blocks = nn.Sequential(net.blocks[0], net.blocks[2], net.blocks[3])
    np.testing.assert_array_equal(outputs(cut, X), outputs(by_hand, X))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_blocks_and_widths_go_together_and_are_rebuilt_over_rounds():
    net = now = tiny_resnet(16, (3, 1))
    price = lambda layer: 50 + layer.out_channels  # noqa: E731
    rounds, whole = [], sum(map(price, layers_of(net, EXAMPLE)))
    for share in (0.75, 0.5):
        now, taken = structured.prune_by_price(
            now, EXAMPLE, BLOCKS, budgets=[Budget("time", price, share * whole)], samples=SAMPLES, seed=0
        )
        assert sum(map(price, layers_of(now, EXAMPLE))) <= share * whole * (1 + 1e-6)
        rounds.append(taken)
    assert any(taken["blocks"] for taken in rounds) and any(taken["channels"] for taken in rounds)
    again = rebuild(tiny_resnet(16, (3, 1), seed=5), EXAMPLE, rounds)
    again.load_state_dict(now.state_dict())
    np.testing.assert_allclose(outputs(again, X), outputs(now, X), atol=1e-6)


def test_what_a_block_loses_is_how_far_the_answers_move_without_it():
    net = tiny_resnet(8, (2, 1))
    found = Prunable(net, EXAMPLE, BLOCKS, SAMPLES)
    candidates = [*([w] for w in found.widths), [0, 1]]
    *_, lost = structured._losses(found, ["blocks.1"], candidates, SAMPLES)
    without = copy.deepcopy(net)
    without.blocks[1] = nn.Identity()
    p, q = (softmax(outputs(n, X).astype(np.float64), axis=1) for n in (net, without))
    np.testing.assert_allclose(lost, [(p * np.log(p / q)).sum(axis=1).mean(), 0], rtol=1e-4, atol=1e-7)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.05, 1.0))
def test_the_choice_with_blocks_is_the_best_of_all(seed, share):
    """Groups 0 and 1 have widths; 2 and 3 are blocks, one within the other."""
    rng = np.random.default_rng(seed)
    costs = rng.uniform(1, 5, 4)
    narrow, inside = Width(0, ((0, 1),)), Width(0, ((1, 1),))
    wires = [
        Wire(Layer("conv", 1, 1, 1, 1), narrow, narrow),
        Wire(Layer("conv", 2, 2, 1, 1), narrow, inside, switches=(2,)),
        Wire(Layer("conv", 3, 3, 1, 1), inside, narrow, switches=(2, 3)),
        Wire(Layer("linear", 4, 4, 7, 5), Width(7), Width(5), switches=(3,)),
    ]
    price = lambda layer: costs[layer.height - 1] * layer.in_channels * layer.out_channels  # noqa: E731
    candidates = [[2, 5, 7], [3, 4, 9], [0, 1], [0, 1]]
    losses = [np.sort(rng.random(len(c)))[::-1] for c in candidates]

    def cost(a, b, outer, inner):
        first, last = costs[0] * a * a, costs[3] * 35 * inner
        return first + costs[1] * a * b * outer + costs[2] * a * b * outer * inner + last

    budget = share * cost(7, 9, 1, 1)
    fitting = [
        sum(loss[i] for loss, i in zip(losses, choice, strict=True))
        for choice in itertools.product(*(range(len(c)) for c in candidates))
        if cost(*(c[i] for c, i in zip(candidates, choice, strict=True))) <= budget
    ]
    if not fitting:
        with pytest.raises(widths.OutOfReach):
            widths.choose(wires, candidates, losses, [Budget("time", price, budget)])
        return
    chosen = widths.choose(wires, candidates, losses, [Budget("time", price, budget)])
    lost = sum(loss[c.index(w)] for loss, c, w in zip(losses, candidates, chosen, strict=True))
    assert cost(*chosen) <= budget * (1 + 1e-6)
    assert lost <= min(fitting) * (1 + 2 * widths.GAP) + 1e-9


def test_blocks_are_counted_by_the_clock_only():
    with pytest.raises(ValidationError, match="remove_blocks goes with goal = \"latency_ms\", not 'macs'"):
        prune_config("macs", keep=0.5, remove_blocks=True)
