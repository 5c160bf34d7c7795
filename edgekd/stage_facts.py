"""What a report says of a stage beside its accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd import timings
from edgekd.nodes import Emission, Node, Plan
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


def outputs_from(context: Context, emission: Emission) -> schema.DeviceOutputs | None:
    """The device that a file's judged outputs came from, and how far they are from those here."""
    place = context.plan.node(emission.evaluate).config.get("device")
    if place is None:
        return None
    result = context.entries[emission.evaluate].result
    return schema.DeviceOutputs(
        device=place["name"],
        delegate=context.plan.node(emission.evaluate).config["delegate"],
        backend=result["backend"],
        parity=parity(result["parity"]),
        output_range=result["output_range"],
    )


def parity(found: Mapping[str, Any]) -> schema.ParityRecord:
    """A stage's parity as the report has it."""
    return schema.ParityRecord(**{**found, "batch_sizes": tuple(found["batch_sizes"])})
