"""The teacher's cache: its rate beside the teacher's bare forward pass, and what it costs in memory.

Rate: ResNet-56 on 32 x 32 pixels, moved and mirrored, cache and bare passes in turns. Memory: peak of a
process that trains for 16 epochs on 1 and on 16 cached views of 20,000 samples with 200 outputs.

Prints a table; the last line is one JSON document.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from cifar_nets import resnet56

from edgekd.batches import TrainingSet
from edgekd.config import LossConfig, MixConfig, TrainConfig
from edgekd.models import mlp
from edgekd.objective import Objective
from edgekd.progress import QUIET
from edgekd.stages.teacher import of_module
from edgekd.teachers import cache
from edgekd.training import EVAL_BATCH, fit
from edgekd.types import InputSpec, Split

RATE_LIMIT, MEMORY_LIMIT = 0.90, 1.05
SPEC = InputSpec("image", (3, 32, 32), "NCHW", "uint8", (0, 255), 255.0, (0.5,) * 3, (0.25,) * 3)
ROWS = InputSpec("row", (64,), "NC", "float32", (-9, 9), 1.0, (0.0,) * 64, (1.0,) * 64)
CLASSES, SAMPLES = 200, 20_000


def split_of(spec: InputSpec, n: int, classes: int) -> Split:
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 9, (n, *spec.shape)).astype(spec.raw_dtype)
    return Split("train", np.arange(n).astype(str), raw, rng.integers(0, classes, n).astype(np.int64))


@torch.no_grad()
def bare(teacher: torch.nn.Module, x: torch.Tensor) -> float:
    start = time.perf_counter()
    for i in range(0, len(x), EVAL_BATCH):
        teacher(x[i : i + EVAL_BATCH])
    return time.perf_counter() - start


def built(teacher: torch.nn.Module, split: Split) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cache.build(
            of_module(teacher, SPEC.shape),
            split,
            SPEC,
            ("crop", "flip"),
            MixConfig(),
            views=1,
            num_outputs=10,
            seed=0,
            path=Path(folder) / "logits.npy",
            display=QUIET,
        )
        return time.perf_counter() - start


def peak_bytes(views: int) -> int:
    """Peak resident memory of this process once it has trained on that many views."""
    split = split_of(ROWS, SAMPLES, CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.npy"
        shape = (views, SAMPLES, CLASSES)
        maker = f"from numpy.lib.format import open_memmap; open_memmap({str(path)!r}, 'w+', '<f2', {shape})"
        subprocess.run([sys.executable, "-c", maker], check=True)  # its memory is not this process's
        data = TrainingSet(split, ROWS, np.load(path, mmap_mode="r"), views, 0)
        network = mlp.build(ROWS.shape, CLASSES, (64,))
        objective = Objective((LossConfig(kind="kd"),), "fixed", None)
        config = TrainConfig(epochs=16, batch_size=512)
        fit(network, data, objective, config, what="bench", display=QUIET, checkpoint=Path(folder))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--views", type=int, help="print the peak memory with so many views, and stop")
    settings = parser.parse_args()
    if settings.views:
        print(peak_bytes(settings.views))
        return 0
    split = split_of(SPEC, settings.samples, 10)
    torch.manual_seed(0)
    teacher = resnet56(SPEC.shape, 10).eval()
    x = torch.from_numpy(SPEC.preprocess(split.inputs))
    rounds = [(bare(teacher, x), built(teacher, split)) for _ in range(settings.rounds + 1)][1:]
    rate = statistics.median(alone / cached for alone, cached in rounds)
    peaks = {}
    for views in (1, 16):
        command = [sys.executable, __file__, "--views", str(views)]
        peaks[views] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    grows = peaks[16] / peaks[1]
    print(f"cache built at {100 * rate:.1f}% of the bare forward rate (at least {100 * RATE_LIMIT:.0f}%)")
    print(f"peak memory {peaks[1] / 2**20:.0f} MiB with 1 view, {peaks[16] / 2**20:.0f} MiB with 16")
    print(
        json.dumps(
            {
                "benchmark": "teacher_cache",
                "rate_of_bare_forward": rate,
                "rate_limit": RATE_LIMIT,
                "peak_bytes": peaks,
                "peak_16_over_1": grows,
                "peak_limit": MEMORY_LIMIT,
                "threads": torch.get_num_threads(),
            }
        )
    )
    return 0 if rate >= RATE_LIMIT and grows <= MEMORY_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
