"""Bench: what any model file costs here, whoever made it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from edgekd.config import Target
from edgekd.devices.board import Board
from edgekd.devices.events import IllegalInstructionError, RunJob
from edgekd.devices.instructions import Instructions
from edgekd.devices.instructions import count as count_instructions
from edgekd.devices.local import differences, local_kind, run_agent
from edgekd.devices.machine import host_info
from edgekd.errors import MeasurementError, UsageError
from edgekd.measure.inventory import inventory_of
from edgekd.measure.latency import Subject, job_model, measure_latency
from edgekd.measurements import Kind, Measurement, Protocol
from edgekd.progress import QUIET, Display
from edgekd.types import Format, Inventory

PROTOCOL = Protocol(warmup_runs=10, min_runs=1000, min_seconds=1.0, num_processes=3, num_threads=1)
# With --count-instructions: an emulator's times are none, so little is spent on them.
_BRIEF = Protocol(warmup_runs=1, min_runs=10, min_seconds=0.0, num_processes=1, num_threads=1)
# What runs a format, the first that a board has.
_RUNTIMES: Mapping[Format, tuple[str, ...]] = {
    "onnx": ("onnxruntime",),
    "tflite": ("litert", "tflite_runtime"),
}
_PACKAGES = {
    "litert": "ai-edge-litert",
    "onnxruntime": "onnxruntime",
    "tflite_runtime": "tflite-runtime",
}
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
    instructions: Instructions | None = None
    notes: tuple[str, ...] = ()

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
            "conditions": [asdict(each) for each in m.conditions],
            **_counted(self.instructions),
            "int8_ops": self.inventory.int8_ops,
            "float_ops": self.inventory.float_ops,
            "operators": _tally(self.inventory),
            "device": m.device,
            "notes": list(self.notes),
            "host": dict(self.machine),
        }


def bench(
    path: Path,
    target: Target | None = None,
    num_threads: int | None = None,
    *,
    protocol: Protocol = PROTOCOL,
    seed: int = 0,
    display: Display = QUIET,
    board: Board | None = None,
    strict: bool = False,
    instructions: bool = False,
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
        instructions: whether to count those of an inference too, on a device that is an arm64 tree.

    Raises:
        UsageError: there is no such file, or it is not of the target's format.
        MeasurementError: it is no model, or does not run.
    """
    if instructions and board is None:
        raise UsageError(
            "instructions are counted on a device that is an arm64 tree of this computer",
            hint="edgekd devices add NAME --via qemu:///FOLDER --cpu cortex-a76, then --device NAME",
        )
    how = how_to(path, target, num_threads, protocol=protocol, board=board, strict=strict, brief=instructions)
    for note in how.notes:
        display.line(escape(note))
    try:
        # First, since it is refused at once where it cannot be.
        counted = _count(how, board, seed) if instructions and board else None
        (measured,) = measure_latency(
            [how.subject],
            how.protocol,
            how.kind,
            device=how.device,
            seed=seed,
            display=display,
            run=how.run,
        )
        notes = how.notes
        if doubt := _doubt(measured, how.kind):
            display.line(escape(doubt))
            notes = (*notes, doubt)
        return Bench(
            path,
            how.format,
            path.stat().st_size,
            target.name if target else None,
            measured,
            inventory_of(path, how.format, run=how.run, runtime=how.subject.runtime),
            how.machine,
            counted,
            notes,
        )
    except IllegalInstructionError as error:
        raise _explained(error, how.machine, target) from None


@dataclass(frozen=True)
class How:
    """Where and how a file is run.

    Attributes:
        subject: the file, with the runtime that is there.
        format: of the file.
        protocol: of the runs.
        kind: whether that is the target.
        device: its name.
        machine: what it is.
        run: does the agent's jobs there.
        notes: in what it is not what was asked for.
    """

    subject: Subject
    format: Format
    protocol: Protocol
    kind: Kind
    device: str
    machine: Mapping[str, Any]
    run: RunJob
    notes: tuple[str, ...]


