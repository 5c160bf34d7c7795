"""Which quantizers belong to a layer, what a layer costs, and which stay in float."""

import copy
import itertools

import numpy as np
import pytest
import torch
from nets import CLASSES, gates, inputs, outputs, policy, run_onnx, run_tflite, tiny_resnet, write
from torch import nn

from edgekd.errors import TrainingError, UsageError
from edgekd.measure.inventory import inventory_of
from edgekd.quantize import mixed, qat
from edgekd.quantize.schemes import fold_batch_norm, lower

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


@pytest.fixture(scope="module")
def branches():
    torch.manual_seed(3)
    source = Branches().eval()
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
def test_the_fewest_layers_are_those_that_are_needed(needed):
    tried = []

    def fits(chosen):
        tried.append(tuple(chosen))
        return set(needed) <= set(chosen)

    for ranked in itertools.permutations("abcd"):
        found = mixed.fewest(ranked, dict.fromkeys("abcd", 1), fits)
        assert sorted(found) == sorted(needed)


def test_of_two_layers_that_would_do_the_one_with_less_work_stays_in_float():
    found = mixed.fewest("xab", {"x": 1, "a": 9, "b": 5}, lambda c: {"a", "b"} & set(c) and len(c) > 0)
    assert found == ["a"]  # the first that is enough: b was never needed
    found = mixed.fewest("abx", {"x": 1, "a": 9, "b": 5}, lambda c: "x" in c)
    assert found == ["x"]


def test_where_nothing_is_enough_it_is_said():
    assert mixed.fewest("ab", {"a": 1, "b": 1}, lambda _: False) is None


@pytest.mark.parametrize(("format", "activations"), [("onnx", "unsigned"), ("tflite", "signed")])
def test_a_file_has_the_chosen_layers_in_float_and_computes_the_same(tmp_path, format, activations):
    net = qat.prepare(gates(), inputs(48), policy())
    kept = mixed.in_float(net, EXAMPLE, ["convs.2", "convs.3"])
    again = qat.rebuild(gates(), qat.describe(kept))
    again.load_state_dict(kept.state_dict())
    np.testing.assert_array_equal(outputs(again, inputs(16, 9)), outputs(kept, inputs(16, 9)))
    low = lower(again, EXAMPLE, activations, format)
    path = tmp_path / f"model.{format}"
    write(low, path, format, "static_wi8_ai8")
    floats = [o for o in inventory_of(path, format).operators if "conv" in o.op_type.lower()]
    floats = [o for o in floats if o.dtype == "float32"]
    assert len(floats) == 2
    run = {"onnx": run_onnx, "tflite": run_tflite}[format]
    step = float(net.output.scale)
    assert np.abs(run(path, inputs(64, 9)) - outputs(low, inputs(64, 9))).max() <= 1.01 * step
