"""Which quantizers belong to a layer, what a layer costs, and which stay in float."""

import copy
import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import (
    CLASSES,
    flat,
    gates,
    inputs,
    outputs,
    policy,
    run_onnx,
    run_tflite,
    tiny_mobilenet,
    tiny_resnet,
    write,
)
from torch import nn

from edgekd.errors import TrainingError, UsageError
from edgekd.folding import fold_batch_norm
from edgekd.measure.inventory import inventory_of
from edgekd.quantize import mixed, qat
from edgekd.quantize.schemes import lower
from edgekd.runtimes import open_session

EXAMPLE = torch.from_numpy(inputs(1))


@pytest.fixture(scope="module")
def resnet():
    """(float network with its BatchNorms folded, the quantized one)."""
    source = tiny_resnet()
    return fold_batch_norm(source), qat.prepare(source, inputs(48), policy())


def test_layers_are_the_modules_with_their_work(resnet):
    source, net = resnet
    seen = {}
    hooks = [
        m.register_forward_hook(lambda m, _, y, name=name: seen.update({name: y.shape[2:].numel()}))
        for name, m in source.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    outputs(source, inputs(1))
    for hook in hooks:
        hook.remove()
    found = mixed.layers(net, EXAMPLE)
    assert {layer.path: layer.macs for layer in found} == {
        name: source.get_parameter(f"{name}.weight").numel() * places for name, places in seen.items()
    }
    assert all(len(layer.quantizers) == 2 for layer in found)  # weights and input


def test_all_layers_in_float_but_for_input_and_output_are_the_float_network(resnet):
    source, net = resnet
    free = mixed.in_float(net, EXAMPLE, [layer.path for layer in mixed.layers(net, EXAMPLE)])
    left = [path for path, _ in qat.activation_quantizers(free.body)]
    assert left == ["__nncf_hooks.post_hooks.x__0.0"]
    x = inputs(32, 9)
    on_grid = free.body.get_submodule(left[0])(torch.from_numpy(x)).detach().numpy()
    # NNCF has shifted biases against what it saw quantization do: the expected network has them too.
    biases = {k: v for k, v in free.body.state_dict().items() if k.endswith("bias")}
    corrected = copy.deepcopy(source)
    corrected.load_state_dict(biases, strict=False)
    with torch.no_grad():
        found = free.body(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, outputs(corrected, on_grid), atol=1e-5)
    assert len(list(qat.activation_quantizers(net.body))) > 5  # the other one still has its quantizers


def test_between_two_float_layers_nothing_is_rounded_and_beside_them_all_is(resnet):
    _, net = resnet
    before = set(dict(qat.activation_quantizers(net.body)))

    def gone(*paths):
        copy = mixed.in_float(net, EXAMPLE, paths)
        return sorted(before - set(dict(qat.activation_quantizers(copy.body))))

    def place(name):
        return f"__nncf_hooks.post_hooks.{name}__0.0"

    assert gone("blocks.0.conv1") == gone("stem") == []  # an integer layer takes what they give
    # What flows from one to the other, and what goes into the sum; the block's output goes to integer layers.
    assert gone("blocks.0.conv1", "blocks.0.conv2") == [
        place("blocks/0/conv2/conv2d/0"),
        place("blocks/0/relu1/relu/0"),
    ]
    assert gone("blocks.1.shortcut.0") == [place("blocks/1/shortcut/0/conv2d/0")]


def test_a_layer_alone_is_the_float_network_with_its_two_roundings(resnet):
    """Worked out by hand for the last layer, which sees the mean of the image."""
    source, net = resnet
    labels = np.arange(32) % CLASSES
    x = torch.from_numpy(inputs(32, 9))
    found = {s.path: s for s in mixed.sensitivities(net, EXAMPLE, x, labels, slice(0, CLASSES))}
    of_head = next(layer for layer in mixed.layers(net, EXAMPLE) if layer.path == "head")
    quantizers = dict(net.body.named_modules())
    of_input, of_weights = (
        next(quantizers[q] for q in of_head.quantizers if part in q) for part in ("post_hooks", "pre_hooks")
    )
    low, width = of_input.input_low.item(), of_input.input_range.item()
    scale = of_weights.scale.detach()
    features = {}
    body = mixed.in_float(net, EXAMPLE, [layer.path for layer in mixed.layers(net, EXAMPLE)]).body
    hook = source.head.register_forward_pre_hook(lambda _, args: features.update(x=args[0]))
    outputs(source, x.numpy())
    hook.remove()
    head = body.head.requires_grad_(False)
    step = width / 255
    rounded = torch.round((features["x"].clamp(low, low + width) - low) / step) * step + low
    weights = torch.round(head.weight / scale * 127).clamp(-127, 127) * scale / 127
    whole = features["x"] @ head.weight.T + head.bias
    alone = rounded @ weights.T + head.bias
    expected = float(((alone - whole) ** 2).mean().sqrt() / (whole**2).mean().sqrt())
    assert found["head"].logit_error == pytest.approx(expected, rel=0.05)
    right = [(logits.argmax(1).numpy() == labels).mean() for logits in (whole, alone)]
    assert found["head"].drop_pp == pytest.approx(100 * (right[0] - right[1]), abs=3.2)  # one sample
    errors = [s.logit_error for s in found.values()]
    assert errors == sorted(errors, reverse=True)
    assert set(found) == {layer.path for layer in mixed.layers(net, EXAMPLE)}


def test_a_layer_with_a_spoilt_scale_is_the_costliest(resnet):
    _, net = resnet
    labels = np.zeros(32, np.int64)
    spoilt = mixed.in_float(net, EXAMPLE, ())
    layer = next(one for one in mixed.layers(spoilt, EXAMPLE) if one.path == "blocks.1.conv2")
    weights = next(q for q in layer.quantizers if "pre_hooks" in q)
    with torch.no_grad():
        spoilt.body.get_submodule(weights).scale.mul_(20)  # a handful of levels is left
    state = {k: v.clone() for k, v in spoilt.state_dict().items()}
    x = torch.from_numpy(inputs(32, 9))
    first = mixed.sensitivities(spoilt, EXAMPLE, x, labels, slice(0, CLASSES))[0]
    assert first.path == "blocks.1.conv2"
    assert all(torch.equal(v, state[k]) for k, v in spoilt.state_dict().items())


def test_an_unknown_layer_names_the_nearest(resnet):
    with pytest.raises(UsageError, match=r"float_layers: no layer 'blocks\.0\.conv3'.*'blocks\.0\.conv"):
        mixed.check_paths(tiny_resnet(), EXAMPLE, ["stem", "blocks.0.conv3"])
    mixed.check_paths(tiny_resnet(), EXAMPLE, [layer.path for layer in mixed.layers(resnet[1], EXAMPLE)])


class Branches(nn.Module):
    """A concatenation, a sum that starts at the input, a layer called twice, one made of a parameter."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((2, 4), (4, 4), (2, 2)))
        self.kernel = nn.Parameter(torch.randn(8, 10, 1, 1) / 3)
        self.twice, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = x + self.c(x).relu()
        y = nn.functional.silu(self.a(x))
        x = torch.cat([x, y, self.b(y)], dim=1)
        x = nn.functional.conv2d(x, self.kernel).relu()
        x = self.twice(self.twice(x)).relu()
        return self.head(x.mean((2, 3)))


def drawn_branches():
    torch.manual_seed(3)
    return Branches().eval()


class Moved(nn.Module):
    """Layers whose rounded inputs go through what vanishes from the file; one's weights are a buffer."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 8, 3, padding=1), nn.Linear(4, CLASSES)
        self.register_buffer("blur", torch.rand(4, 8, 3, 3) / 9)

    def forward(self, x):
        x = self.stem(x.to(self.blur.dtype).clone()).relu()
        return self.head(nn.functional.conv2d(x.detach(), self.blur).mean((2, 3)))


def moved():
    torch.manual_seed(4)
    return Moved().eval()


@pytest.fixture(scope="module")
def branches():
    source = drawn_branches()
    return source, qat.prepare(source, inputs(48), policy())


def test_layers_of_every_make_are_found(branches):
    source, net = branches
    found = {layer.path: layer.macs for layer in mixed.layers(net, EXAMPLE)}
    assert found == {
        "c": 64 * 2 * 2 * 9,
        "a": 64 * 4 * 2 * 9,
        "b": 64 * 4 * 4 * 9,
        "kernel": 64 * 8 * 10,
        "twice": 2 * 64 * 8 * 8,
        "head": 8 * CLASSES,
    }
    mixed.check_paths(source, EXAMPLE, found)


def test_with_all_layers_in_float_only_the_input_is_rounded_whatever_the_network(branches):
    source, net = branches
    free = mixed.in_float(net, EXAMPLE, [layer.path for layer in mixed.layers(net, EXAMPLE)])
    assert [path for path, _ in qat.activation_quantizers(free.body)] == ["__nncf_hooks.post_hooks.x__0.0"]
    # The input's rounding, the output's, and biases that NNCF shifted against what quantization did.
    error = np.abs(outputs(free, inputs(32, 9)) - outputs(source, inputs(32, 9))).max()
    assert error < 2 * float(free.output.scale)


@pytest.mark.parametrize("chosen", [["a"], ["a", "b"], ["a", "b", "kernel"], ["b", "twice"]])
def test_one_step_or_two_to_the_same_layers_give_the_same_network(branches, chosen):
    _, net = branches
    at_once = mixed.in_float(net, EXAMPLE, chosen)
    step = mixed.in_float(mixed.in_float(net, EXAMPLE, chosen[:1]), EXAMPLE, chosen)
    assert set(at_once.state_dict()) == set(step.state_dict())
    np.testing.assert_array_equal(outputs(at_once, inputs(8, 9)), outputs(step, inputs(8, 9)))
    again = qat.rebuild(branches[0], qat.describe(at_once))
    again.load_state_dict(at_once.state_dict())
    np.testing.assert_array_equal(outputs(again, inputs(8, 9)), outputs(at_once, inputs(8, 9)))


@pytest.mark.parametrize(("format", "activations"), [("onnx", "unsigned"), ("tflite", "signed")])
@pytest.mark.parametrize(
    ("network", "chosen"),
    [
        (tiny_resnet, ["blocks.1.conv2", "head"]),
        (drawn_branches, ["kernel"]),
        (flat, ["fc"]),
        (moved, ["blur"]),
    ],
)
def test_weights_in_16_bits_halve_what_layers_in_float_take(tmp_path, format, activations, network, chosen):
    kept = mixed.in_float(qat.prepare(network(), inputs(48), policy()), EXAMPLE, chosen)
    x, sizes = inputs(8, 9), []
    weights = {**dict(kept.body.named_parameters()), "blur": getattr(kept.body, "blur", torch.zeros(1))}
    before = {k: v.clone() for k, v in weights.items()}
    for rounded in (False, True):
        if rounded:
            mixed.round_to_halves(kept, chosen)
        low, path = lower(kept, EXAMPLE, activations, format), tmp_path / f"model.{format}"
        write(low, path, format, "static_wi8_ai8", halves=rounded)
        sizes.append(path.stat().st_size)
        run = {"onnx": run_onnx, "tflite": run_tflite}[format]
        answers = np.concatenate([run(path, x[i : i + 1]) for i in range(len(x))])
        assert np.abs(answers - outputs(low, x)).max() <= 1.01 * float(kept.output.scale)
    changed = {k: v for k, v in weights.items() if not torch.equal(v, before[k])}
    assert {k.removesuffix(".weight") for k in changed} == set(chosen)
    for name, weight in changed.items():  # to the nearest of 11 bits
        assert (weight - before[name]).abs().max() <= before[name].abs().max() / 2**11
    saved = 2 * sum(weight.numel() for weight in changed.values())
    assert 0.9 * saved - 300 < sizes[0] - sizes[1] <= saved  # an operator for each takes some bytes


def test_a_weight_that_16_bits_cannot_hold_is_told(resnet):
    kept = mixed.in_float(resnet[1], EXAMPLE, ["head"])
    with torch.no_grad():
        kept.body.head.weight[0, 0] = 70_000
    with pytest.raises(TrainingError, match="'head' has weights up to 70000, 16 bits hold 65504"):
        mixed.round_to_halves(kept, ["head"])


def test_logits_that_are_all_zero_have_no_sensitivities(resnet):
    _, net = resnet
    dead = mixed.in_float(net, EXAMPLE, ())
    with torch.no_grad():
        dead.body.head.weight.zero_()
        dead.body.head.bias.zero_()
    x, labels = torch.from_numpy(inputs(4)), np.zeros(4, np.int64)
    with pytest.raises(TrainingError, match="logits are 0 on the validation split"):
        mixed.sensitivities(dead, EXAMPLE, x, labels, slice(0, CLASSES))


@pytest.mark.parametrize("needed", [(), ("a",), ("b", "d"), ("a", "c"), ("a", "b", "c", "d")])
def test_no_layer_is_taken_that_is_not_needed(needed):
    for ranked in itertools.permutations("abcd"):
        errors = [(path, 4 - i) for i, path in enumerate(ranked)]
        found = mixed.cheapest(errors, dict.fromkeys("abcd", 1.0), lambda chosen: set(needed) <= set(chosen))
        assert sorted(found) == sorted(needed)


def test_many_cheap_layers_stand_for_a_costly_one_and_one_for_many():
    """a: error 3 at cost 10. b and c: error 2 each at cost 1. To mend: 3 or more."""
    errors = {"a": 3.0, "b": 2.0, "c": 2.0}
    fits = lambda chosen: sum(errors[path] for path in chosen) >= 3  # noqa: E731
    found = mixed.cheapest([*errors.items()], {"a": 10.0, "b": 1.0, "c": 1.0}, fits)
    assert sorted(found) == ["b", "c"]
    # For each unit of cost b and c mend more, and cost more together.
    found = mixed.cheapest([*errors.items()], {"a": 2.4, "b": 1.0, "c": 1.5}, fits)
    assert found == ["a"]


def test_what_is_faster_in_float_comes_first_and_goes_last():
    errors = {"a": 3.0, "b": 1.0}
    found = mixed.cheapest([*errors.items()], {"a": 1.0, "b": -0.5}, lambda chosen: len(chosen) > 0)
    assert found == ["b"]
    found = mixed.cheapest([*errors.items()], {"a": 1.0, "b": -0.5}, lambda chosen: "a" in chosen)
    assert sorted(found) == ["a", "b"]  # half a unit less than a alone


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.floats(0.1, 9), st.floats(-1, 9)), min_size=1),
    st.data(),
)
def test_what_is_found_is_enough_and_without_any_one_of_it_is_not(layers, data):
    """Where layers in float never do harm; whether they are enough is drawn once for all."""
    weights = {path: data.draw(st.integers(0, 3)) for path in layers}
    asked = data.draw(st.integers(0, sum(weights.values())))
    fits = lambda chosen: sum(weights[path] for path in chosen) >= asked  # noqa: E731
    found = mixed.cheapest(
        [(p, e) for p, (e, _) in layers.items()], {p: c for p, (_, c) in layers.items()}, fits
    )
    assert fits(found)
    dear = [path for path in found if layers[path][1] >= 0]
    assert not any(fits([other for other in found if other != path]) for path in dear)


