"""What the measure stages found, as the report records it: raw values kept, ratios side by side."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.config import Target
from edgekd.devices.local import local_kind
from edgekd.gate.statistics import bootstrap_ratio_of_medians, percentile_interval, ratio_of_medians
from edgekd.report import schema
from edgekd.store import Entry, sha256_file
from edgekd.types import Kind


def read(entry: Entry) -> dict[str, dict[str, Any]]:
    """Export label -> what a measure stage found, with the raw arrays."""
    found = {}
    for label, result in entry.result.items():
        with np.load(entry.file(result["raw"]), allow_pickle=False) as raw:
            found[label] = {**result, "latency_ms": raw["latency_ms"], "process": raw["process"]}
    return found


def record(
    found: Mapping[str, Any], target: Target, name: str, stage: str, folder: Path, host: Mapping[str, Any]
) -> schema.MeasurementRecord:
    """One file's figures under one target's protocol; its raw values are written below `folder`.

    Args:
        found: one of the values of `read`.
        target: whose protocol it was.
        name: the artifact's id in the report.
        stage: label of the measure stage.
        folder: the run's folder.
        host: this computer.
    """
    values: NDArray[np.float64] = found["latency_ms"]
    process: NDArray[np.int64] = found["process"]
    raw = f"measurements/{stage}-{name}.npz"
    if not (folder / raw).exists():
        np.savez_compressed(folder / raw, latency_ms=values, process=process)
    return schema.MeasurementRecord(
        artifact_id=name,
        target=target.name,
        device=str(host["cpu"]),
        runtime=found["runtime"],
        runtime_version=found["runtime_version"],
        delegate=found["delegate"],
        kind=kind(target),
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
        raw_path=raw,
        raw_sha256=sha256_file(folder / raw),
    )


def kind(target: Target) -> Kind:
    """A figure counts as measured on the target's own hardware; a GPU's file ran on the processor here."""
    return "host" if target.runtime.delegate == "gpu" else local_kind(target)


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
