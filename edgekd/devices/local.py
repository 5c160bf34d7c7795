"""This computer as a device: the agent in a fresh process, and what this computer is."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgekd
from edgekd.config import Target
from edgekd.devices import machine
from edgekd.devices.events import Event, Events, named
from edgekd.errors import MeasurementError
from edgekd.measurements import Kind


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
                    f"{named(job)}: not finished within {time_limit_s:g} s; the process was killed"
                ) from None
    events = Events(job)
    events.feed(output)
    events.feed_noise(noise)
    return events.ended(process.returncode)


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


def local_kind(target: Target, proc: Path = Path("/proc")) -> Kind:
    """`measured` only where this computer is what the target stands for, else `host`.

    Args:
        target: the profile.
        proc: where the kernel tells what this computer is (tests bring their own).
    """
    return "measured" if is_target(machine.identity(proc), target) else "host"


def kind_there(emulated: bool, identity: Mapping[str, Any], target: Target) -> Kind:
    """What a time taken on a device is: `measured` on the target itself only, never on an emulator."""
    if emulated:
        return "emulated"
    return "measured" if is_target(identity, target) else "host"


def is_target(identity: Mapping[str, Any], target: Target) -> bool:
    """Whether a computer (`machine.identity`) is what a target's profile stands for."""
    return not differences(identity, target)


def differences(identity: Mapping[str, Any], target: Target) -> list[str]:
    """In what a computer (`machine.identity`) is not what a target's profile stands for, each in words."""
    processor, found = target.processor, []
    if processor.isa not in ("any", identity["isa"]):
        found.append(f"its instruction set is {identity['isa']}, not {processor.isa}")
    if lacks := sorted(set(processor.features) - set(identity["all_features"])):
        found.append(f"its processor lacks {', '.join(lacks)}")
    if processor.board is not None and processor.board not in identity["board"]:
        board = identity["board"] and f"its board is {identity['board']!r}"
        found.append(f"{board or 'it names no board'}, not {processor.board!r}")
    return found