@pytest.mark.parametrize(("format", "activations"), [("onnx", "unsigned"), ("tflite", "signed")])
@pytest.mark.parametrize(
    ("network", "chosen"),
    [
        (drawn_branches, []),
        (gates, ["convs.2", "convs.3"]),
        (gates, ["convs.1"]),
        (tiny_resnet, ["stem"]),
        (tiny_resnet, ["blocks.0.conv1", "blocks.1.shortcut.0"]),
        (tiny_resnet, ["blocks.1.conv2", "head"]),
        (tiny_mobilenet, ["features.3.body.3", "features.6"]),
        (flat, ["fc"]),
        (flat, ["conv", "head"]),
        (moved, ["stem"]),
        (moved, ["blur"]),
        (drawn_branches, ["kernel", "a"]),
        (drawn_branches, ["twice", "head"]),
    ],
)
def test_a_file_has_the_chosen_layers_in_float_and_computes_the_same(
    tmp_path, format, activations, network, chosen
):
    """Also one alone between integers, which runtimes would finish quantizing by scales of their own."""
    net = qat.prepare(network(), inputs(48), policy())
    kept = mixed.in_float(net, EXAMPLE, chosen)
    again = qat.rebuild(network(), qat.describe(kept))
    again.load_state_dict(kept.state_dict())
    np.testing.assert_array_equal(outputs(again, inputs(16, 9)), outputs(kept, inputs(16, 9)))
    low = lower(again, EXAMPLE, activations, format)
    path = tmp_path / f"model.{format}"
    write(low, path, format, "static_wi8_ai8")
    found = [
        o for o in inventory_of(path, format).operators if re.search("conv|gemm|fully", o.op_type.lower())
    ]
    calls = {layer.path: 2 if layer.path == "twice" else 1 for layer in mixed.layers(net, EXAMPLE)}
    assert len(found) == sum(calls.values())
    assert sum(o.dtype == "float32" for o in found) == sum(calls[path] for path in chosen)
    run = {"onnx": run_onnx, "tflite": run_tflite}[format]
    step = float(net.output.scale)
    x = inputs(24, 9)
    answers = np.concatenate([run(path, x[i : i + 1]) for i in range(len(x))])  # flattened, a batch is fixed
    assert np.abs(answers - outputs(low, x)).max() <= 1.01 * step
    if format == "tflite":  # as without a layer in float
        session = open_session("litert", path)
        assert session.inputs[0].dtype == session.outputs[0].dtype == "int8"
