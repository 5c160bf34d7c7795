"""Stage: static int8, by calibration alone (PTQ) or with training on top (QAT)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import processes
from edgekd.config import QuantizeConfig
from edgekd.errors import TrainingError, UsageError
from edgekd.latency.costs import Costs
from edgekd.latency.network import layers_at
from edgekd.latency.profile import in_either
from edgekd.nodes import Node
from edgekd.prune import zeros
from edgekd.quantize import gaps, mixed, qat
from edgekd.quantize.schemes import QuantizedNet
from edgekd.stages import saved, twins
from edgekd.stages.context import Context
from edgekd.stages.distill import History, learn

CostsMs = dict[str, dict[str, float]]  # target -> path of a layer -> what it takes longer in float


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the fake-quantized network and what rebuilds its quantizers."""
    config = QuantizeConfig.model_validate(node.config["quantize"])
    if "clocks" not in node.config:  # which layers are cheapest in float is a matter of a node's targets
        for twin, entry in twins.of(node, context):
            context.display.line(f"  from the network that {twin.label} came from: that is done already")
            entry.copy_to(folder)
            return entry.result
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
    floats, costs_ms = list(config.float_layers), CostsMs()
    if config.max_val_drop_pp is not None:
        needed, costs_ms = _needed(net, config.max_val_drop_pp, node, context, floats)
        floats += needed
        net = mixed.in_float(net, example, floats)
    if config.float_weights == "fp16":
        mixed.round_to_halves(net, floats)
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
        "float_costs_ms": costs_ms,
        "history": history,
        "val_accuracy_calibrated": calibrated,
        "val_accuracy": saved.accuracy_on(net, "val", context),
    }


def _needed(
    net: QuantizedNet, most_pp: float, node: Node, context: Context, floats: Sequence[str]
) -> tuple[list[str], CostsMs]:
    """What has to go back to float for the accuracy on val to fall by no more than that, and its costs.

    Raises:
        TrainingError: not even with all layers in float does it.
    """
    example = saved.example_input(context.task)
    least = context.parent(node, "network").result["val_accuracy"] - most_pp
    ranked = [
        (layer["path"], layer["logit_error"])
        for layer in context.parent(node, "sensitivity").result["layers"]
        if layer["path"] not in floats
    ]

    @functools.cache
    def accuracy(paths: frozenset[str]) -> float:
        return saved.accuracy_on(mixed.in_float(net, example, {*floats, *paths}), "val", context)

    if accuracy(frozenset()) >= least:
        return [], {}
    costs_ms = _costs_ms([path for path, _ in ranked], node, context)
    costs = _weighed(costs_ms) or {layer.path: layer.macs for layer in mixed.layers(net, example)}
    found = mixed.cheapest(ranked, costs, lambda paths: accuracy(frozenset(paths)) >= least)
    if found is None:
        best = accuracy(frozenset(path for path, _ in ranked))
        raise TrainingError(
            f"quantize.max_val_drop_pp = {most_pp}: with all layers in float the accuracy on val is still "
            f"{best:.2f}%, {least:.2f}% is asked for",
            hint="train longer, or allow more",
        )
    context.display.line(f"  back to float for the accuracy on val: {', '.join(found)}")
    return found, {target: {path: by_path[path] for path in found} for target, by_path in costs_ms.items()}


def _costs_ms(paths: Sequence[str], node: Node, context: Context) -> CostsMs:
    """For each target what each layer takes longer in float; nothing where tables do not know.

    All targets' files come from one network, so each of them has the layer in float.
    """
    found: CostsMs = {}
    if processes.rank() == 0:  # the others wait meanwhile, and disturb no clock
        try:
            found = _timed_ms(paths, node, context)
        except UsageError as error:
            context.display.line(f"  layers in float are weighed by multiply-accumulates: {error}")
    return processes.tell(found)  # type: ignore[no-any-return]


def _weighed(costs_ms: CostsMs) -> dict[str, float]:
    """One cost a layer: its share of what all layers in float cost, summed over targets of whatever speed."""
    found: dict[str, float] = {}
    for by_path in costs_ms.values():
        whole = sum(map(abs, by_path.values())) or 1.0
        for path, cost in by_path.items():
            found[path] = found.get(path, 0.0) + cost / whole
    return found


def _timed_ms(paths: Sequence[str], node: Node, context: Context) -> CostsMs:
    module = saved.load(context.parent(node, "network"), context)
    found_at = layers_at(module, saved.example_input(context.task), paths)
    within = {path: [layer for layer in layers if layer.weights] for path, layers in found_at.items()}
    found = {}
    for target in context.plan.targets:
        if target.name in node.targets:
            layers = dict.fromkeys(layer for path in paths for layer in within[path])
            table = in_either(target, layers, context.store, context.display)
            costs = Costs(table)
            more = {one: costs.of(replace(one, in_float=True)).value - costs.of(one).value for one in layers}
            found[target.name] = {
                path: table.unit_ms * sum(more[one] for one in within[path]) for path in paths
            }
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
