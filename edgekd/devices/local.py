"""This computer as a device: the agent in a fresh process, and what this computer is."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgekd
from edgekd.config import Target
from edgekd.errors import MeasurementError
from edgekd.types import Kind

Event = dict[str, Any]

_EVENTS = {
    "session",
    "scores",
    "first",
    "latency",
    "reference",
    "ratios",
    "memory",
    "operators",
    "error",
    "done",
}
# Extensions that change which int8 and half-precision kernels a runtime picks.
TELLING = (
    "avx2",
    "f16c",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)


def run_agent(job: Mapping[str, Any], *, time_limit_s: float = 600.0) -> tuple[Event, ...]:
    """Does a job (see `edgekd.devices.agent`) in a fresh process and gives its events.

    Paths in the job must be absolute: the process starts in an empty folder.

    Raises:
        MeasurementError: the job failed, in the agent's own words; the process
            died; or it took longer than `time_limit_s` and was killed.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "edgekd.devices.agent", "--follow-stdin", str(path)]
        # stdin stays open and silent: the agent ends itself when it closes, so that
        # not even a killed parent leaves it behind.
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=_environment(),
            start_new_session=True,
        ) as process:
            try:
                output, noise = _collect(process, time_limit_s)
            except subprocess.TimeoutExpired:
                raise MeasurementError(
                    f"{_named(job)}: not finished within {time_limit_s:g} s; the process was killed"
                ) from None
    return _parse(output.decode(errors="replace"), noise.decode(errors="replace"), process.returncode, job)


def _collect(process: subprocess.Popen[bytes], time_limit_s: float) -> tuple[bytes, bytes]:
    """Both streams to their ends. `communicate` would close stdin first, which ends the agent."""
    assert process.stdin is not None
    held, process.stdin = process.stdin, None
    try:
        return process.communicate(timeout=time_limit_s)
    finally:
        process.kill()  # before stdin closes, which ends the agent too, as if it had ended by itself
        with contextlib.suppress(BrokenPipeError):
            held.close()


def _environment() -> dict[str, str]:
    here = str(Path(edgekd.__file__).resolve().parent.parent)
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([here, known] if known else [here])}


def _named(job: Mapping[str, Any]) -> str:
    return f"{job.get('mode')} of {', '.join(_ids(job))}"


def _ids(job: Mapping[str, Any]) -> list[str]:
    models = job.get("models") or [job.get("model") or {}]
    return [str(model.get("id")) for model in models]


def _parse(output: str, noise: str, returncode: int, job: Mapping[str, Any]) -> tuple[Event, ...]:
    name = _named(job)
    events: list[Event] = []
    for line in output.splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            event = None
        if not isinstance(event, dict) or event.get("event") not in _EVENTS:
            raise MeasurementError(f"{name}: the agent wrote what is no event: {line[:200]!r}")
        events.append(event)
    last = events[-1] if events else {"event": None}
    if last["event"] == "error":
        message = str(last["message"])
        told = any(model in message for model in _ids(job))
        raise MeasurementError(message if told else f"{name}: {message}", hint=str(last["hint"]))
    if last["event"] != "done" or returncode != 0:
        raise MeasurementError(f"{name}: the process {_ending(returncode)}{_last_words(noise)}")
    return tuple(events)


def _ending(returncode: int) -> str:
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended early with code {returncode}"


def _last_words(noise: str) -> str:
    lines = [line.strip() for line in noise.splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else ""


def local_kind(target: Target, proc: Path = Path("/proc")) -> Kind:
    """`measured` only where this computer is what the target stands for, else `host`.

    Args:
        target: the profile.
        proc: where the kernel tells what this computer is (tests bring their own).
    """
    processor = target.processor
    if processor.isa not in ("any", platform.machine()):
        return "host"
    if not set(processor.features) <= _features(proc):
        return "host"
    if processor.board is not None and processor.board not in _read(proc / "device-tree" / "model"):
        return "host"
    return "measured"


def host_info(proc: Path = Path("/proc")) -> dict[str, Any]:
    """What this computer is, without the name of it or of its user."""
    features = _features(proc)
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        system = platform.system()
    return {
        "cpu": _cpu_model(proc),
        "isa": platform.machine(),
        "features": [name for name in TELLING if name in features],
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": system,
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
    }


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _cpuinfo(proc: Path) -> list[tuple[str, str]]:
    pairs = (line.partition(":") for line in _read(proc / "cpuinfo").splitlines())
    return [(key.strip(), value.strip()) for key, _, value in pairs]


def _features(proc: Path) -> set[str]:
    """Features that every core has (big and little cores may differ)."""
    cores = [set(value.split()) for key, value in _cpuinfo(proc) if key in ("flags", "Features")]
    return set.intersection(*cores) if cores else set()


def _cpu_model(proc: Path) -> str:
    board = _read(proc / "device-tree" / "model").strip("\0\n ")
    pairs = _cpuinfo(proc)
    names = [value for key, value in pairs if key == "model name"]
    # Arm's kernel gives no names: 0x41 is Arm, 0xd0b its Cortex-A76.
    ids = [f"{key[4:]} {value}" for key, value in pairs if key in ("CPU implementer", "CPU part")]
    return board or (names[0] if names else " ".join([platform.machine(), *dict.fromkeys(ids)]))
