"""What a report says of a stage beside its accuracy."""

from __future__ import annotations

from collections.abc import Mapping

from edgekd import timings
from edgekd.nodes import Node, Plan
from edgekd.report import schema
from edgekd.report.records import PredictedLatency
from edgekd.stages.context import Context


def predicted(plan: Plan, node: Node, found: Mapping[str, float] | None) -> PredictedLatency | None:
    """What was predicted, with what it was measured on: told for all targets that share the network."""
    if found is None:
        return None
    if "table_sha256" in node.config:  # accepted as the targets' own
        return PredictedLatency(**found, kind="measured")
    kinds = {timings.kind_here(target) for target in plan.targets if target.name in node.targets}
    return PredictedLatency(**found, kind="measured" if kinds == {"measured"} else "host")


def sensitivity(context: Context, node: Node) -> tuple[schema.LayerSensitivity, ...]:
    """Of a quantized network, where its layers were measured."""
    if node.stage != "quantize":
        return ()
    network = node.parents["network"]
    ranked = [n for n in context.plan.nodes if n.stage == "sensitivity" and n.parents["network"] == network]
    found = [layer for n in ranked for layer in context.entries[n.label].result["layers"]]
    return tuple(schema.LayerSensitivity(**layer) for layer in found)
