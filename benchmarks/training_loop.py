"""Training speed, ResNet-20 on 28 x 28: our loop beside a tutorial's, and distilling beside plain training.

The tutorial's loop is float32, NCHW, DataLoader over tensors. Ours takes bfloat16 where
the processor multiplies it in hardware. Distilling reads one of four cached views an epoch. All
loops take turns in one process; ratios are taken within each round.

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
from numpy.lib.format import open_memmap
from torch.utils.data import DataLoader, TensorDataset

from edgekd.batches import TrainingSet
from edgekd.config import LossConfig, TrainConfig
from edgekd.models import resnet
from edgekd.objective import Objective
from edgekd.precision import cpu_has_bf16
from edgekd.progress import QUIET
from edgekd.training import fit
from edgekd.types import InputSpec, Split

BATCH, VIEWS = 128, 4
LIMIT = 1.05
SPEC = InputSpec("image", (1, 28, 28), "NCHW", "uint8", (0, 255), 255.0, (0.3,), (0.3,))
PLAIN = (LossConfig(kind="cross_entropy"),)
KD = (
    LossConfig(kind="cross_entropy", weight=0.1),
    LossConfig.model_validate({"kind": "kd", "weight": 0.9, "temperature": 4.0}),
)


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
    data = TrainingSet(split, SPEC, teacher, 1 if teacher is None else VIEWS, 0)
    config = TrainConfig(epochs=1, batch_size=BATCH, lr=0.1)
    objective = Objective(PLAIN if teacher is None else KD, "fixed", None)
    with tempfile.TemporaryDirectory() as folder:
        model = network()
        start = time.perf_counter()
        fit(model, data, objective, config, what="bench", display=QUIET, checkpoint=Path(folder))
        return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=9)
    settings = parser.parse_args()
    rng = np.random.default_rng(0)
    n = settings.samples
    raw = rng.integers(0, 256, (n, 1, 28, 28), np.uint8)
    split = Split("train", np.arange(n).astype(str), raw, rng.integers(0, 10, n).astype(np.int64))
    times: dict[str, list[float]] = {"tutorial": [], "plain": [], "distill": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.npy"
        open_memmap(path, "w+", np.float16, (VIEWS, n, 10))[:] = rng.normal(size=(VIEWS, n, 10))
        teacher = np.load(path, mmap_mode="r")
        for _ in range(settings.rounds + 1):
            times["tutorial"].append(tutorial(split))
            times["plain"].append(ours(split, None))
            times["distill"].append(ours(split, teacher))
    times = {name: found[1:] for name, found in times.items()}  # the first round warms up
    for name, found in times.items():
        print(f"{name:10} {n / statistics.median(found):8.0f} images/s")

    def ratio(over: str, under: str) -> float:
        return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))

    distill = ratio("distill", "plain")
    print(
        json.dumps(
            {
                "benchmark": "training_loop",
                "images_per_s": {name: n / statistics.median(found) for name, found in times.items()},
                "distill_over_plain": distill,
                "distill_over_plain_limit": LIMIT,
                "speedup_over_tutorial": ratio("tutorial", "plain"),
                "speedup_over_tutorial_limit": 1.6 if cpu_has_bf16() else None,
                "bf16_in_hardware": cpu_has_bf16(),
                "threads": torch.get_num_threads(),
            }
        )
    )
    return 0 if distill <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
