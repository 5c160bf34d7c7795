"""Bottlenecks, shortcuts without weights, and public weights in them."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import CLASSES, inputs, lively, outputs, policy, prune_config, run_file, samples, write
from torch import nn

from benchmarks import cifar_nets
from edgekd.errors import UsageError
from edgekd.measure.inventory import inventory_of
from edgekd.models import resnet
from edgekd.prune.groups import rebuild
from edgekd.prune.structured import cost, prune
from edgekd.quantize import qat
from edgekd.quantize.schemes import lower
from edgekd.teachers.torch import load_checkpoint

ROOT = Path(__file__).parents[2]
EXAMPLE = torch.from_numpy(inputs(1))


def tiny(width=8, blocks=(1, 2), seed=0, **options):
    torch.manual_seed(seed)
    return lively(resnet.build((2, 8, 8), CLASSES, blocks=blocks, width=width, **options))


def params(**options):
    with torch.device("meta"):
        net = resnet.build((3, 32, 32), **options)
    return sum(p.numel() for p in net.parameters())


def norm(x, m):
    scale = m.weight / torch.sqrt(m.running_var + 1e-5)
    return (x - m.running_mean[:, None, None]) * scale[:, None, None] + m.bias[:, None, None]


@torch.no_grad()
def test_bottlenecks_written_out():
    net, x = tiny(4, (2, 1), block="bottleneck"), torch.from_numpy(inputs(3))
    y = norm(F.conv2d(x, net.stem.weight, padding=1), net.bn).clamp(min=0)
    for block, stride, changes in zip(net.blocks, (1, 1, 2), (True, False, True), strict=True):
        z = norm(F.conv2d(y, block.conv1.weight), block.bn1).clamp(min=0)
        z = norm(F.conv2d(z, block.conv2.weight, stride=stride, padding=1), block.bn2).clamp(min=0)
        z = norm(F.conv2d(z, block.conv3.weight), block.bn3)
        if changes:
            y = norm(F.conv2d(y, block.shortcut[0].weight, stride=stride), block.shortcut[1])
        y = (y + z).clamp(min=0)
    assert y.shape == (3, 32, 4, 4)
    expected = y.mean(dim=(2, 3)) @ net.head.weight.T + net.head.bias
    np.testing.assert_allclose(outputs(net, x), expected, atol=1e-5)


def test_a_shortcut_without_weights_written_out():
    x = np.arange(2 * 3 * 5 * 4, dtype=np.float32).reshape(2, 3, 5, 4)
    expected = np.zeros((2, 8, 3, 2), np.float32)
    expected[:, 2:5] = x[:, :, ::2, ::2]  # of five channels more, two in front
    np.testing.assert_array_equal(resnet.Pad(3, 8, 2)(torch.from_numpy(x)).numpy(), expected)


@pytest.mark.parametrize(
    ("n", "millions"), [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85), (18, 1.7)], ids=lambda v: str(v)
)
def test_published_sizes_for_cifar_10(n, millions):
    # He et al. 2015, table 6: ResNet-20 to 110, of 6n + 2 layers with shortcuts without weights.
    found = params(num_classes=10, blocks=(n, n, n), shortcut="pad") / 1e6
    assert round(found, 1 if millions > 1 else 2) == millions


@pytest.mark.parametrize(
    ("blocks", "block", "published"),
    [((2, 2, 2, 2), "basic", 11_689_512), ((3, 4, 6, 3), "bottleneck", 25_557_032)],
    ids=["ResNet-18", "ResNet-50"],
)
def test_published_sizes_for_imagenet(blocks, block, published):
    # As torchvision has them (v1.5, the 3x3 convolution strides), with another stem.
    stem = 64 * 3 * (7 * 7 - 3 * 3)
    assert params(num_classes=1000, blocks=blocks, width=64, block=block) == published - stem


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "bottle"}, r"block = 'bottle': one of basic, bottleneck"),
        ({"shortcut": "none"}, r"shortcut = 'none': one of conv, pad"),
        (
            {"blocks": (1, 1, 1), "widths": (8, 16, 12), "shortcut": "pad"},
            r"'pad' adds channels, and widths goes from 16 to 12",
        ),
    ],
)
def test_options_that_make_no_network(options, message):
    with pytest.raises(ValueError, match=message):
        resnet.build((3, 32, 32), 10, **options)


def test_pads_leave_what_is_tied_to_the_stem_whole():
    net = tiny(8, (1, 2), shortcut="pad")
    half = int(cost(net, EXAMPLE, "macs", 1) * 0.6)
    how = {"limit": half, "channel_multiple": 1, "bytes_per_weight": 1, "samples": samples(), "seed": 0}
    with pytest.raises(UsageError, match=r"channels of stem to blocks\.1\.conv2: they are 8 of its 16"):
        prune(net, EXAMPLE, prune_config(keep=0.6), **how)
    cut, taken = prune(net, EXAMPLE, prune_config(keep=0.6, ignored_layers=("stem",)), **how)
    assert 0.9 * half < cost(cut, EXAMPLE, "macs", 1) <= half
    assert [block.conv2.out_channels for block in cut.blocks] == [8, 16, 16]
    assert all(block.conv1.out_channels < block.conv2.out_channels for block in cut.blocks)
    again = rebuild(tiny(8, (1, 2), seed=1, shortcut="pad"), EXAMPLE, [taken])
    again.load_state_dict(cut.state_dict())
    np.testing.assert_array_equal(outputs(again, inputs(3)), outputs(cut, inputs(3)))


def test_bottlenecks_are_cut_inside_and_between():
    net = tiny(8, (1, 2), block="bottleneck")
    half = int(cost(net, EXAMPLE, "macs", 1) * 0.5)
    how = {"limit": half, "channel_multiple": 4, "bytes_per_weight": 1, "samples": samples(), "seed": 0}
    cut, _ = prune(net, EXAMPLE, prune_config(keep=0.5), **how)
    assert 0.7 * half < cost(cut, EXAMPLE, "macs", 1) <= half
    narrower = [n for n, m in cut.named_modules() if isinstance(m, nn.Conv2d) and m.out_channels % 4 == 0]
    assert len(narrower) == 1 + 3 * 3 + 2
    # What is added is cut alike.
    ends = [(b.conv3.out_channels, b.shortcut[0].out_channels) for b in (cut.blocks[0], cut.blocks[1])]
    assert all(a == b for a, b in ends) and cut.blocks[2].conv3.out_channels == ends[1][0]
    assert outputs(cut, inputs(3)).shape == (3, CLASSES)


@pytest.fixture(scope="module", params=[{"shortcut": "pad"}, {"block": "bottleneck"}], ids=["pad", "bottle"])
def quantized(request):
    return qat.prepare(tiny(**request.param), inputs(48), policy())


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_they_run_in_integers(quantized, format, tmp_path):
    lowered = lower(quantized, EXAMPLE, "unsigned" if format == "onnx" else "signed", format)
    path = tmp_path / f"net.{format}"
    write(lowered, path, format, "static_wi8_ai8")
    found, step = run_file(path, inputs(32, 5)), float(quantized.output.scale)
    expected = outputs(quantized, inputs(32, 5))
    # A rounding that goes the other way at an addition may move an output by some levels.
    assert np.abs(found - expected).max() <= 3 * step
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9
    found = inventory_of(path, format)
    # ONNX Runtime pads in float where no quantizer stands behind: the sum with the pad is float too.
    pads = sum(isinstance(m, resnet.Pad) for m in quantized.modules()) if format == "onnx" else 0
    assert found.float_ops == pads and found.int8_ops >= 12


@pytest.fixture(scope="module")
def converted(data_root, tmp_path_factory):
    """The public ResNet-56 by the example's script, in a process of its own."""
    source = data_root / "models/akamaster_resnet_cifar10/resnet56-4bfd9763.th"
    target = tmp_path_factory.mktemp("converted") / "resnet56-cifar10.safetensors"
    command = [sys.executable, ROOT / "examples/cifar10/convert.py", source, target]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "blocks = [9, 9, 9]" in done.stdout
    net = resnet.build((3, 32, 32), 10, blocks=(9, 9, 9), shortcut="pad").eval()
    load_checkpoint(net, target)
    return source, net


