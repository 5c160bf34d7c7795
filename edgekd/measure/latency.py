"""Latency of files in their runtime: fresh processes, files in turns, raw values kept."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.devices.events import Event, RunJob
from edgekd.devices.local import run_agent
from edgekd.errors import MeasurementError
from edgekd.layouts import Layout, to_layout
from edgekd.measure.memory import peak_memory_bytes
from edgekd.measurements import Conditions, Kind, Measurement, Protocol
from edgekd.progress import QUIET, Display
from edgekd.types import Artifact

_ON_PROCESSOR = ("cpu", "xnnpack")


@dataclass(frozen=True)
class Subject:
    """One file to be timed.

    Attributes:
        id: unique among the files timed together.
        path: the model file.
        runtime: a name of `edgekd.runtimes.RUNTIMES`.
        delegate: backend in the runtime.
        sample: one input (1, ...) in the file's layout; None for a random one.
    """

    id: str
    path: Path
    runtime: str
    delegate: str = "cpu"
    sample: NDArray[Any] | None = None


def subject(
    artifact: Artifact,
    runtime: str,
    *,
    delegate: str = "cpu",
    layout: Layout = "NCHW",
    sample: NDArray[Any] | None = None,
) -> Subject:
    """An artifact as a `Subject`; `sample` is a model input (1, *input_spec.shape), preprocessed."""
    arranged = None if sample is None else to_layout(sample, layout)
    return Subject(artifact.id, artifact.path, runtime, delegate, arranged)


def measure_latency(
    subjects: Sequence[Subject],
    protocol: Protocol,
    kind: Kind,
    *,
    device: str,
    seed: int = 0,
    time_limit_s: float = 600.0,
    display: Display = QUIET,
    run: RunJob = run_agent,
) -> tuple[Measurement, ...]:
    """One measurement a file, in the order given.

    Each of `protocol.num_processes` fresh processes loads all files and times
    them in turns, so that a slow spell of the machine meets all of them alike.
    Peak memory comes from a further process for each file.

    Args:
        subjects: files that are compared with each other, of one target.
        protocol: runs, seconds, processes and threads.
        kind: whether what it runs on is the target (`edgekd.devices.local.is_target`).
        device: what the runs are on, for the record.
        seed: of random inputs.
        time_limit_s: for each process.
        display: where progress is shown.
        run: does the agent's jobs, here or on a device.

    Raises:
        MeasurementError: a file does not run, or on another backend than asked for.
    """
    ids = [s.id for s in subjects]
    if len(set(ids)) != len(ids):
        raise MeasurementError(f"two files are timed under one id: {', '.join(sorted(ids))}")
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        models = [_model(s, protocol.num_threads, Path(folder)) for s in subjects]
        job = {
            "mode": "latency",
            "models": models,
            "warmup_runs": protocol.warmup_runs,
            "min_runs": math.ceil(protocol.min_runs / protocol.num_processes),
            "min_seconds": protocol.min_seconds / protocol.num_processes,
            "seed": seed,
            "cores": list(protocol.cores),
        }
        processes = []
        for number in display.track(range(protocol.num_processes), "latency", protocol.num_processes):
            time.sleep(protocol.cooldown_s if number else 0.0)
            processes.append(run(job, time_limit_s=time_limit_s))
        loaded = display.track(models, "memory", len(models))
        memory = [peak_memory_bytes(m, seed=seed, time_limit_s=time_limit_s, run=run) for m in loaded]
    return tuple(
        _measurement(s, processes, peak, protocol, kind, device)
        for s, peak in zip(subjects, memory, strict=True)
    )


def _model(one: Subject, num_threads: int, folder: Path) -> dict[str, Any]:
    stored = None
    if one.sample is not None:
        stored = folder.resolve() / f"{len(list(folder.iterdir()))}.npy"
        np.save(stored, one.sample, allow_pickle=False)
    return {**job_model(one, num_threads), "input": None if stored is None else str(stored)}


def job_model(one: Subject, num_threads: int) -> dict[str, Any]:
    """A file as the model of an agent's job."""
    return {
        "id": one.id,
        "path": str(one.path.resolve()),
        "runtime": one.runtime,
        "delegate": one.delegate,
        "num_threads": num_threads,
    }


