"""Bench: what any model file costs here, whoever made it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.config import Target
from edgekd.devices.board import Board
from edgekd.devices.events import RunJob
from edgekd.devices.local import local_kind, run_agent
from edgekd.devices.machine import host_info
from edgekd.errors import MeasurementError, UsageError
from edgekd.measure.inventory import inventory_of
from edgekd.measure.latency import Subject, measure_latency
from edgekd.progress import QUIET, Display
from edgekd.types import Format, Inventory, Kind, Measurement, Protocol

_PROTOCOL = Protocol(warmup_runs=10, min_runs=1000, min_seconds=1.0, num_processes=3, num_threads=1)
_RUNTIME = {"onnx": "onnxruntime", "tflite": "litert"}
_TFLITE_MAGIC = b"TFL3"


@dataclass(frozen=True)
class Bench:
    """What `edgekd bench` found out about a file."""

    path: Path
    format: Format
    size_bytes: int
    target: str | None
    measurement: Measurement
    inventory: Inventory
    machine: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The findings for JSON, without raw values."""
        m = self.measurement
        return {
            "file": self.path.name,
            "format": self.format,
            "size_bytes": self.size_bytes,
            "target": self.target,
            "kind": m.kind,
            "runtime": m.runtime,
            "runtime_version": m.runtime_version,
            "backend": m.delegate,
            "gpu": m.gpu,
            "operators_delegated": m.operators_delegated,
            "operators_total": m.operators_total,
            "partitions": m.partitions,
            "num_threads": m.protocol.num_threads,
            "num_runs": len(m.latency_ms),
            "num_processes": m.protocol.num_processes,
            "init_ms": statistics.median(m.init_ms),
            "first_ms": statistics.median(m.first_ms),
            "median_ms": m.median_ms,
            "p90_ms": m.p90_ms,
            "p95_ms": m.p95_ms,
            "p99_ms": m.p99_ms,
            "peak_memory_bytes": m.peak_memory_bytes,
            "int8_ops": self.inventory.int8_ops,
            "float_ops": self.inventory.float_ops,
            "operators": _tally(self.inventory),
            "device": m.device,
            "host": dict(self.machine),
        }


def bench(
    path: Path,
    target: Target | None = None,
    num_threads: int | None = None,
    *,
    protocol: Protocol = _PROTOCOL,
    seed: int = 0,
    display: Display = QUIET,
    board: Board | None = None,
    strict: bool = False,
) -> Bench:
    """Size, latency, peak memory and operators of a model file, on random inputs.

    Args:
        path: an ONNX or TFLite file, known by its content.
        target: whose runtime, delegate and protocol to use; None for the format's own.
        num_threads: threads for inference; None for the target's, or 1.
        protocol: of the runs, where no target is given.
        seed: of the random inputs.
        display: where progress is shown.
        board: an open device; None for this computer.
        strict: as long as MLPerf asks for: `Protocol.strict`.

    Raises:
        UsageError: there is no such file, or it is not of the target's format.
        MeasurementError: it is no model, or does not run.
    """
    found = sniff(path)
    runtime, delegate = _RUNTIME[found], "cpu"
    kind: Kind = local_kind(target) if target else "host"
    host: Mapping[str, Any] = host_info()
    device = target.name if target else "this computer"
    run: RunJob = run_agent
    if board is not None:
        host = board.machine()
        device, kind, run = board.name, board.kind(host, target), board.run
    if target is not None:
        if target.artifact.format != found:
            raise UsageError(
                f"{path}: its format is {found}, target {target.name} takes {target.artifact.format}"
            )
        runtime, delegate = target.runtime.name, target.runtime.delegate
        protocol = Protocol(**target.protocol.model_dump(), num_threads=target.runtime.num_threads)
    if strict:
        protocol = protocol.strict()
    if num_threads is not None:
        protocol = Protocol(**{**vars(protocol), "num_threads": num_threads})
    (measured,) = measure_latency(
        [Subject(path.name, path, runtime, delegate)],
        protocol,
        kind,
        device=device,
        seed=seed,
        display=display,
        run=run,
    )
    return Bench(
        path,
        found,
        path.stat().st_size,
        target.name if target else None,
        measured,
        inventory_of(path, found, run=run),
        host,
    )


def sniff(path: Path) -> Format:
    """The format of a file by its content; ONNX has no mark of its own, so its runtime decides.

    Raises:
        UsageError: there is no such file.
        MeasurementError: it is empty, or holds text.
    """
    if not path.is_file():
        raise UsageError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    with path.open("rb") as file:
        head = file.read(8)
    if not head:
        raise MeasurementError(f"{path}: the file is empty")
    if head[4:] == _TFLITE_MAGIC:
        return "tflite"
    # An ONNX file is a protobuf message: its first field is the IR version, tag 8.
    if head[0] != 0x08:
        raise MeasurementError(f"{path}: neither a TFLite nor an ONNX file")
    return "onnx"


def _tally(found: Inventory) -> dict[str, int]:
    """Operators by "TYPE dtype", the most frequent first."""
    counts: dict[str, int] = {}
    for operator in found.operators:
        key = f"{operator.op_type} {operator.dtype}".strip()
        counts[key] = counts.get(key, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
