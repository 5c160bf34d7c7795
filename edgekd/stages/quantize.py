"""Stage: static int8, by calibration alone (PTQ) or with training on top (QAT)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.config import QuantizeConfig
from edgekd.errors import TrainingError
from edgekd.nodes import Node
from edgekd.prune import zeros
from edgekd.quantize import gaps, mixed, qat
from edgekd.quantize.schemes import QuantizedNet
from edgekd.stages import saved
from edgekd.stages.context import Context
from edgekd.stages.distill import History, learn


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the fake-quantized network and what rebuilds its quantizers."""
    config = QuantizeConfig.model_validate(node.config["quantize"])
    source = context.parent(node, "network")
    net = qat.prepare(saved.load(source, context), calibration_inputs(node, context), context.plan.policy)
    example = saved.example_input(context.task)
    if config.float_layers:
        mixed.check_paths(saved.load(source, context), example, config.float_layers)
        net = mixed.in_float(net, example, config.float_layers)
    calibrated = saved.accuracy_on(net, "val", context)
    history: History = ()
    if config.method == "qat":
        if config.ranges == "fixed":
            qat.fix_ranges(net)
        # A network that was made sparse stays it: weights are symmetric, so a zero is a zero in 8 bits too.
        hold = zeros.unheld
        if "nonzero_weights" in source.result:
            pruned = context.plan.node(node.parents["network"]).config["prune"]
            hold = zeros.held(net, [f"body.{path}" for path in pruned["ignored_layers"]])
        history = learn(net, config, node, context, after_step=hold)
    floats = list(config.float_layers)
    if config.max_val_drop_pp is not None:
        floats += _needed(net, config.max_val_drop_pp, node, context, floats)
        net = mixed.in_float(net, example, floats)
    robust = saved.robust_accuracy(net, config, context) if config.method == "qat" else {}
    architecture = {**saved.architecture_of(source), "quantizers": qat.describe(net)}
    heads = saved.save(folder, net, context, architecture)
    return {
        **heads,
        "params": source.result["params"],
        "macs": source.result["macs"],
        **({"nonzero_weights": zeros.nonzeros(net)} if "nonzero_weights" in source.result else {}),
        **robust,
        "float_layers": floats,
        "history": history,
        "val_accuracy_calibrated": calibrated,
        "val_accuracy": saved.accuracy_on(net, "val", context),
    }


def _needed(
    net: QuantizedNet, most_pp: float, node: Node, context: Context, floats: Sequence[str]
) -> list[str]:
    """The fewest layers that have to go back to float for the accuracy on val to fall by no more than that.

    Raises:
        TrainingError: not even with all layers in float does it.
    """
    example = saved.example_input(context.task)
    least = context.parent(node, "network").result["val_accuracy"] - most_pp
    ranked = context.parent(node, "sensitivity").result["layers"]
    macs = {layer.path: layer.macs for layer in mixed.layers(net, example)}

    @functools.cache
    def accuracy(paths: frozenset[str]) -> float:
        return saved.accuracy_on(mixed.in_float(net, example, {*floats, *paths}), "val", context)

    left = [layer["path"] for layer in ranked if layer["path"] not in floats]
    found = mixed.fewest(left, macs, lambda paths: accuracy(frozenset(paths)) >= least)
    if found is None:
        raise TrainingError(
            f"quantize.max_val_drop_pp = {most_pp}: with all layers in float the accuracy on val is still "
            f"{accuracy(frozenset(left)):.2f}%, {least:.2f}% is asked for",
            hint="train longer, or allow more",
        )
    if found:
        context.display.line(f"  back to float for the accuracy on val: {', '.join(found)}")
    return found


def check(context: Context) -> None:
    """Says, before any training, what of a network will compute in float in the int8 files.

    Raises:
        UsageError: quantize.float_layers names a layer that is not there.
    """
    for node in context.plan.nodes:
        if node.stage == "quantize" and context.store.get(node.stage, node.key) is None:
            network = context.plan.node(node.parents["network"])
            while network.stage == "prune":
                network = context.plan.node(network.parents["network"])
            module = saved.fresh(dict(network.config), context)
            named = QuantizeConfig.model_validate(node.config["quantize"]).float_layers
            mixed.check_paths(module, saved.example_input(context.task), named)
            if found := gaps.float_operators(module, saved.example_input(context.task)):
                shown = ", ".join(f"{kind} ({times})" for kind, times in sorted(found.items()))
                context.display.line(
                    f"  {network.label}: no 8-bit kernels: {shown}; int8 files keep these in float"
                )


def calibration_inputs(node: Node, context: Context) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The drawn calibration samples (N, *shape), preprocessed."""
    picked = np.load(context.parent(node, "calibration").file("indices.npy"), allow_pickle=False)
    return context.task.input_spec.preprocess(context.task.splits["train"].inputs[picked])
