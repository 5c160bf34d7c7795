"""Stage: static int8, by calibration alone (PTQ) or with training on top (QAT)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.config import QuantizeConfig
from edgekd.nodes import Node
from edgekd.quantize import gaps, qat
from edgekd.stages import saved
from edgekd.stages.context import Context
from edgekd.stages.distill import learn


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the fake-quantized network and what rebuilds its quantizers."""
    config = QuantizeConfig.model_validate(node.config["quantize"])
    source = context.parent(node, "network")
    net = qat.prepare(saved.load(source, context), calibration_inputs(node, context), context.plan.policy)
    calibrated = saved.accuracy_on(net, "val", context)
    history, robust = [], {}
    if config.method == "qat":
        history = learn(net, config, node, context)
        robust = saved.robust_accuracy(net, config, context)
    architecture = {**saved.architecture_of(source), "quantizers": qat.describe(net)}
    heads = saved.save(folder, net, context, architecture)
    return {
        **heads,
        "params": source.result["params"],
        "macs": source.result["macs"],
        **robust,
        "history": history,
        "val_accuracy_calibrated": calibrated,
        "val_accuracy": saved.accuracy_on(net, "val", context),
    }


def check(context: Context) -> None:
    """Says, before any training, what of a network will compute in float in the int8 files."""
    for node in context.plan.nodes:
        if node.stage == "quantize" and context.store.get(node.stage, node.key) is None:
            network = context.plan.node(node.parents["network"])
            while network.stage == "prune":
                network = context.plan.node(network.parents["network"])
            module = saved.fresh(dict(network.config), context)
            if found := gaps.float_operators(module, saved.example_input(context.task)):
                shown = ", ".join(f"{kind} ({times})" for kind, times in sorted(found.items()))
                context.display.line(
                    f"  {network.label}: no 8-bit kernels: {shown}; int8 files keep these in float"
                )


def calibration_inputs(node: Node, context: Context) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The drawn calibration samples (N, *shape), preprocessed."""
    picked = np.load(context.parent(node, "calibration").file("indices.npy"), allow_pickle=False)
    return context.task.input_spec.preprocess(context.task.splits["train"].inputs[picked])
