"""What the measure stages found, as the report records it: raw values kept, ratios side by side."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.config import Target
from edgekd.devices import places as places_of
from edgekd.devices.local import local_kind
from edgekd.devices.places import Place
from edgekd.emissions import stand_in
from edgekd.gate.statistics import bootstrap_ratio_of_medians, percentile_interval, ratio_of_medians
from edgekd.measurements import Kind
from edgekd.nodes import Node, Plan
from edgekd.report import schema
from edgekd.store import Entry, sha256_file


def read(entry: Entry) -> dict[str, dict[str, Any]]:
    """Export label -> what a measure stage found, with the raw arrays."""
    found = {}
    for label, result in entry.result.items():
        with np.load(entry.file(result["raw"]), allow_pickle=False) as raw:
            found[label] = {**result, "latency_ms": raw["latency_ms"], "process": raw["process"]}
    return found


def places(plan: Plan) -> list[Place]:
    """The devices that files of a run were timed on."""
    measures = dict.fromkeys(emission.measure for emission in plan.emissions.values())
    found = (plan.node(label).config.get("device") for label in measures)
    return [place for place in found if place is not None]


def record(
    found: Mapping[str, Any], target: Target, name: str, measure: Node, folder: Path
) -> schema.MeasurementRecord:
    """One file's figures under one target's protocol; its raw values are written below `folder`.

    Args:
        found: one of the values of `read`.
        target: whose protocol it was.
        name: the artifact's id in the report.
        measure: the stage that timed it, on the device or the computer that its settings name.
        folder: the run's folder.
    """
    place = measure.config.get("device")
    values: NDArray[np.float64] = found["latency_ms"]
    process: NDArray[np.int64] = found["process"]
    raw = f"measurements/{measure.label}-{name}.npz"
    if not (folder / raw).exists():
        np.savez_compressed(folder / raw, latency_ms=values, process=process)
    return schema.MeasurementRecord(
        artifact_id=name,
        target=target.name,
        device=str(measure.config["host"]["cpu"]) if place is None else place["name"],
        runtime=found["runtime"],
        runtime_version=found["runtime_version"],
        delegate=found["delegate"],
        kind=kind_of(found, measure, target),
        gpu=found["gpu"],
        operators_delegated=found["operators_delegated"],
        operators_total=found["operators_total"],
        partitions=found["partitions"],
        num_threads=found["protocol"]["num_threads"],
        num_runs=len(values),
        num_processes=len(np.unique(process)),
        median_ms=float(np.median(values)),
        p90_ms=float(np.percentile(values, 90)),
        p99_ms=float(np.percentile(values, 99)) if len(values) >= 1000 else None,
        first_ms=statistics.median(found["first_ms"]),
        init_ms=statistics.median(found["init_ms"]),
        process_medians_ms=tuple(float(np.median(values[process == p])) for p in np.unique(process)),
        peak_memory_bytes=found["peak_memory_bytes"],
        warmup_runs=found["protocol"]["warmup_runs"],
        min_runs=found["protocol"]["min_runs"],
        min_seconds=found["protocol"]["min_seconds"],
        cooldown_s=found["protocol"]["cooldown_s"],
        conditions=tuple(_conditions(each) for each in found["conditions"]),
        raw_path=raw,
        raw_sha256=sha256_file(folder / raw),
    )


def _conditions(found: Mapping[str, Any]) -> schema.ConditionsRecord:
    tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return schema.ConditionsRecord(**tuples)


def kind_of(found: Mapping[str, Any], measure: Node, target: Target) -> Kind:
    """Whether what a stage timed a file on is the target."""
    if found["emulated"]:
        return "emulated"
    place = measure.config.get("device")
    kind = kind_here(target) if place is None else places_of.kind_of(place, target)
    return "host" if found["gpu_unsure"] and kind == "measured" else kind


def kind_here(target: Target) -> Kind:
    """A figure counts as measured on the target's own hardware; a GPU's file ran on the processor here."""
    return local_kind(target) if stand_in(target.runtime.delegate) == target.runtime.delegate else "host"


def ratio(
    slow: Mapping[str, Any] | None, fast: Mapping[str, Any], alpha: float, seed: int
) -> schema.Ratio | None:
    """How many times faster `fast` is, both timed in the same processes, with a bootstrap interval."""
    if slow is None:
        return None
    rng = np.random.default_rng(seed)
    over, under = ((m["latency_ms"], m["process"]) for m in (slow, fast))
    lower, upper = percentile_interval(bootstrap_ratio_of_medians(over, under, rng), alpha)
    return schema.Ratio(value=ratio_of_medians(over, under), lower=lower, upper=upper)
