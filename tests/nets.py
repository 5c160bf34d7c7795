"""Tiny seeded networks and data that several test folders share."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from edgekd import exporters
from edgekd.config import CalibrationPolicy, PruneConfig, TrainConfig
from edgekd.models import mobilenet, resnet
from edgekd.progress import Display
from edgekd.prune.importance import Samples
from edgekd.types import ACCURACY, InputSpec, Split, Task

ROOT = Path(__file__).parents[1]
SPEC = InputSpec("image", (2, 8, 8), "NCHW", "uint8", (3.0, 16.0), 16.0, (0.3, 0.5), (0.4, 0.25))
TABLE = InputSpec("row", (6,), "NC", "float32", (-3.0, 3.0), 1.0, (0.0,) * 6, (1.0,) * 6)
CLASSES = 5


def quiet():
    return Display(Console(file=io.StringIO()))


def images(n, seed=0):
    """Raw images (n, 2, 8, 8) uint8 between 3 and 16."""
    return np.random.default_rng(seed).integers(3, 17, (n, 2, 8, 8)).astype(np.uint8)


def inputs(n, seed=0):
    """Prepared images (n, 2, 8, 8) float32, prepared here by hand."""
    mean, std = np.array([0.3, 0.5]).reshape(1, 2, 1, 1), np.array([0.4, 0.25]).reshape(1, 2, 1, 1)
    return ((images(n, seed) / 16.0 - mean) / std).astype(np.float32)


def split(raw, name="train", seed=0):
    labels = np.random.default_rng([seed, 1]).integers(0, CLASSES, len(raw)).astype(np.int64)
    return Split(name, np.array([f"{name}-{i}" for i in range(len(raw))]), raw, labels)


def task(seed=0):
    """48 training images, 16 for validation, 16 for the test."""
    splits = {
        n: split(images(k, seed + i), n)
        for i, (n, k) in enumerate([("train", 48), ("val", 16), ("test", 16)])
    }
    return Task("tiny", splits, (ACCURACY,), SPEC, tuple("abcde"))


def lively(module, seed=0):
    """The module with BatchNorms that do something, as after training, in eval mode."""
    draw = torch.Generator().manual_seed(seed)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            with torch.no_grad():
                m.weight.uniform_(0.7, 1.3, generator=draw)
                m.bias.uniform_(-0.2, 0.4, generator=draw)
            m.running_mean.uniform_(-0.3, 0.3, generator=draw)
            m.running_var.uniform_(0.5, 1.5, generator=draw)
    return module.eval()


def tiny_resnet(width=8, blocks=(1, 1), seed=0):
    torch.manual_seed(seed)
    return lively(resnet.build((2, 8, 8), CLASSES, blocks=blocks, width=width))


def tiny_mobilenet(width=8, blocks=(1, 2), expand=2, seed=0):
    torch.manual_seed(seed)
    return lively(mobilenet.build((2, 8, 8), CLASSES, width=width, blocks=blocks, expand=expand))


def tiny_gated(width=8, seed=0):
    """Hard-swish and squeeze-and-excite, as in MobileNetV3."""
    torch.manual_seed(seed)
    return lively(mobilenet.MobileNet(2, CLASSES, width, (1, 1), 2, "hardswish", squeeze_excite=True))


class Pooled(nn.Module):
    """Convolutions with a pool of each kind behind them."""

    def __init__(self, width):
        super().__init__()
        self.stem, self.pool1 = nn.Conv2d(2, width, 3, padding=1), nn.MaxPool2d(3, 2, 1)
        self.conv, self.pool2 = nn.Conv2d(width, width, 3, padding=1), nn.MaxPool2d(2)
        self.last, self.head = nn.Conv2d(width, width, 1), nn.Linear(width, CLASSES)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.pool1(self.relu(self.stem(x)))
        x = self.relu(self.last(self.pool2(self.relu(self.conv(x)))))
        return self.head(x.mean((2, 3)))


def tiny_pooled(width=8, seed=0):
    torch.manual_seed(seed)
    return Pooled(width).eval()


class Gates(nn.Module):
    """Every activation that is made of gates, as modules and written out."""

    def __init__(self, width=8):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(2 if i == 0 else width, width, 3, padding=1) for i in range(5))
        self.silu, self.gelu = nn.SiLU(inplace=True), nn.GELU()
        self.gate = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.silu(self.convs[0](x))
        x = self.gelu(self.convs[1](x))
        x = nn.functional.hardswish(self.convs[2](x))
        x = self.convs[3](x)
        x = x * torch.sigmoid(x)
        x = self.convs[4](x)
        x = x * nn.functional.hardsigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.head(nn.functional.leaky_relu(x, 0.1).mean((2, 3)))


def gates(seed=0):
    torch.manual_seed(seed)
    return Gates().eval()


class Flat(nn.Module):
    """Convolution, ReLU, flatten, linear: each channel feeds 64 columns of the linear layer."""

    def __init__(self, channels=16, hidden=24):
        super().__init__()
        self.conv = nn.Conv2d(2, channels, 3, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(channels * 64, hidden)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, x):
        return self.head(self.relu(self.fc(self.relu(self.conv(x)).flatten(1))))


def flat(seed=0):
    torch.manual_seed(seed)
    return Flat().eval()


def train_config(**changes):
    settings = dict(epochs=3, batch_size=8, lr=0.05, weight_decay=0.1, warmup_epochs=0.5, precision="32-true")
    return TrainConfig(**{**settings, **changes})


def prune_config(goal="macs", **changes):
    return PruneConfig(**{"epochs": 1, "goal": goal, "max_pruning_ratio": 0.7, **changes})


def samples(n=64, labels=True):
    """What pruning looks at."""
    y = torch.from_numpy(np.random.default_rng([n, 2]).integers(0, CLASSES, n)) if labels else None
    return Samples(torch.from_numpy(inputs(n, 3)), y, [slice(0, CLASSES)])


def policy(observer="min_max", **changes):
    settings = dict(name="p", description="for tests", strategy="random", num_samples=32, observer=observer)
    return CalibrationPolicy(**{**settings, **changes})


@torch.no_grad()
def outputs(module, x):
    """Outputs (N, classes) of a torch module in eval mode."""
    return module.eval()(torch.from_numpy(np.asarray(x, np.float32))).numpy()


def run_onnx(path, x):
    """The file's outputs by onnxruntime itself, one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def run_tflite(path, x):
    """The file's outputs by LiteRT itself; images (N, C, H, W) are fed as NHWC, all N in one go.

    Files that take and give int8 have their scales in the file: real = scale * (q - zero point).
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    entry, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    fed = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
    interpreter.resize_tensor_input(entry["index"], fed.shape)
    interpreter.allocate_tensors()
    scale, zero = entry["quantization"]
    if scale:
        fed = np.clip(np.rint(fed / scale) + zero, -128, 127)
    interpreter.set_tensor(entry["index"], np.ascontiguousarray(fed, entry["dtype"]))
    interpreter.invoke()
    scale, zero = out["quantization"]
    found = interpreter.get_tensor(out["index"])
    return ((found.astype(np.float32) - zero) * np.float32(scale)) if scale else found.copy()


def run_file(path, x):
    return run_onnx(path, x) if path.suffix == ".onnx" else run_tflite(path, x)


def python(code, *args, **more):
    """Starts a fresh Python process that runs `code` with tests/ and the repository importable."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, args)],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )


class Tracking(Display):
    """A quiet display that remembers what it was to show: (what, how many)."""

    def __init__(self):
        super().__init__(Console(quiet=True))
        self.tracked = []

    def track(self, items, what, total):
        self.tracked.append((what, total))
        return super().track(items, what, total)


def run_python(code, *args):
    """Output of `python`, once it has ended well."""
    process = python(code, *args)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


METADATA = {"edgekd.scheme": "some scheme", "edgekd.class_names": '["é", "b"]', "a": ""}


def write(module, path, format, scheme, **more):
    """Exports a network that takes the tiny images."""
    exporters.export(
        module,
        torch.from_numpy(inputs(1)),
        path,
        format=format,
        scheme=scheme,
        input_name="image",
        metadata=METADATA,
        **more,
    )
