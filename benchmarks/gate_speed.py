"""How long the gate takes: a million samples in a thousand slices by Tango's test, and AUC by bootstrap.

Prints a table; the last line is one JSON document.
"""

import json
import sys
import time

import numpy as np

from edgekd.config import GateConfig
from edgekd.gate import auc, judge_predictions, pair
from edgekd.types import Column, Predictions

SAMPLES, SLICES, SLICES_LIMIT_S = 1_000_000, 1000, 2.0
SCORED, REPLICATES, AUC_LIMIT_S = 100_000, 2000, 60.0


def sliced() -> float:
    """Seconds from predictions in memory to the verdict on each slice."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, SAMPLES)
    ids = np.char.mod("s%07d", np.arange(SAMPLES))
    column = Column(rng.integers(0, SLICES, SAMPLES), tuple(f"v{i}" for i in range(SLICES)))
    both = []
    for wrong in (0.05, 0.052):
        said = np.where(rng.random(SAMPLES) < wrong, (labels + 1) % 10, labels)
        both.append(Predictions(ids, labels, np.zeros((SAMPLES, 0)), {"part": column}, said))
    policy = GateConfig.model_validate(
        {"max_drop_pp": 1.0, "expected_discordance": 0.1, "slices": {"part": {"max_drop_pp": 10.0}}}
    )
    start = time.perf_counter()
    judged = judge_predictions(pair(*both), policy, "host")
    seconds = time.perf_counter() - start
    assert len(judged.slices) == SLICES
    return seconds


def bootstrapped() -> float:
    """Seconds for the replicates of a difference of AUCs."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, SCORED)
    teacher = labels + rng.normal(size=SCORED)
    both = np.c_[teacher, teacher + 0.3 * rng.normal(size=SCORED)]
    start = time.perf_counter()
    auc.bootstrap(both[labels == 1], both[labels == 0], rng, REPLICATES)
    return time.perf_counter() - start


def main() -> int:
    found = {"slices_s": sliced(), "auc_s": bootstrapped()}
    print(f"{SAMPLES:,} samples, {SLICES:,} slices: {found['slices_s']:.2f} s (limit {SLICES_LIMIT_S:g})")
    print(f"AUC of {SCORED:,}, {REPLICATES:,} replicates: {found['auc_s']:.1f} s (limit {AUC_LIMIT_S:g})")
    print(json.dumps({"benchmark": "gate_speed", **found}))
    return 0 if found["slices_s"] <= SLICES_LIMIT_S and found["auc_s"] <= AUC_LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
