"""Which layers of a quantized network go back to float, by what that takes in the targets' runtimes."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from edgekd.config import QuantizeConfig
from edgekd.errors import TrainingError, UsageError
from edgekd.latency.costs import Costs
from edgekd.latency.network import layers_at
from edgekd.latency.profile import clock_here, in_either
from edgekd.layers import Layer
from edgekd.nodes import Node
from edgekd.quantize import mixed
from edgekd.quantize.schemes import QuantizedNet
from edgekd.stages import judged, saved
from edgekd.stages.context import Context

CostsMs = dict[str, dict[str, float]]  # clock -> path of a layer -> what it takes longer in float

_BY_MACS = "  layers in float are weighed by multiply-accumulates"


def left(net: QuantizedNet, paths: Iterable[str], config: QuantizeConfig, context: Context) -> QuantizedNet:
    """A copy with these layers in float, as it ships."""
    chosen = list(paths)
    found = mixed.in_float(net, saved.example_input(context.task), chosen)
    if config.float_weights == "fp16":
        mixed.round_to_halves(found, chosen)
    return found


def needed(
    net: QuantizedNet, config: QuantizeConfig, node: Node, context: Context
) -> tuple[list[str], CostsMs]:
    """What has to go back to float besides the layers named, for what is judged to fall by no more on val
    than `max_val_drop_pp` or `max_val_drop`, and its costs.

    Raises:
        TrainingError: not even with all layers in float does it.
    """
    metric = context.plan.recipe.gate.judged
    key = "max_val_drop" if config.max_val_drop_pp is None else "max_val_drop_pp"
    allowed, percent = getattr(config, key), metric.unit == "percent"
    before = judged.needed_on("val", saved.val_scores(context.parent(node, "network")), context)
    sign = 1 if metric.direction == "higher" else -1
    least = sign * before - allowed
    ranked = [
        (layer["path"], layer["logit_error"])
        for layer in context.parent(node, "sensitivity").result["layers"]
        if layer["path"] not in config.float_layers
    ]

    @functools.cache
    def figure(paths: frozenset[str]) -> float:
        module = left(net, {*config.float_layers, *paths}, config, context)
        return sign * judged.needed_on("val", saved.scores_on(module, "val", context), context)

    def shown(value: float) -> str:
        return f"{sign * value:.2f}%" if percent else f"{sign * value:.4f}"

    if figure(frozenset()) >= least:
        return [], {}
    everything = frozenset(path for path, _ in ranked)
    if figure(everything) < least:
        raise TrainingError(
            f"quantize.{key} = {allowed}: with all layers in float the {metric.name} on "
            f"val is still {shown(figure(everything))}, {shown(least)} is asked for",
            hint="train longer, or allow more",
        )
    costs_ms = _costs_ms([path for path, _ in ranked], node, context)
    macs = {layer.path: layer.macs for layer in mixed.layers(net, saved.example_input(context.task))}
    found = mixed.cheapest(
        ranked, _weighed(costs_ms) or macs, lambda paths: figure(frozenset(paths)) >= least
    )
    context.display.line(f"  back to float for the {metric.name} on val: {', '.join(found)}")
    return found, {clock: {path: by_path[path] for path in found} for clock, by_path in costs_ms.items()}


def _costs_ms(paths: Sequence[str], node: Node, context: Context) -> CostsMs:
    """By each clock of the node's targets; nothing where tables do not know the network."""
    module = saved.load(context.parent(node, "network"), context)
    try:
        within = _within(module, paths, context)
    except UsageError as error:
        context.display.line(f"{_BY_MACS}: {error}")
        return {}
    layers, found = {layer for layers in within.values() for layer in layers}, {}
    for target in context.plan.targets:
        if target.name not in node.targets:
            continue  # it may have no clock: another network's, or a scheme without tables
        clock = clock_here(target)
        # Targets whose clocks are one here have one voice; a delegate that is not here has none.
        if clock.label not in found and clock.model_dump() in node.config["clocks"]:
            table = in_either(target, layers, context.store, context.display)
            costs = Costs(table)
            more = {one: costs.of(replace(one, in_float=True)).value - costs.of(one).value for one in layers}
            found[clock.label] = {
                path: table.unit_ms * sum(more[one] for one in within[path]) for path in paths
            }
    if not found:
        context.display.line(f"{_BY_MACS}: none of the targets' delegates has a clock here")
    return found


def _within(module: nn.Module, paths: Sequence[str], context: Context) -> Mapping[str, Sequence[Layer]]:
    """What runs with the weights at each path.

    Raises:
        UsageError: tables do not know the network, or nothing with weights was seen to run there.
    """
    known = dict(module.named_modules())
    if missing := [path for path in paths if path not in known]:
        raise UsageError(f"{missing[0]!r} is no module, and its time is not known")
    # Modules may share their weights, and go by the first one's name.
    sharing = {
        path: [path]
        if known[path].weight is None  # a norm without factors, which is a layer of its own in integers
        else [name for name, other in known.items() if getattr(other, "weight", None) is known[path].weight]
        for path in paths
    }
    seen = layers_at(
        module, saved.example_input(context.task), {n for names in sharing.values() for n in names}
    )
    found = {
        path: [layer for name in names for layer in seen[name] if layer.weights]
        for path, names in sharing.items()
    }
    if unseen := [path for path, layers in found.items() if not layers]:
        raise UsageError(f"{unseen[0]!r} is not called as a module, and its time is not known")
    return found


def _weighed(costs_ms: CostsMs) -> dict[str, float]:
    """One cost a layer: its share of what all layers in float cost, summed over clocks of whatever speed."""
    found: dict[str, float] = {}
    for by_path in costs_ms.values():
        whole = sum(map(abs, by_path.values())) or 1.0
        for path, cost in by_path.items():
            found[path] = found.get(path, 0.0) + cost / whole
    return found
