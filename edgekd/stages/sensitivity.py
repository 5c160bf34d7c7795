"""Stage: what each layer of a network costs that alone is in 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgekd.nodes import WATCHED, Node
from edgekd.quantize import mixed, qat
from edgekd.stages import judged, saved
from edgekd.stages.context import Context
from edgekd.stages.quantize import calibration_inputs
from edgekd.tasks.checking import subset

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
        slice(0, task.num_judged),
        task.num_classes,
        context.display,
        _figure(chosen, node, context),
    )
    return {"num_samples": len(chosen), "layers": [asdict(one) for one in found]}


def _figure(
    chosen: NDArray[np.int64], node: Node, context: Context
) -> Callable[[NDArray[np.float64]], float] | None:
    """The judged metric on the chosen samples of val, more being better; None for accuracy."""
    if node.config.get(WATCHED) is None:
        return None
    split = subset(context.task.splits["val"], chosen)
    part = replace(context)
    part.__dict__["task"] = replace(context.task, splits={**context.task.splits, "val": split})
    sign = 1 if context.plan.recipe.gate.judged.direction == "higher" else -1
    return lambda scores: sign * judged.needed_on("val", scores, part)