def _measurement(
    one: Subject,
    processes: Sequence[tuple[Event, ...]],
    peak: int,
    protocol: Protocol,
    kind: Kind,
    device: str,
) -> Measurement:
    session = [_event(events, "session", one.id) for events in processes]
    first = [_event(events, "first", one.id) for events in processes]
    values = [_event(events, "latency", one.id)["values_ms"] for events in processes]
    if any(s["num_threads"] != protocol.num_threads for s in session):
        raise MeasurementError(f"{one.id}: the runtime did not take {protocol.num_threads} threads")
    kind = kind_on_gpu(kind, one.delegate, [s.get("software_gpu") for s in session])
    return Measurement(
        artifact_id=one.id,
        device=device,
        runtime=one.runtime,
        runtime_version=str(session[0]["version"]),
        delegate=str(session[0]["backend"]),
        kind=kind,
        protocol=protocol,
        latency_ms=np.concatenate([np.asarray(v, np.float64) for v in values]),
        process=np.repeat(np.arange(len(values)), [len(v) for v in values]),
        first_ms=tuple(float(f["first_ms"]) for f in first),
        init_ms=tuple(float(s["init_ms"]) for s in session),
        peak_memory_bytes=peak,
        conditions=tuple(_conditions(events, one.id, protocol) for events in processes),
        operators_delegated=session[0].get("operators_delegated"),
        operators_total=session[0].get("operators_total"),
        partitions=session[0].get("partitions"),
        gpu=session[0].get("gpu"),
    )


def kind_on_gpu(kind: Kind, delegate: str, software: Sequence[bool | None]) -> Kind:
    """What times are, of a kind by their device, where a GPU may have been a program on the processor.

    Args:
        kind: by the device.
        delegate: that the target asks for.
        software: what each process said of its GPU; None where no driver tells, or none ran.
    """
    if any(software):
        return "emulated"  # its times are no GPU's
    unsure = delegate not in _ON_PROCESSOR and None in software
    return "host" if unsure and kind == "measured" else kind


def _conditions(events: Sequence[Event], model: str, protocol: Protocol) -> Conditions:
    found = next((event for event in events if event["event"] == "conditions"), None)
    if found is None:
        raise MeasurementError(f"{model}: the agent said nothing of its conditions")
    before, after = found["before"], found["after"]
    if protocol.cores and sorted(set(protocol.cores)) != sorted(found["cores"]):
        raise MeasurementError(
            f"{model}: cores {list(protocol.cores)} were asked for, it was timed on {found['cores']}"
        )

    def grown(name: str) -> Any:
        if before[name] is None or after[name] is None:
            return None
        if after[name] < before[name]:
            raise MeasurementError(
                f"{model}: {name} shrank from {before[name]} to {after[name]} while it was timed",
                hint="a counter that only grows; run it again where the process was moved meanwhile",
            )
        return after[name] - before[name]

    def both(name: str) -> Any:
        return None if before[name] is None or after[name] is None else (before[name], after[name])

    return Conditions(
        cores=tuple(found["cores"]),
        throttled_ms=grown("throttled_ms"),
        hot_events=grown("hot_events"),
        firmware=tuple(sorted({*before["firmware"], *after["firmware"]})),
        clock_khz=both("clock_khz"),
        temperature_c=both("temperature_c"),
    )


def _event(events: Sequence[Event], name: str, model: str) -> Event:
    found = next((event for event in events if event["event"] == name and event["id"] == model), None)
    if found is None:
        raise MeasurementError(f"{model}: the agent said nothing of its {name}")
    return found
