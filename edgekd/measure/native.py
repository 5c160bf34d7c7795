"""Bench by Google's benchmark_model, where a phone has no Python: averages, by which nothing is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.config import Target
from edgekd.devices import android
from edgekd.devices.known import Device
from edgekd.devices.local import differences
from edgekd.errors import UsageError
from edgekd.measure.bench import PROTOCOL, sniff
from edgekd.measurements import Kind


@dataclass(frozen=True)
class NativeBench:
    """What `edgekd bench` found out about a file by benchmark_model.

    It is no `Measurement`: there are no times of single runs, and no outputs to compare.
    """

    path: Path
    size_bytes: int
    target: str | None
    kind: Kind
    num_threads: int
    device: str
    times: android.NativeTimes
    machine: Mapping[str, Any]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The findings for JSON."""
        return {
            "file": self.path.name,
            "format": "tflite",
            "size_bytes": self.size_bytes,
            "target": self.target,
            "kind": self.kind,
            "runtime": "benchmark_model",
            "num_threads": self.num_threads,
            **asdict(self.times),
            "device": self.device,
            "notes": list(self.notes),
            "host": dict(self.machine),
        }


def bench_natively(
    path: Path, name: str, device: Device, target: Target | None = None, num_threads: int | None = None
) -> NativeBench:
    """Size, and what benchmark_model says of latency and memory, on random inputs.

    Args:
        path: a TFLite file, known by its content.
        name: of the device.
        device: over ADB, with a benchmark_model.
        target: whose delegate and protocol to use; None for the processor.
        num_threads: threads for inference; None for the target's, or 1.

    Raises:
        UsageError: there is no such file, or it is no TFLite file, or not of the target's format; or
            benchmark_model has no such delegate.
        MeasurementError: it does not run there.
    """
    found = sniff(path)
    if found != "tflite":
        raise UsageError(f"{path}: its format is {found}, benchmark_model on {name} takes tflite")
    if target is not None and target.artifact.format != found:
        raise UsageError(
            f"{path}: its format is {found}, target {target.name} takes {target.artifact.format}"
        )
    delegate = target.runtime.delegate if target is not None else "cpu"
    if delegate not in android.DELEGATES:
        raise UsageError(
            f"benchmark_model on {name} has no delegate {delegate!r}",
            hint=f"it has {', '.join(android.DELEGATES)}",
        )
    host = android.machine_of(device)
    unlike = differences(host, target) if target is not None else []
    threads = num_threads or (target.runtime.num_threads if target is not None else 1)
    protocol = target.protocol if target is not None else PROTOCOL
    times = android.measure(
        device,
        path,
        delegate=delegate,
        num_threads=threads,
        warmup_runs=protocol.warmup_runs,
        num_runs=protocol.min_runs,
        min_seconds=protocol.min_seconds,
        cores=protocol.cores,
    )
    notes = [
        f"average of {times.num_runs} runs, by benchmark_model on random inputs: no percentiles, no outputs; "
        "nothing is judged by it"
    ]
    if target is not None and unlike:
        notes.append(f"{name} is not what target {target.name} stands for: {'; '.join(unlike)}")
    if target is not None:  # its runtime is part of what it is
        notes.append(f"target {target.name} names {target.runtime.name}: it ran in benchmark_model")
    kind: Kind = "emulated" if device.is_emulator else "host" if target is not None else "measured"
    size, named = path.stat().st_size, target.name if target is not None else None
    return NativeBench(path, size, named, kind, threads, name, times, host, tuple(notes))
