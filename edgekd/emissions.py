"""From a network to each target's file: the nodes that quantize, export, run and time it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd import lessons
from edgekd.config import EmissionConfig, Recipe, Target
from edgekd.devices.places import Place
from edgekd.errors import UsageError
from edgekd.latency.table import Clock
from edgekd.nodes import STATIC, Builder, Emission
from edgekd.store import hash_of
from edgekd.target_settings import GPUS


def emit(
    builder: Builder,
    recipe: Recipe,
    target: Target,
    data: str,
    teacher: str | None,
    network: str,
    calibration: str,
    place: Place | None,
    host: Mapping[str, Any],
    clocks: Sequence[Clock],
) -> Emission:
    """The nodes of one target's file.

    Args:
        builder: takes them.
        recipe: the chain.
        target: whom the file is for.
        data: label of the data node.
        teacher: of the teacher's, if there is one.
        network: of the network's that is quantized.
        calibration: of the calibration's.
        place: the device that the file is judged on; None for this computer.
        host: what identifies this computer for measurements.
        clocks: that layers in float are weighed by.
    """
    name, emission = target.name, target.artifact
    from_file = recipe.student is not None and recipe.student.onnx is not None
    if from_file and emission.format != "onnx":
        raise UsageError(
            f"target {name!r} takes {emission.format}, but an ONNX file can only be emitted as ONNX",
            hint="choose ONNX targets, or give the student as a network",
        )
    source = network
    if emission.scheme == STATIC and not from_file:
        source = _quantized(builder, recipe, data, teacher, calibration, network, clocks)
    export = _export(builder, source, emission, data, calibration if from_file else None, name)
    student_float = _export(builder, network, _float(emission), data, None, name)
    teacher_float = None
    if teacher is not None and _can_be_emitted(builder, teacher, emission):
        # A teacher that ships nothing may be one that this format cannot express.
        teacher_float = _export(
            builder, teacher, _float(emission), data, None, name, may_fail=teacher != network
        )
    references = [label for label in (teacher_float, student_float) if label is not None]
    evaluate = _evaluated(builder, target, data, export, place)
    for label in references:
        config = {"runtime": target.runtime.name, "delegate": "cpu"}
        builder.add(evaluation_of(label), "evaluate", config, {"data": data, "export": label}, name)
    measure = _measured(builder, recipe, target, data, [export, *references], place, host)
    return Emission(export, evaluate, measure, teacher_float, student_float)


def _evaluated(builder: Builder, target: Target, data: str, export: str, place: Place | None) -> str:
    """The node whose outputs are judged: of the file on its device, or here."""

    def run(delegate: str, where: dict[str, Any], parents: dict[str, str]) -> str:
        on = f"-on-{place['name']}" if place is not None and where else ""
        label = evaluation_of(export) + ("" if delegate == "cpu" else f"-{delegate}") + on
        config = {"runtime": target.runtime.name, "delegate": delegate, **where}
        needs = {"data": data, "export": export, **parents}
        return builder.add(label, "evaluate", config, needs, target.name)

    here = run(stand_in(target.runtime.delegate), {}, {})
    return here if place is None else run(target.runtime.delegate, {"device": place}, {"here": here})


def _measured(
    builder: Builder,
    recipe: Recipe,
    target: Target,
    data: str,
    exports: Sequence[str],
    place: Place | None,
    host: Mapping[str, Any],
) -> str:
    """The node that times a target's file, the first of them, beside the others."""
    protocol = {
        "smoke": recipe.smoke,
        "num_threads": target.runtime.num_threads,
    } | target.protocol.model_dump()
    together, delegate = list(dict.fromkeys(exports)), target.runtime.delegate
    measured = {
        "runtime": target.runtime.name,
        "delegate": stand_in(delegate) if place is None else delegate,
        "protocol": protocol,
        **({"host": dict(host)} if place is None else {"device": place}),
    }
    return builder.add(
        f"measure-{hash_of([measured, together])[:8]}",
        "measure",
        measured,
        {"data": data, **{f"artifact{i}": label for i, label in enumerate(together)}},
        target.name,
    )


def _can_be_emitted(builder: Builder, teacher: str, emission: EmissionConfig) -> bool:
    """A network may be written in any format, several as one; a file is timed in its own."""
    node = builder.nodes[teacher]
    if node.config.get("modality") is not None:
        return False  # timed beside the student it would be fed something else
    if node.stage == "ensemble":
        members = [label for role, label in node.parents.items() if role != "data"]
        networks = all(builder.nodes[label].stage == "network" for label in members)
        return networks and node.config["weights"] != "confidence"
    own = node.stage == "file" and str(node.config.get("path")).endswith(".onnx")
    return node.stage not in lessons.OUTPUTS_ONLY or (own and emission.format == "onnx")


def evaluation_of(export: str) -> str:
    """The label of the node that runs an exported file on the test split, as the runtime likes."""
    return export.replace("export", "evaluate", 1)


def stand_in(delegate: str) -> str:
    """What the file runs on here: a GPU target's accuracy is judged on the processor, its time is not."""
    return "cpu" if delegate in GPUS else delegate


def _float(emission: EmissionConfig) -> EmissionConfig:
    """The same network in float; it never ships, so it may use operators that the target lacks."""
    return emission.model_copy(update={"scheme": "fp32", "unavailable_ops": ()})


def _quantized(
    builder: Builder,
    recipe: Recipe,
    data: str,
    teacher: str | None,
    calibration: str,
    network: str,
    clocks: Sequence[Clock],
) -> str:
    config = recipe.quantize
    if config is None:
        raise UsageError(
            "a target has the scheme static_wi8_ai8, but the recipe has no [quantize]",
            hint='add [quantize] with method = "qat" or "ptq"',
        )
    told = {}
    if config.method == "qat":
        told = lessons.told(builder, config, data, lessons.taught_by(builder, config, data, teacher, network))
    parents = {"data": data, "calibration": calibration, "network": network}
    if config.sensitivity or config.chooses_floats:
        ranked = builder.add(f"sensitivity-{network}", "sensitivity", {}, parents)
        told |= {"sensitivity": ranked} if config.chooses_floats else {}
    settings = {"quantize": config.model_dump(exclude={"sensitivity"}), **lessons.own_losses(builder, config)}
    if config.chooses_floats:  # which layers are cheapest in float is a matter of these
        settings["clocks"] = [clock.model_dump() for clock in clocks]
    return builder.add(f"quantize-{network}", "quantize", settings, {**parents, **told})


def _export(
    builder: Builder,
    source: str,
    emission: EmissionConfig,
    data: str,
    calibration: str | None,
    target: str,
    may_fail: bool = False,
) -> str:
    config = {
        "format": emission.format,
        "scheme": emission.scheme,
        "activations": emission.activation_signedness if emission.scheme == STATIC else None,
        "unavailable_ops": list(emission.unavailable_ops),
        "may_fail": may_fail,
    }
    parts = [source, emission.format, emission.scheme]
    if emission.scheme == STATIC and emission.format == "onnx":
        parts.append(emission.activation_signedness)
    if emission.unavailable_ops:
        parts.append(hash_of(config)[:6])
    parents = {"data": data, "model": source, "calibration": calibration}
    return builder.add("export-" + "-".join(parts), "export", config, parents, target)
