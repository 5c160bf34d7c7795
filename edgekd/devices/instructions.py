"""Instructions of an inference on an emulated Arm processor: a cost that repeats, and no time at all."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.devices import package
from edgekd.devices.events import Events, named
from edgekd.devices.known import Device
from edgekd.devices.process import run_streamed
from edgekd.devices.qemu import QEMU, clean, found, guest, qemu_version
from edgekd.errors import MeasurementError, UsageError
from edgekd.store import write_atomic

_SOURCE = Path(__file__).with_name("count_instructions.c")
_NUM_RUNS, _WARMUP_RUNS = 21, 10  # Python settles on the code of a loop within some eight turns
_MARKS = 3  # a run: see `agent.instructions`


@dataclass(frozen=True)
class Instructions:
    """What an inference costs an emulated processor.

    Attributes:
        per_inference: median of the runs, without what marking them takes.
        least: of a run.
        most: of a run.
        num_runs: that were counted, in one process.
        processor: that qemu was told to be.
        emulator: with its version.
    """

    per_inference: int
    least: int
    most: int
    num_runs: int
    processor: str
    emulator: str


def count(
    device: Device, model: Mapping[str, Any], *, seed: int = 0, time_limit_s: float = 600.0
) -> Instructions:
    """Counts the instructions of a model's inferences in one process, after runs that warm up.

    Args:
        device: one with an arm64 tree of this computer (`qemu:///FOLDER`).
        model: as in a job of the agent, its `path` absolute, with one thread.
        seed: of the random inputs.
        time_limit_s: for all of it.

    Raises:
        UsageError: no such device; more than one thread; no qemu, or no C compiler.
        MeasurementError: the file does not run there, or the counter said something else than counts.
    """
    if device.scheme != "qemu":
        raise UsageError(
            f"{device.via}: instructions are counted in an arm64 tree of this computer",
            hint="edgekd devices add NAME --via qemu:///FOLDER --cpu cortex-a76",
        )
    if int(model["num_threads"]) != 1:
        raise UsageError(
            f"instructions are counted on one thread, not {model['num_threads']}", hint="--threads 1"
        )
    version = qemu_version()
    job = {
        "mode": "instructions",
        "model": model,
        "warmup_runs": _WARMUP_RUNS,
        "num_runs": _NUM_RUNS,
        "seed": seed,
    }
    with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
        folder = Path(place).resolve()
        (folder / "agent.pyz").write_bytes(package.archive())
        # Under one name each time: it moves Python's objects about, and with them some 50 instructions.
        file = "model" + Path(model["path"]).suffix
        (folder / file).symlink_to(model["path"])
        asked = {**job, "model": {**model, "id": "model", "path": file}}
        (folder / "job.json").write_text(json.dumps(asked), encoding="utf-8")
        counter = f"{_escaped(_plugin(version))},out={_escaped(folder / 'counts')}"
        variables = {**device.environment, "PYTHONHASHSEED": "0"}
        if device.packages is not None:
            variables["PYTHONPATH"] = device.packages
        command = [
            *clean([f"{name}={value}" for name, value in sorted(variables.items())]),
            *guest(device, ["-plugin", counter]),
            str(folder / "agent.pyz"),
            "--follow-stdin",
            str(folder / "job.json"),
        ]
        events = Events(job)
        code = run_streamed(command, events.feed, events.feed_noise, time_limit_s, device.via)
        events.ended(code)
        turns = _turns(folder / "counts", named(job))
    middle = round(statistics.median(turns))
    return Instructions(middle, min(turns), max(turns), len(turns), str(device.cpu), f"{QEMU} {version}")


def _turns(path: Path, name: str) -> list[int]:
    """Instructions of each run, from the counts at all marks."""
    lines = path.read_text(encoding="ascii", errors="replace").split() if path.is_file() else []
    marks = [int(line) for line in lines if line.isdecimal()]
    if not len(marks) == len(lines) == _MARKS * _NUM_RUNS:
        raise MeasurementError(f"{name}: {len(lines)} counts, where {_MARKS * _NUM_RUNS} are expected")
    starts = range(0, len(marks), _MARKS)
    turns = [(marks[i + 2] - marks[i + 1]) - (marks[i + 1] - marks[i]) for i in starts]
    if min(turns) <= 0:
        raise MeasurementError(f"{name}: a run of {min(turns)} instructions is none")
    return turns


def _plugin(version: str) -> Path:
    """The counter for a version of qemu, built where it is not there yet.

    Raises:
        UsageError: there is no C compiler, or it does not build it; or this qemu takes no plugins.
    """
    known = subprocess.run([found(QEMU), "-help"], capture_output=True, text=True, check=False).stdout
    if "-plugin" not in known:
        raise UsageError(
            f"{found(QEMU)} takes no plugins, without which it counts nothing",
            hint="a qemu that is linked statically never does: apt-get install qemu-user",
        )
    api = 1 if int(version.split(".")[0]) < 9 else 2
    source = _SOURCE.read_bytes()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekd" / "qemu"
    built = base / f"count-{hashlib.sha256(source).hexdigest()[:16]}-{api}-{os.uname().machine}.so"
    if not built.is_file():
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as place:
            new = Path(place) / "count.so"
            _compile([f"-DAPI={api}", "-o", str(new), str(_SOURCE)])
            write_atomic(built, new.read_bytes())
    return built


def _compile(arguments: Sequence[str]) -> None:
    named_one = shlex.split(os.environ.get("CC", ""))
    compiler = named_one or [name for name in ("cc", "gcc", "clang") if shutil.which(name)][:1]
    if not compiler or shutil.which(compiler[0]) is None:
        raise UsageError(
            f"counting instructions needs a C compiler, once{': no ' + compiler[0] if compiler else ''}",
            hint="apt-get install gcc, or let CC name one",
        )
    command = [*compiler, "-O2", "-shared", "-fPIC", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = " ".join(done.stderr.split())[-300:]
        raise UsageError(f"{_SOURCE.name}: {compiler[0]} does not build it: {words}")


def _escaped(path: Path) -> str:
    """In an option of qemu's, where a comma ends a value."""
    return str(path).replace(",", ",,")