def seen(raw):
    """Images (N, 3, 32, 32) uint8 as these networks were trained on them."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return ((raw / 255.0 - mean[:, None, None]) / std[:, None, None]).astype(np.float32)


def test_the_public_network_computes_what_it_did(converted):
    source, net = converted
    other = cifar_nets.resnet56((3, 32, 32), 10).eval()
    load_checkpoint(other, source)
    x = seen(np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32)))
    np.testing.assert_allclose(outputs(net, x), outputs(other, x), rtol=1e-5, atol=1e-5)


def test_the_public_network_knows_its_images(converted, data_root):
    from PIL import Image

    _, net = converted
    # Lossless images of its own training: nearly all right. In another preparation they are not.
    folder = data_root / "cifar10_lossless"
    with Image.open(folder / "cifar10_batch_0.png") as image:
        rows = np.asarray(image.convert("RGB"))[:200].reshape(200, 32, 32, 3)
    labels = np.array([line.split(",")[1] for line in (folder / "labels_0.csv").read_text().split()[1:201]])
    found = outputs(net, seen(rows.transpose(0, 3, 1, 2))).argmax(axis=1)
    assert (found == labels.astype(int)).mean() > 0.97
    # 93.6% of the test images as they were; of the same images as JPEG about ten points less.
    with zipfile.ZipFile(data_root / "cifar10_jpeg/cifar10_jpeg_test_first500.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[::20]
        files = [io.BytesIO(archive.read(name)) for name in names]
    classes = sorted({name.split("/")[-2] for name in names})
    raw = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    right = outputs(net, seen(raw.transpose(0, 3, 1, 2))).argmax(axis=1) == [
        classes.index(name.split("/")[-2]) for name in names
    ]
    assert len(names) == 250 and 0.76 < right.mean() < 0.90  # all 5,000: 83.0%


def test_the_page_shows_the_script_that_is_tested_here():
    page = (ROOT / "docs/examples/cifar10.md").read_text()
    shown = page.split('```python title="convert.py"\n')[1].split("```\n")[0]
    assert shown == (ROOT / "examples/cifar10/convert.py").read_text()


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    torch.save({"state_dict": {"module.fc.weight": torch.zeros(1)}}, tmp_path / "net.th")
    command = [sys.executable, ROOT / "examples/cifar10/convert.py", tmp_path / "net.th", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "fc.weight: no such tensor in these networks" in done.stderr
    assert not (tmp_path / "out").exists()
