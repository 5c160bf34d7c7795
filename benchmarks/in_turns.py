"""Files timed in turns, in one process, on one thread; what is compared was timed beside each other."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd import runtimes

RUNTIMES = {".onnx": "onnxruntime", ".tflite": "litert"}
ROUNDS, RUNS = 120, 15


def timed(paths: Sequence[Path]) -> NDArray[np.float64]:
    """(files, rounds): the median of some runs in each round, in ms; the order is drawn anew each round."""
    opened = []
    for path in paths:
        session = runtimes.open_session(RUNTIMES[path.suffix], path)
        opened.append((session, session.prepare(session.random_inputs(0))))
    rng, found = np.random.default_rng(0), np.empty((len(paths), ROUNDS))
    for turn in range(ROUNDS):
        for i in rng.permutation(len(paths)):
            session, fed = opened[i]
            session.invoke(fed)  # caches hold another file's weights
            taken = []
            for _ in range(RUNS):
                start = time.perf_counter_ns()
                session.invoke(fed)
                taken.append((time.perf_counter_ns() - start) / 1e6)
            found[i, turn] = np.median(taken)
    return found


def ratio(slow: NDArray[np.float64], fast: NDArray[np.float64]) -> tuple[float, float]:
    """How many times faster, round by round, and its lower bound (5% quantile of the bootstrap)."""
    each = slow / fast
    rng = np.random.default_rng(0)
    drawn = np.median(rng.choice(each, (2000, len(each))), axis=1)
    return float(np.median(each)), float(np.quantile(drawn, 0.05))