def how_to(
    path: Path,
    target: Target | None,
    num_threads: int | None,
    *,
    protocol: Protocol = PROTOCOL,
    board: Board | None = None,
    strict: bool = False,
    brief: bool = False,
) -> How:
    """Where and how a file is run; the arguments are those of `bench`, `brief` is for what times nothing.

    Raises:
        UsageError: there is no such file, or it is not of the target's format.
        MeasurementError: it is no model, or the device has no runtime for it.
    """
    found = sniff(path)
    runtime, delegate = _RUNTIMES[found][0], "cpu"
    kind: Kind = local_kind(target) if target else "host"
    host: Mapping[str, Any] = host_info()
    device = target.name if target else "this computer"
    run: RunJob = run_agent
    notes: list[str] = []
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
        if board is not None and (unlike := differences(host, target)):
            notes.append(f"{board.name} is not what target {target.name} stands for: {'; '.join(unlike)}")
    if board is not None and (there := _there(board.name, host, found)) != runtime:
        if target is not None:
            said = f"target {target.name} names {runtime}, which {board.name} does not have"
            notes.append(f"{said}: it ran in {there} {host['runtimes'][there]}")
            kind = "host" if kind == "measured" else kind  # the target's runtime is part of what it is
        runtime = there
    if brief:
        protocol = replace(_BRIEF, num_threads=protocol.num_threads)
    if strict:
        protocol = protocol.strict()
    if num_threads is not None:
        protocol = replace(protocol, num_threads=num_threads)
    return How(
        Subject(path.name, path, runtime, delegate), found, protocol, kind, device, host, run, tuple(notes)
    )


def _there(name: str, host: Mapping[str, Any], found: Format) -> str:
    """The runtime for a format that a device has, the preferred one first."""
    there = next((runtime for runtime in _RUNTIMES[found] if host["runtimes"].get(runtime)), None)
    if there is None:
        wanted = " nor ".join(_RUNTIMES[found])
        raise MeasurementError(
            f"{name}: it has no runtime for {found}: not {wanted}",
            hint=f"pip install {' or '.join(_PACKAGES[runtime] for runtime in _RUNTIMES[found])} there",
        )
    return there


def _count(how: How, board: Board, seed: int) -> Instructions:
    model = job_model(how.subject, how.protocol.num_threads)
    return count_instructions(board.device, model, seed=seed)


def _doubt(found: Measurement, of_device: Kind) -> str:
    """Why times are of another kind than those of their device are; nothing where they are not."""
    if found.kind == of_device:
        return ""
    if found.kind == "emulated":
        return f"{found.gpu} is a program on the processor: these are no times of a GPU"
    told = "no driver names the GPU" if found.gpu is None else f"it ran on {found.gpu}"
    return (
        f"{told}: it may have been a program on the processor, so these times are not called measured; "
        "VK_DRIVER_FILES (devices add --env) names the one driver to use"
    )


def _counted(found: Instructions | None) -> dict[str, Any]:
    """Instructions for JSON: they are no time."""
    if found is None:
        return {}
    return {
        "instructions_per_inference": found.per_inference,
        "instructions_least": found.least,
        "instructions_most": found.most,
        "instructions_runs": found.num_runs,
        "instructions_processor": found.processor,
        "instructions_emulator": found.emulator,
    }


def _explained(
    error: IllegalInstructionError, host: Mapping[str, Any], target: Target | None
) -> MeasurementError:
    """An illegal instruction, with what is claimed of the processor and not there, as far as is known."""
    claims = []
    if denied := host.get("denied_features"):
        claims.append(f"its /proc/cpuinfo claims {', '.join(denied)}, its kernel denies that")
    if target is not None and (lacks := sorted(set(target.processor.features) - set(_features(host)))):
        claims.append(f"processor.features of target {target.name} name {', '.join(lacks)}, it lacks them")
    message = "; ".join([error.message, *claims])
    return MeasurementError(message, hint=error.hint if not claims else "correct what claims them")


def _features(host: Mapping[str, Any]) -> list[str]:
    return list(host["all_features"] if "all_features" in host else host["features"])


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
