"""Stage: static int8, by calibration alone (PTQ) or with training on top (QAT)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.config import QuantizeConfig
from edgekd.nodes import Node
from edgekd.quantize import qat
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


def calibration_inputs(node: Node, context: Context) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The drawn calibration samples (N, *shape), preprocessed."""
    picked = np.load(context.parent(node, "calibration").file("indices.npy"), allow_pickle=False)
    return context.task.input_spec.preprocess(context.task.splits["train"].inputs[picked])
