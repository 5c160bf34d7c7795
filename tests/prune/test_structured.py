import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from nets import (
    Flat,
    flat,
    inputs,
    outputs,
    policy,
    prune_config,
    run_python,
    samples,
    tiny_mobilenet,
    tiny_resnet,
    write,
)
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from edgekd.errors import UsageError
from edgekd.models import keras as keras_net
from edgekd.prune import structured
from edgekd.prune.groups import Prunable, channels_of, rebuild
from edgekd.prune.structured import count, prune
from edgekd.quantize import qat
from edgekd.quantize.schemes import lower

EXAMPLE = torch.from_numpy(inputs(1))
NETS = {"resnet": lambda: tiny_resnet(16), "mobilenet": lambda: tiny_mobilenet(16), "flat": flat}


def cut(net, config, multiple=4, width=4, seed=0, first=None):
    limit = config.limit or costs(net, width)[config.goal] * config.keep
    return prune(
        net,
        EXAMPLE,
        config,
        limit=math.floor(limit),
        channel_multiple=multiple,
        bytes_per_weight=width,
        samples=samples(),
        seed=seed,
        first=first,
    )


def at_ratio(net, config, ratio, multiple):
    return structured._cut(Prunable(net, EXAMPLE, config, samples()), ratio, multiple)[0]


def costs(net, width=4):
    macs, params = count(net, EXAMPLE)
    # As each layer lies in a file: its weights, and 32 bits for each bias, which has taken the norm in.
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    size = sum(m.weight.numel() * width + 4 * len(m.weight) for m in layers)
    return {"macs": macs, "params": params, "size_bytes": size}


