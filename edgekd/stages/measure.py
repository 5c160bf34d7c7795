"""Stage: time an artifact beside the float teacher and the float student, in one run, here or on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.measure.latency import measure_latency, subject
from edgekd.measurements import Protocol
from edgekd.nodes import Node
from edgekd.stages.context import Context, artifact_of
from edgekd.stages.evaluate import opened
from edgekd.stages.export import layout_of


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the raw latencies of each file; returns what was measured, by the file's export label."""
    settings = node.config["protocol"]
    # A smoke run shows that measuring works; nobody reads its milliseconds.
    protocol = (
        Protocol(2, 10, 0.01, 1, settings["num_threads"])
        if settings["smoke"]
        else Protocol(
            **{k: v for k, v in settings.items() if k != "smoke"} | {"cores": tuple(settings["cores"])}
        )
    )
    labels = [
        label
        for role, label in node.parents.items()
        if role.startswith("artifact") and context.entries[label].result.get("absent") is None
    ]
    sample = context.task.input_spec.preprocess(np.asarray(context.task.splits["val"].inputs[:1]))
    subjects = []
    for place, label in enumerate(labels):
        # What ships must run on the target's own backend; the references stand beside it as they can.
        delegate = node.config["delegate"] if place == 0 else "cpu"
        artifact = artifact_of(context.entries[label], label, context.task)
        layout = layout_of(artifact.format)
        subjects.append(
            subject(artifact, node.config["runtime"], delegate=delegate, layout=layout, sample=sample)
        )
    # Whether the device is the target is a question of the target, asked when the report is written.
    with opened(node, context) as run_job:
        found = measure_latency(
            subjects,
            protocol,
            "measured",
            device="this computer",
            seed=context.seed,
            display=context.display,
            run=run_job,
        )
    result = {}
    for label, measurement in zip(labels, found, strict=True):
        name = f"{label}.npz"
        np.savez(folder / name, latency_ms=measurement.latency_ms, process=measurement.process)
        result[label] = {
            "raw": name,
            "runtime": measurement.runtime,
            "runtime_version": measurement.runtime_version,
            "delegate": measurement.delegate,
            "emulated": measurement.kind == "emulated",  # a GPU that is a program
            "gpu_unsure": measurement.kind == "host",  # it may be such a program
            "gpu": measurement.gpu,
            "operators_delegated": measurement.operators_delegated,
            "operators_total": measurement.operators_total,
            "partitions": measurement.partitions,
            "protocol": asdict(measurement.protocol),
            "first_ms": list(measurement.first_ms),
            "init_ms": list(measurement.init_ms),
            "peak_memory_bytes": measurement.peak_memory_bytes,
            "conditions": [asdict(process) for process in measurement.conditions],
        }
    return result
