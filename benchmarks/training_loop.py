"""Training speed, ResNet-20 on 28 x 28: our loop beside a tutorial's, and distilling beside plain training.

The tutorial's loop is float32, NCHW, DataLoader over tensors. Ours takes bfloat16 where
the processor multiplies it in hardware. All loops take turns in one process.

Prints a table; the last line is one JSON document.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from edgekd.losses.logits import cross_entropy, kd
from torch.utils.data import DataLoader, TensorDataset

from edgekd.batches import TrainingSet
from edgekd.config import TrainConfig
from edgekd.models import resnet
from edgekd.progress import QUIET
from edgekd.training import cpu_has_bf16, fit
from edgekd.types import InputSpec, Split

BATCH = 128
SPEC = InputSpec("image", (1, 28, 28), "NCHW", "uint8", (0, 255), 255.0, (0.3,), (0.3,))


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return resnet.build(SPEC.shape, 10)


def tutorial(split: Split) -> float:
    model = network()
    x = torch.from_numpy(SPEC.preprocess(split.inputs))
    loader = DataLoader(TensorDataset(x, torch.from_numpy(split.labels)), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    model.train()
    start = time.perf_counter()
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def ours(split: Split, teacher: np.ndarray | None) -> float:
    model = network()
    data = TrainingSet(split, SPEC, teacher, 1, 0)
    config = TrainConfig(epochs=1, batch_size=BATCH, lr=0.1)

    def loss(logits, labels, outputs):
        hard = cross_entropy(logits, labels)
        return hard if outputs is None else 0.1 * hard + 0.9 * kd(logits, outputs, 4.0)

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        fit(
            model,
            data,
            loss,
            config,
            what="bench",
            display=QUIET,
            checkpoint=Path(folder),
        )
        return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=5)
    settings = parser.parse_args()
    rng = np.random.default_rng(0)
    n = settings.samples
    split = Split(
        "train",
        np.arange(n).astype(str),
        rng.integers(0, 256, (n, 1, 28, 28), np.uint8),
        rng.integers(0, 10, n).astype(np.int64),
    )
    teacher = rng.normal(size=(1, n, 10)).astype(np.float16)
    times: dict[str, list[float]] = {"tutorial": [], "plain": [], "distill": []}
    for _ in range(settings.rounds + 1):
        times["tutorial"].append(tutorial(split))
        times["plain"].append(ours(split, None))
        times["distill"].append(ours(split, teacher))
    medians = {
        name: statistics.median(found[1:]) for name, found in times.items()
    }  # the first round warms up
    for name, found in medians.items():
        print(f"{name:10} {n / found:8.0f} images/s")
    print(
        json.dumps(
            {
                "benchmark": "training_loop",
                "images_per_s": {name: n / found for name, found in medians.items()},
                "distill_over_plain": medians["distill"] / medians["plain"],
                "distill_over_plain_limit": 1.10,
                "speedup_over_tutorial": medians["tutorial"] / medians["plain"],
                "speedup_over_tutorial_limit": 1.6 if cpu_has_bf16() else None,
                "bf16_in_hardware": cpu_has_bf16(),
                "threads": torch.get_num_threads(),
            }
        )
    )
    return 0 if medians["distill"] <= 1.10 * medians["plain"] else 1


if __name__ == "__main__":
    sys.exit(main())