def widths(net):
    return {n: m.weight.shape[0] for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def macs_by_hand(net):
    """Outputs times what each is summed over: 8x8 images in the first stage, 4x4 in the second."""
    total = 0
    for name, m in net.named_modules():
        if isinstance(m, nn.Linear):
            total += m.out_features * m.in_features
        elif isinstance(m, nn.Conv2d):
            second = name.startswith("blocks.1")
            pixels = 16 if second else 64
            total += (
                pixels * m.out_channels * (m.in_channels // m.groups) * m.kernel_size[0] * m.kernel_size[1]
            )
    return total


def test_macs_of_a_resnet_by_hand():
    # width 16, 8x8 images of 2 channels, blocks (1, 1):
    stem, first = 64 * 16 * 2 * 9, 2 * 64 * 16 * 16 * 9
    second = 16 * 32 * 16 * 9 + 16 * 32 * 32 * 9 + 16 * 32 * 16
    assert count(tiny_resnet(16), EXAMPLE)[0] == stem + first + second + 32 * 5
    assert macs_by_hand(tiny_resnet(16)) == stem + first + second + 32 * 5


def test_macs_of_a_depthwise_network_by_hand():
    # Stem, one block 8 -> 8 expanded to 16 on 8x8 pixels, 1x1 to 32, head.
    net = tiny_mobilenet(8, blocks=(1,), expand=2)
    block = 64 * (16 * 8 + 16 * 9 + 8 * 16)
    assert count(net, EXAMPLE)[0] == 64 * 8 * 2 * 9 + block + 64 * 32 * 8 + 32 * 5


def test_params_by_hand():
    # conv 2 -> 16 with bias, fc 1024 -> 24, head 24 -> 5
    assert count(flat(), EXAMPLE) == (64 * 16 * 18 + 1024 * 24 + 24 * 5, 16 * 19 + 1025 * 24 + 25 * 5)


def test_counting_leaves_the_network_alone():
    net = tiny_resnet().train()
    before = copy.deepcopy(net.state_dict())
    assert count(net, EXAMPLE) == count(net.eval(), EXAMPLE)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(("goal", "multiple"), [("macs", 1), ("params", 4), ("size_bytes", 8)])
def test_goals_are_met_tightly_in_whole_multiples(kind, goal, multiple):
    net = NETS[kind]()
    config = prune_config(goal, keep=0.6)
    limit = math.floor(costs(net, 2)[goal] * 0.6)
    pruned, history = cut(net, config, multiple, width=2)
    found = costs(pruned, 2)[goal]
    assert found <= limit
    assert history["channels"]
    before, after = widths(net), widths(pruned)
    for name, width in after.items():
        assert width % multiple == 0 or width == before[name], name
        assert width >= 0.3 * before[name], name  # max_pruning_ratio is 0.7
    assert after["head"] == 5
    # Nothing wider would do: none of the cuts on a finer grid lies between.
    between = []
    for step in range(1, 13):
        other = at_ratio(net, config, step / 13, multiple)
        between.append(found < costs(other, 2)[goal] <= limit)
    assert not any(between)
    assert outputs(pruned, inputs(3)).shape == (3, 5)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(("multiple", "most"), [(1, 0.7), (3, 0.7), (8, 0.3), (8, 0.7)])
def test_a_higher_ratio_never_gives_a_costlier_network(kind, multiple, most):
    net, config = NETS[kind](), prune_config(keep=0.5, max_pruning_ratio=most)
    found = [count(at_ratio(net, config, r / 5, multiple), EXAMPLE) for r in range(6)]
    assert found == sorted(found, reverse=True)
    assert found[0] == count(net, EXAMPLE)


@pytest.mark.parametrize(
    ("scope", "left"),
    [
        # 28 of 112 channels go: all that may of the first block's inner ones, the rest of the second's.
        ("global", [16, 32, 5, 5, 32]),
        ("layer", [12, 24, 12, 12, 24]),
        # A quarter of the stem and of the second stage; of the 64 inner ones the 16 smallest.
        ("isomorphic", [12, 24, 5, 16, 32]),
    ],
)
def test_channels_are_ranked_with_those_of_the_scope(scope, left):
    found = Prunable(tiny_resnet(16, (2, 1)), EXAMPLE, prune_config(keep=0.5), samples())
    made = ["stem", "blocks.2.conv2", "blocks.0.conv1", "blocks.1.conv1", "blocks.2.conv1"]
    makes = [{found._paths.get(d.target.module): d.handler for d, _ in g.members} for g in found.groups]
    cut = makes[0][next(p for p in makes[0] if p in made)]  # Torch-Pruning's cut of what a convolution gives
    (*places,) = (next(i for i, m in enumerate(makes) if m.get(path) == cut) for path in made)
    for place, low in zip(places, (30.0, 40.0, 0.0, 1.0, 50.0), strict=True):
        scores = low + torch.rand(found.widths[place]) / 2
        found.groups[place] = dataclasses.replace(found.groups[place], scores=scores)
    after = widths(structured._cut(found, 0.25, 1, scope)[0])
    assert [after[path] for path in made] == left


def test_a_scope_goes_with_goals_that_are_counted():
    with pytest.raises(ValidationError, match=r"prune.scope = 'layer' goes with goals that are counted"):
        prune_config("latency_ms", keep=0.5, scope="layer")


def test_the_smallest_network_has_every_group_at_its_limit():
    # 30% of 16 and of 24 are 4.8 and 7.2: rounded up to multiples of 4
    smallest = at_ratio(flat(), prune_config(keep=0.5), 1.0, 4)
    assert widths(smallest) == {"conv": 8, "fc": 8, "head": 5}
    assert smallest.fc.in_features == 8 * 64
    # 5% of 16 and of 24 are 0.8 and 1.2, and two are the least
    config = prune_config(keep=0.5, max_pruning_ratio=0.95)
    assert widths(at_ratio(flat(), config, 1.0, 1)) == {
        "conv": 2,
        "fc": 2,
        "head": 5,
    }


def test_limits_are_absolute():
    net = tiny_resnet(16)
    pruned, _ = cut(net, prune_config("params", limit=9000))
    assert 7000 < count(pruned, EXAMPLE)[1] <= 9000


@pytest.mark.parametrize("width", [1, 2, 4])
def test_bytes_per_weight_scale_the_size(width):
    net = tiny_resnet(16)
    size = costs(net, width)["size_bytes"]
    cut_to, _ = cut(net, prune_config("size_bytes", limit=size // 2), width=width)
    assert 0.4 * size < costs(cut_to, width)["size_bytes"] <= size // 2


def test_a_file_is_of_the_size_that_was_asked_for(tmp_path):
    """But for its graph and its scales."""
    pruned, _ = cut(tiny_resnet(64), prune_config("size_bytes", limit=60_000), width=1)
    quantized = qat.prepare(pruned, inputs(48), policy())
    write(lower(quantized, EXAMPLE, "signed", "tflite"), tmp_path / "m.tflite", "tflite", "static_wi8_ai8")
    assert 60_000 < (tmp_path / "m.tflite").stat().st_size < 75_000


@pytest.mark.parametrize("kind", NETS)
def test_the_source_is_not_touched(kind):
    net = NETS[kind]()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    expected = outputs(net, inputs(4))
    pruned, _ = cut(net, prune_config(keep=0.5))
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert (outputs(net, inputs(4)) == expected).all()
    assert not any(m._forward_hooks for m in [*net.modules(), *pruned.modules()])


def two_layers(weights):
    """1x1 convolutions 2 -> 4 -> 5 whose middle channels have the given size."""
    net = Flat(channels=4, hidden=8)
    with torch.no_grad():
        net.conv.weight.copy_(torch.tensor(weights).reshape(4, 1, 1, 1).expand_as(net.conv.weight))
        net.conv.bias.zero_()
        net.fc.weight.fill_(1.0)
        net.head.weight.fill_(100.0)  # so that nothing else is cut
    return net.eval()


@pytest.mark.parametrize("importance", ["l1", "l2"])
def test_the_smallest_channels_go(importance):
    net = two_layers([0.5, 0.01, 0.7, 0.02])
    config = prune_config("macs", keep=0.55, importance=importance, ignored_layers=["fc"])
    pruned, _ = cut(net, config, multiple=2)
    assert pruned.conv.weight[:, 0, 0, 0].tolist() == pytest.approx([0.5, 0.7])
    # and the columns of the linear layer that the channels fed went with them
    assert pruned.fc.weight.shape == (8, 2 * 64)


def test_cutting_dead_channels_changes_nothing():
    net = flat()
    with torch.no_grad():
        net.conv.weight[[1, 4, 6, 7]] = 0.0
        net.conv.bias[[1, 4, 6, 7]] = 0.0
        net.fc.weight.view(24, 16, 64)[:, [1, 4, 6, 7]] = 0.0
    pruned, _ = cut(net, prune_config("macs", keep=0.8, ignored_layers=["fc"]), multiple=4)
    assert widths(pruned) == {"conv": 12, "fc": 24, "head": 5}
    torch.testing.assert_close(
        torch.tensor(outputs(pruned, inputs(6))), torch.tensor(outputs(net, inputs(6)))
    )


def test_random_importance_follows_the_seed():
    net, config = tiny_resnet(16), prune_config(keep=0.5, importance="random")
    first, second, other = (cut(net, config, 1, seed=s)[1] for s in (0, 0, 1))
    assert first == second
    assert first != other


def test_ignored_layers_keep_their_width():
    pruned, _ = cut(
        tiny_resnet(16), prune_config(keep=0.8, ignored_layers=["blocks.0.conv1", "blocks.1.conv1"])
    )
    found = widths(pruned)
    assert (found["blocks.0.conv1"], found["blocks.1.conv1"]) == (16, 32)
    assert found["stem"] < 16 or found["blocks.1.conv2"] < 32


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("fc2", r"no layer 'fc2' \(did you mean 'fc'\?\)"),
        ("xyz", r"no layer 'xyz' \(layers: conv, fc, head\)"),
        ("relu", r"no convolution or linear layer in 'relu'"),
    ],
)
def test_a_path_without_a_layer_is_refused(path, shown):
    net = flat()
    net.relu = nn.ReLU()
    with pytest.raises(UsageError, match=shown):
        cut(net, prune_config(keep=0.5, ignored_layers=[path]))


def test_all_layers_of_a_named_block_keep_their_width():
    config = prune_config(keep=0.9, ignored_layers=["blocks.0", "blocks.1.conv1"])
    pruned, whole = channels_of(cut(tiny_resnet(16), config)[0]), channels_of(tiny_resnet(16))
    # The stem goes with the block's output, the last block's output is free.
    assert {path for path in whole if pruned[path] < whole[path]} == {"blocks.1.conv2", "blocks.1.shortcut.0"}


def test_what_stays_whole_is_named():
    """Of 16 channels at least 5 stay, of 24 at least 8."""
    config, whole = prune_config(keep=0.8), structured.left_whole
    assert whole(flat(), EXAMPLE, config, channel_multiple=8, samples=samples()) == []
    assert whole(flat(), EXAMPLE, config, channel_multiple=16, samples=samples()) == [
        "conv: of 16 channels at least 5 stay, and no multiple of 16 lies between"
    ]
    found = whole(Broken(), EXAMPLE, config, channel_multiple=1, samples=samples())
    assert found == ["conv: no gradient comes to it from the outputs"]


def test_nothing_to_prune():
    with pytest.raises(UsageError, match="nothing in Flat can be pruned to multiples of 64"):
        cut(flat(), prune_config(keep=0.5), multiple=64)


def test_a_goal_out_of_reach_tells_the_smallest_network():
    # conv 16 -> 8 and fc 24 -> 8: 64*8*18 + 512*8 + 8*5
    with pytest.raises(UsageError, match=r"macs = 431 is out of reach: the smallest network has 13,352"):
        cut(flat(), prune_config(keep=0.01))


def test_what_may_go_is_a_share_of_the_widths_before_the_first_round():
    config = prune_config("macs", keep=0.5)
    first = channels_of(flat())
    assert first == {"conv": 16, "fc": 24, "head": 5}
    half, _ = cut(flat(), config, multiple=1)
    assert widths(half)["conv"] < 16 and widths(half)["fc"] < 24
    # 30% of 16 and of 24 channels, rounded up
    least = structured._cut(Prunable(half, EXAMPLE, config, samples(), first), 1.0, 1)[0]
    assert widths(least) == {"conv": 5, "fc": 8, "head": 5}


class Mixed(nn.Module):
    """Groups that would change their kind: of one channel in each group, or of one channel in all."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.point = nn.Conv2d(16, 4, 1)
        self.depth = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.point(self.grouped(self.stem(x).relu()).relu()).relu()
        return self.head(self.depth(x).relu().mean((2, 3)))


@pytest.mark.parametrize("net", [*NETS.values(), lambda: Mixed().eval()])
def test_rounds_together_make_the_network_again(net):
    config, first, whole = prune_config("macs", keep=0.5), channels_of(net()), costs(net())["macs"]
    now, rounds = net(), []
    for share in (0.85, 0.7, 0.6):
        now, history = cut(now, prune_config("macs", limit=whole * share), multiple=1, first=first)
        rounds.append(history)
        assert costs(now)["macs"] <= whole * share
    assert all(width >= min(2, 0.3 * first[name]) for name, width in channels_of(now).items())
    again = rebuild(net(), EXAMPLE, rounds)
    again.load_state_dict(now.state_dict())
    np.testing.assert_array_equal(outputs(again, inputs(9)), outputs(now, inputs(9)))
    smallest = structured._cut(Prunable(now, EXAMPLE, config, samples(), first), 1.0, 1)[0]
    for name, width in channels_of(smallest).items():
        assert width >= 0.3 * first[name] and (width >= 2 or first[name] < 2)


FRESH = """
import sys, json, numpy as np, torch
from safetensors.torch import load_file
import nets
from edgekd.prune.groups import rebuild
folder = sys.argv[1]
for kind, net in {"resnet": nets.tiny_resnet(16, seed=7), "mobilenet": nets.tiny_mobilenet(16, seed=7),
                  "flat": nets.flat(7)}.items():
    net = rebuild(net, torch.from_numpy(nets.inputs(1)), json.load(open(f"{folder}/{kind}.json")))
    net.load_state_dict(load_file(f"{folder}/{kind}.safetensors"))
    np.save(f"{folder}/{kind}.npy", nets.outputs(net, nets.inputs(9, 5)))
"""


def test_a_fresh_process_rebuilds_the_very_same_network(tmp_path):
    expected = {}
    for kind, make in NETS.items():
        # Pruned twice, as a recipe may prune what was pruned before: the histories go on.
        net = make()
        once, first = cut(net, prune_config(keep=0.8))
        twice, second = cut(once, prune_config(keep=0.7), multiple=2)
        assert count(twice, EXAMPLE)[0] < count(once, EXAMPLE)[0] < count(net, EXAMPLE)[0]
        (tmp_path / f"{kind}.json").write_text(json.dumps([first, second]))
        save_file(twice.state_dict(), tmp_path / f"{kind}.safetensors")
        expected[kind] = outputs(twice, inputs(9, 5))
    run_python(FRESH, tmp_path)
    for kind, values in expected.items():
        assert (np.load(tmp_path / f"{kind}.npy") == values).all(), kind


def test_rebuilding_leaves_the_source_alone():
    net = tiny_resnet(16)
    _, history = cut(net, prune_config(keep=0.5))
    before = widths(net)
    rebuilt = rebuild(net, EXAMPLE, [history])
    assert widths(net) == before
    assert widths(rebuilt) != before


class Grouped(nn.Module):
    """A convolution in two groups: both groups stay of one size."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("multiple", [1, 2, 4])
def test_grouped_convolutions_stay_whole(multiple):
    torch.manual_seed(0)
    net = Grouped().eval()
    pruned, _ = cut(net, prune_config(keep=0.7), multiple)
    assert count(pruned, EXAMPLE)[0] <= 0.7 * count(net, EXAMPLE)[0]
    for layer in (pruned.first, pruned.second):
        assert layer.out_channels % multiple == 0
        assert layer.out_channels >= 0.3 * 16
    assert pruned.second.groups == 2
    assert outputs(pruned, inputs(2)).shape == (2, 5)


def test_frozen_networks_are_cut_like_others():
    net = flat()
    expected, _ = cut(net, prune_config(keep=0.5))
    for p in net.parameters():
        p.requires_grad_(False)
    assert widths(cut(net, prune_config(keep=0.5))[0]) == widths(expected)


class Broken(nn.Module):
    """Between its layers gradients end."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)).detach())


def test_a_network_that_cannot_be_followed_says_where():
    with pytest.raises(UsageError, match=r"no gradient comes from its outputs to conv: a detach"):
        cut(Broken().eval(), prune_config(keep=0.5))


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
def test_keras_layers_are_not_passed_over_without_a_word(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    layers = keras.layers
    net = keras.Sequential([keras.Input((8, 8, 2)), layers.Conv2D(16, 3), layers.Flatten(), layers.Dense(5)])
    net.save(tmp_path / "a.keras")
    module = keras_net.build((2, 8, 8), 5, str(tmp_path / "a.keras")).eval()
    with pytest.raises(UsageError, match=r"nothing in KerasNet can be pruned.*Keras layers cannot be pruned"):
        cut(module, prune_config(keep=0.5))


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
def test_the_native_form_of_a_keras_file_is_pruned(monkeypatch, tmp_path):
    """What is left computes what Keras does with the channels that went set to zero."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    layers = keras.layers
    body = [layers.Conv2D(16, 3, activation="relu"), layers.Flatten(), layers.Dense(5)]
    net = keras.Sequential([keras.Input((8, 8, 2)), *body])
    net.save(tmp_path / "a.keras")
    module = keras_net.build((2, 8, 8), 5, str(tmp_path / "a.keras"), native=True).eval()
    pruned, _ = cut(module, prune_config(keep=0.5))
    conv, dense = (m for m in pruned.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert conv.weight.shape == (8, 2, 3, 3) and dense.weight.shape == (5, 8 * 6 * 6)
    kernel, bias = body[0].get_weights()
    ours = conv.weight.detach().numpy().transpose(2, 3, 1, 0)
    stays = [any(np.array_equal(kernel[..., c], ours[..., k]) for k in range(8)) for c in range(16)]
    assert sum(stays) == 8
    body[0].set_weights([kernel * stays, bias * stays])
    x = inputs(6)
    with torch.no_grad():
        expected = net(torch.from_numpy(x.transpose(0, 2, 3, 1))).numpy()
    np.testing.assert_allclose(outputs(pruned, x), expected, rtol=1e-4, atol=1e-5)
