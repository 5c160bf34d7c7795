"""Stage: what each layer of a network costs that alone is in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekd.nodes import Node
from edgekd.quantize import mixed, qat
from edgekd.stages import saved
from edgekd.stages.context import Context
from edgekd.stages.quantize import calibration_inputs

SAMPLES = 2048  # of val, or all that it has


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes nothing; returns the layers, the costliest first."""
    task, val = context.task, context.task.splits["val"]
    assert val.labels is not None  # the accuracy of every stage is told on it
    source = saved.load(context.parent(node, "network"), context)
    net = qat.prepare(source, calibration_inputs(node, context), context.plan.policy)
    chosen = np.sort(np.random.default_rng(context.seed).permutation(len(val))[:SAMPLES])
    found = mixed.sensitivities(
        net,
        saved.example_input(task),
        torch.from_numpy(task.input_spec.preprocess(np.asarray(val.inputs[chosen]))),
        val.labels[chosen],
        slice(0, task.num_classes),
        context.display,
    )
    return {"num_samples": len(chosen), "layers": [asdict(one) for one in found]}
