"""Stage: static int8, by calibration alone (PTQ) or with training on top (QAT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgekd import processes
from edgekd.config import QuantizeConfig
from edgekd.errors import ExportError
from edgekd.folding import for_integers
from edgekd.nodes import Node
from edgekd.prune import zeros
from edgekd.quantize import gaps, mixed, qat
from edgekd.quantize.schemes import QuantizedNet
from edgekd.stages import float_layers, saved, twins
from edgekd.stages.context import Context
from edgekd.stages.distill import History, learn


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the fake-quantized network and what rebuilds its quantizers."""
    config = QuantizeConfig.model_validate(node.config["quantize"])
    if not config.chooses_floats:  # else it is a matter of each node's targets
        for twin, entry in twins.of(node, context):
            context.display.line(f"  from the network that {twin.label} came from: that is done already")
            entry.copy_to(folder)
            return entry.result
    source = context.parent(node, "network")
    net = qat.prepare(saved.load(source, context), calibration_inputs(node, context), context.plan.policy)
    example = saved.example_input(context.task)
    if config.float_layers:
        mixed.check_paths(for_integers(saved.load(source, context)), example, config.float_layers)
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
            hold = zeros.held(
                net, [f"body.{gaps.prefix(net.body)}{path}" for path in pruned["ignored_layers"]]
            )
        history = learn(net, config, node, context, after_step=hold)
    floats, costs_ms = list(config.float_layers), float_layers.CostsMs()
    if config.chooses_floats:
        needed, costs_ms = _needed(net, config, node, context)
        floats += needed
    if floats:
        net = float_layers.left(net, floats, config, context)
    robust = saved.robust_accuracy(net, config, context) if config.method == "qat" else {}
    architecture = {**saved.architecture_of(source), "quantizers": qat.describe(net)}
    heads = saved.save(folder, net, context, architecture)
    return {
        **heads,
        "params": source.result["params"],
        "macs": source.result["macs"],
        # Norms that have become layers of their own are none of the weights that were pruned.
        **{key: source.result[key] for key in ("nonzero_weights",) if key in source.result},
        **robust,
        "float_layers": floats,
        "float_weights": config.float_weights,
        "float_costs_ms": costs_ms,
        "history": history,
        "val_accuracy_calibrated": calibrated,
    }


def _needed(
    net: QuantizedNet, config: QuantizeConfig, node: Node, context: Context
) -> tuple[list[str], float_layers.CostsMs]:
    """As the first process finds it; the others wait meanwhile, and disturb no clock."""
    found = float_layers.needed(net, config, node, context) if processes.rank() == 0 else ([], {})
    # What is not trained is done by the first process alone.
    paths, costs_ms = processes.tell(found) if node.trainings else found
    return paths, costs_ms


def check(context: Context, left: Sequence[Node]) -> None:
    """Says, before any training, what of a network will compute in float in the int8 files.

    Args:
        context: the run.
        left: the nodes without a result.

    Raises:
        UsageError: quantize.float_layers names a layer that is not there.
        ExportError: the network has a norm with which it cannot be quantized.
    """
    for node in left:
        if node.stage == "quantize":
            network = context.plan.node(node.parents["network"])
            while network.stage == "prune":
                network = context.plan.node(network.parents["network"])
            module = for_integers(saved.fresh(dict(network.config), context))
            named = QuantizeConfig.model_validate(node.config["quantize"]).float_layers
            mixed.check_paths(module, saved.example_input(context.task), named)
            _check_norms(module, context)
            if found := gaps.float_operators(module, saved.example_input(context.task)):
                shown = ", ".join(f"{kind} ({times})" for kind, times in sorted(found.items()))
                context.display.line(
                    f"  {network.label}: no 8-bit kernels: {shown}; int8 files keep these in float"
                )


def _check_norms(module: nn.Module, context: Context) -> None:
    """Norms that have become no layer: NNCF stumbles over some of them, better now than after training."""
    norms = [p for p, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms:
        few = context.task.input_spec.preprocess(np.asarray(context.task.splits["train"].inputs[:4]))
        try:
            qat.prepare(module, few, context.plan.policy)
        except ExportError as error:
            raise ExportError(
                error.message,
                hint=f"{', '.join(norms)}: a norm of torch.nn right behind a convolution folds into it",
            ) from error


def calibration_inputs(node: Node, context: Context) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The drawn calibration samples (N, *shape), preprocessed."""
    picked = np.load(context.parent(node, "calibration").file("indices.npy"), allow_pickle=False)
    return context.task.input_spec.preprocess(context.task.splits["train"].inputs[picked])
