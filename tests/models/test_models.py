import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import inputs, lively, outputs, tiny_mobilenet, tiny_resnet
from torch import nn

from edgekd import models
from edgekd.config import ModelConfig
from edgekd.errors import UsageError
from edgekd.models import mlp, mobilenet, resnet


def make(tiny_task, kind, seed=0, **options):
    return models.build(ModelConfig.model_validate({"kind": kind, **options}), tiny_task, seed)


def norm(x, m):
    scale = m.weight / torch.sqrt(m.running_var + 1e-5)
    return (x - m.running_mean[:, None, None]) * scale[:, None, None] + m.bias[:, None, None]


def residual(x, block, stride):
    y = norm(F.conv2d(x, block.conv1.weight, stride=stride, padding=1), block.bn1).clamp(min=0)
    y = norm(F.conv2d(y, block.conv2.weight, padding=1), block.bn2)
    if stride != 1:
        x = norm(F.conv2d(x, block.shortcut[0].weight, stride=stride), block.shortcut[1])
    return (x + y).clamp(min=0)


@torch.no_grad()
def test_resnet_written_out():
    net, x = tiny_resnet(4, blocks=(2, 1)), torch.from_numpy(inputs(3))
    y = norm(F.conv2d(x, net.stem.weight, padding=1), net.bn).clamp(min=0)
    for block, stride in zip(net.blocks, (1, 1, 2), strict=True):
        y = residual(y, block, stride)
    assert y.shape == (3, 8, 4, 4)
    expected = y.mean(dim=(2, 3)) @ net.head.weight.T + net.head.bias
    np.testing.assert_allclose(outputs(net, x), expected, atol=1e-5)


@torch.no_grad()
def test_mobilenet_written_out():
    net, x = tiny_mobilenet(4, blocks=(2, 1), expand=3), torch.from_numpy(inputs(3))
    stem, stem_norm, _, first, second, third, last, last_norm, _ = net.features
    y = norm(F.conv2d(x, stem.weight, padding=1), stem_norm).clamp(min=0)
    for block, stride in [(first, 1), (second, 1), (third, 2)]:
        a, a_norm, _, b, b_norm, _, c, c_norm = block.body
        z = norm(F.conv2d(y, a.weight), a_norm).clamp(min=0)
        z = norm(F.conv2d(z, b.weight, stride=stride, padding=1, groups=12), b_norm).clamp(min=0)
        z = norm(F.conv2d(z, c.weight), c_norm)
        y = y + z if stride == 1 else z
    assert y.shape == (3, 8, 4, 4)
    y = norm(F.conv2d(y, last.weight), last_norm).clamp(min=0)
    expected = y.mean(dim=(2, 3)) @ net.head.weight.T + net.head.bias
    np.testing.assert_allclose(outputs(net, x), expected, atol=1e-5)


def test_mlp_written_out():
    torch.manual_seed(0)
    net = mlp.build((2, 8, 8), 5, hidden=(7, 6))
    y = inputs(3).reshape(3, 128).astype(np.float64)
    for layer in (net.body[0], net.body[2]):
        y = np.maximum(y @ layer.weight.detach().numpy().T.astype(float) + layer.bias.detach().numpy(), 0)
    y = y @ net.head.weight.detach().numpy().T.astype(float) + net.head.bias.detach().numpy()
    np.testing.assert_allclose(outputs(net, inputs(3)), y, atol=1e-6)


def test_resnet_20_has_the_published_size():
    # He et al., table 6: 0.27 M parameters with identity shortcuts; two 1x1 shortcuts with norms come on top.
    net = resnet.build((3, 32, 32), 10)
    convolutions = 3 * 16 * 9 + 6 * 16 * 16 * 9 + (16 * 32 + 5 * 32 * 32) * 9 + (32 * 64 + 5 * 64 * 64) * 9
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    total = sum(p.numel() for p in net.parameters())
    assert total == convolutions + norms + shortcuts + 64 * 10 + 10
    assert total - shortcuts == 269_722
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in net.modules()) == 19


def test_resnet_with_widths_and_a_stem_that_halves_the_image():
    net = resnet.build((1, 28, 28), 10, blocks=(1, 2), widths=(48, 40), stem_stride=2)
    shapes = []
    hooks = [m.register_forward_hook(lambda m, _, y: shapes.append(tuple(y.shape[1:]))) for m in net.blocks]
    net(torch.zeros(1, 1, 28, 28))
    assert shapes == [(48, 14, 14), (40, 7, 7), (40, 7, 7)] and len(hooks) == 3
    stem, first = 9 * 48 + 2 * 48, 2 * (9 * 48 * 48 + 2 * 48)
    down = 9 * 48 * 40 + 9 * 40 * 40 + 48 * 40 + 3 * 2 * 40
    last = 2 * (9 * 40 * 40 + 2 * 40)
    assert sum(p.numel() for p in net.parameters()) == stem + first + down + last + 410


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": (1, 1), "widths": (8,)}, "blocks names 2 stages, widths 1"),
        ({"blocks": (1, 1), "widths": (8, 0)}, "must be at least 1"),
        ({"stem_stride": 0}, "must be at least 1"),
        ({"blocks": (1, 1), "width": 8, "widths": (8, 8)}, "give width or widths, not both"),
    ],
)
def test_shapes_of_a_resnet_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        resnet.build((1, 28, 28), 10, **options)


@pytest.mark.parametrize("kind", ["mlp", "resnet", "mobilenet"])
def test_networks_fit_the_task_and_follow_the_seed(tiny_task, kind):
    first, again, other = (make(tiny_task, kind, seed) for seed in (3, 3, 4))
    assert not first.training
    assert outputs(first, inputs(2)).shape == (2, 5)
    assert all(p.dtype == torch.float32 for p in first.parameters())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("activation", "act", "gate"),
    [
        ("hardswish", lambda x: x * (x + 3).clamp(0, 6) / 6, lambda x: (x + 3).clamp(0, 6) / 6),
        ("silu", lambda x: x / (1 + torch.exp(-x)), lambda x: 1 / (1 + torch.exp(-x))),
    ],
)
@torch.no_grad()
def test_inverted_residual_with_squeeze_and_excite_written_out(activation, act, gate):
    torch.manual_seed(0)
    block = lively(mobilenet.InvertedResidual(4, 6, 2, 3, activation, squeeze_excite=True))
    a, a_norm, _, b, b_norm, _, weigh, c, c_norm = block.body
    _, down, _, up, _ = weigh.weights
    assert down.out_channels == 8  # a quarter of 12, but no narrower than that
    x = torch.randn(2, 4, 8, 8)
    y = act(norm(F.conv2d(x, a.weight), a_norm))
    y = act(norm(F.conv2d(y, b.weight, stride=2, padding=1, groups=12), b_norm))
    inner = (y.mean((2, 3)) @ down.weight[:, :, 0, 0].T + down.bias).clamp(min=0)
    y = y * gate(inner @ up.weight[:, :, 0, 0].T + up.bias)[:, :, None, None]
    torch.testing.assert_close(block(x), norm(F.conv2d(y, c.weight), c_norm), atol=1e-5, rtol=1e-5)


def test_options_reach_the_network(tiny_task):
    assert make(tiny_task, "resnet", width=6, blocks=[1, 1, 1, 1]).head.in_features == 48
    assert make(tiny_task, "mobilenet", width=6, blocks=[1, 1], expand=2).head.in_features == 48
    assert [
        m.out_features for m in make(tiny_task, "mlp", hidden=[9, 8]).modules() if isinstance(m, nn.Linear)
    ] == [
        9,
        8,
        5,
    ]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("resnet", {"widht": 3}, r"^model kind 'resnet': unknown option 'widht' \(did you mean 'width'\?\)"),
        (
            "resnet",
            {"turns": 3},
            r"unknown option 'turns' \(it takes: blocks, width, widths, stem_stride, block, shortcut\)",
        ),
        ("mlp", {"num_classes": 3}, r"unknown option 'num_classes' \(it takes: hidden\)"),
        ("resnett", {}, r"unknown model kind 'resnett' \(did you mean 'resnet'\?\)"),
        ("resnet", {"width": 0}, "must be at least 1"),
        ("resnet", {"blocks": []}, "must be at least 1"),
        ("mobilenet", {"expand": 0}, "must be at least 1"),
        ("mobilenet", {"blocks": [1, 0]}, "must be at least 1"),
        ("mobilenet", {"activation": "mish"}, r"activation 'mish': one of relu, hardswish, silu, gelu"),
        ("mlp", {"hidden": []}, "one width or more"),
        ("mlp", {"hidden": "wide"}, "model 'mlp'"),
        (
            "gbm",
            {},
            r"unknown model kind 'gbm' \(known: mlp, .*recommender, text_encoder, or package",
        ),
        ("nowhere.at_all:net", {}, r"there is no module 'nowhere'"),
        ("edgekd.models.mlp:nett", {}, r"edgekd.models.mlp has no function 'nett'"),
    ],
)
def test_what_does_not_work_is_said(tiny_task, kind, options, message):
    with pytest.raises(UsageError, match=message):
        make(tiny_task, kind, **options)


@pytest.mark.parametrize("kind", list(models.MODELS))
def test_networks_are_checked_before_torch_is_there(kind):
    needed = {option: "somewhere" for option in [models.SOURCES.get(kind)] if option}
    code = (
        "import sys; from edgekd import models; from edgekd.config import ModelConfig\n"
        f"models.check(ModelConfig.model_validate(dict(kind={kind!r}, **{needed!r})))\n"
        f"try: models.check(ModelConfig.model_validate(dict(kind={kind!r}, no_such=1)))\n"
        "except models.UsageError: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("module", [resnet, mobilenet])
def test_convolutions_take_images_only(module):
    with pytest.raises(ValueError, match=r"takes images \(C, H, W\), the task gives \(13,\)"):
        module.build((13,), 2)


USER = """
import torch
def good(input_shape, num_classes, width=3, **more):
    assert not more or more == {"depth": 2}
    layers = [torch.nn.Flatten(), torch.nn.Linear(128, width), torch.nn.Linear(width, num_classes)]
    return torch.nn.Sequential(*layers)
def bad(input_shape, num_classes):
    return "a network"
"""


def test_a_users_own_function(tiny_task, tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(USER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    net = make(tiny_task, "my_networks:good", width=4, depth=2)
    assert outputs(net, inputs(2)).shape == (2, 5)
    assert net[1].out_features == 4
    with pytest.raises(UsageError, match=r"my_networks:bad'.*returned str, not a torch.nn.Module"):
        make(tiny_task, "my_networks:bad")
    with pytest.raises(UsageError, match=r"unknown option 'width'"):
        make(tiny_task, "my_networks:bad", width=3)


def test_lively_norms_do_something():
    plain = resnet.build((2, 8, 8), 5, blocks=(1,), width=4).eval()
    before = outputs(plain, inputs(2))
    assert np.abs(outputs(lively(plain), inputs(2)) - before).max() > 0.01
