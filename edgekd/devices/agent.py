"""Runs and times models in a process of its own: `python -m edgekd.devices.agent JOB.json`.

The same file works here and on a board, so it needs only the standard
library, numpy, the runtimes, and nothing newer than Python 3.10.

A job is a JSON object; `mode` chooses what is done. A model is
`{"id", "path", "runtime", "delegate", "num_threads"}`.

- `predict`: `model`, `inputs` (.npy of floats in the file's layout), `outputs`
  (.npy to write), `batch_size`.
- `latency`: `models` (each may name an `input` .npy; without one it is random),
  `warmup_runs`, `min_runs`, `min_seconds`, `seed`, perhaps `cores` that it keeps to.
- `sustained`: `model`, `warmup_runs`, `seconds`, `window_s`, `seed`, perhaps `cores`: one run after
  the other, told by windows of time.
- `ratios`: `reference`, `models`, `min_rounds`, `max_rounds`, `precision`, `full_speed`, `slowest`, `seed`,
  perhaps `fastest_ms`: what each model takes in units of the reference, which runs around each turn.
- `memory`: `model`, `num_runs`, `seed`.
- `instructions`: as `memory`, after `warmup_runs`: each run marked for the counter of `devices.instructions`.
- `operators`: `model`.
- `machine`: what the computer is, and which `runtimes` are there.

Paths are relative to the job's own folder. `files` may name what lies there with its sha256: what differs
is refused, and `predict` tells the sha256 of what it wrote.

Each line on stdout is one JSON object with an `event`; the last one is `done`
or `error`. What libraries print goes to stderr.
"""

from __future__ import annotations

import collections
import gc
import hashlib
import json
import os
import select
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.devices.conditions import pin, snapshot
from edgekd.devices.machine import clocks, host_info, identity, peak_memory_bytes
from edgekd.devices.turns import Ratios, Reference, Turn
from edgekd.errors import EdgeKDError, MeasurementError
from edgekd.runtimes import Session, list_operators, open_session, preload, version

SILENCE_S = 10.0

Job = dict[str, Any]
Emit = Callable[..., None]


def predict(job: Job, emit: Emit) -> None:
    """Writes the scores (N, classes) of every input to `outputs`, whole or not at all."""
    session, init_ms = _loaded(job["model"])
    _tell(job["model"], session, init_ms, emit)
    inputs = np.load(job["inputs"], mmap_mode="r", allow_pickle=False)
    size = int(job["batch_size"])
    if len(inputs) == 0:
        raise MeasurementError(f"{job['inputs']}: holds no samples")
    scores = np.concatenate(
        [session.run(np.asarray(inputs[start : start + size])) for start in range(0, len(inputs), size)]
    )
    final = Path(job["outputs"])
    temporary = final.with_name(final.name + ".part")
    with temporary.open("wb") as file:
        np.save(file, scores, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(final)
    emit("scores", shape=list(scores.shape), sha256=_sha256(final))


def latency(job: Job, emit: Emit) -> None:
    """Times all models in turns, so that a slow spell of the machine meets all of them."""
    cores = _pin(job)
    turns = []
    for model in job["models"]:
        session, init_ms = _loaded(model)
        prepared = session.prepare(_inputs(session, model, int(job["seed"])))
        start = time.perf_counter_ns()
        session.invoke(prepared)
        first_ms = (time.perf_counter_ns() - start) / 1e6
        _tell(model, session, init_ms, emit)
        emit("first", id=model["id"], first_ms=first_ms)
        turns.append(Turn(session, prepared))
    for turn in turns:
        for _ in range(int(job["warmup_runs"])):
            turn.session.invoke(turn.prepared)
    gc.collect()
    gc.disable()
    before = snapshot()
    unfinished = list(turns)
    while unfinished:
        for turn in unfinished:
            turn.take(settle=len(turns) > 1)
        unfinished = [
            t for t in unfinished if not t.finished(int(job["min_runs"]), float(job["min_seconds"]))
        ]
    gc.enable()
    emit("conditions", cores=cores, before=before, after=snapshot())
    for model, turn in zip(job["models"], turns, strict=True):
        emit("latency", id=model["id"], values_ms=[round(ns / 1e6, 6) for ns in turn.values_ns])


def sustained(job: Job, emit: Emit) -> None:
    """Runs a model without a pause and tells of each window of time, and of the clock and heat at its end."""
    _pin(job)
    session = _open(job["model"], emit)
    prepared = session.prepare(_inputs(session, job["model"], int(job["seed"])))
    for _ in range(int(job["warmup_runs"])):
        session.invoke(prepared)
    begun = time.monotonic()
    before = snapshot()
    while (at_s := time.monotonic() - begun) < float(job["seconds"]):
        values_ms: list[float] = []
        while time.monotonic() - begun < at_s + float(job["window_s"]) or not values_ms:
            start = time.perf_counter_ns()
            session.invoke(prepared)
            values_ms.append((time.perf_counter_ns() - start) / 1e6)
        after = snapshot()
        emit(
            "window",
            at_s=at_s,
            num_runs=len(values_ms),
            mean_ms=sum(values_ms) / len(values_ms),
            max_ms=max(values_ms),
            before=before,
            after=after,
        )
        before = after


def ratios(job: Job, emit: Emit) -> None:
    """Compares models with a reference until each ratio is known to `precision`, or max_rounds are over.

    A turn counts where the reference had its full speed before and after it. Programs beside this one
    slow different layers by different factors, so a ratio taken meanwhile would be another one. A processor
    that is a little slower as a whole slows all of them alike: full speed is that of the time. By how much
    shows by and by: a turn that looked good no longer counts once the reference was far faster.
    """
    seed = int(job["seed"])

    def turn_of(model: Job) -> Turn:
        session = _open(model, emit)
        return Turn(session, session.prepare(_inputs(session, model, seed)))

    reference = Reference(
        turn_of(job["reference"]),
        float(job.get("fastest_ms") or "inf"),
        float(job["full_speed"]),
        float(job["slowest"]),
    )
    turns = [(turn_of(model), Ratios(str(model["id"]))) for model in job["models"]]

    def known(kept: Ratios) -> bool:
        kept.drop(lambda found_ms: not reference.is_near_fastest(found_ms))
        enough = len(kept.values) >= max(int(job["min_rounds"]), 1)
        return enough and (
            len(kept.values) >= int(job["max_rounds"]) or kept.is_precise(float(job["precision"]))
        )

    gc.collect()
    gc.disable()
    unsure = collections.deque(turns)
    while unsure := unsure or collections.deque(t for t in turns if not known(t[1])):
        turn, kept = unsure.popleft()
        before = reference.at_full_speed()
        value = turn.fastest_ms()
        after = reference.take_ms()
        if reference.is_steady(after):
            kept.add(value / ((before + after) / 2), max(before, after))
            reference.since = time.monotonic()
        if not known(kept):
            unsure.append((turn, kept))
    gc.enable()
    emit("reference", fastest_ms=reference.fastest_ms)
    for _, kept in turns:
        middle, error = kept.median()
        found = {"value": middle, "standard_error": error, "reference_ms": kept.slowest_ms()}
        emit("ratios", id=kept.id, num_turns=len(kept.values), **found)


def memory(job: Job, emit: Emit) -> None:
    """High-water mark of this process after it has loaded the file and run it a few times."""
    session = _open(job["model"], emit)
    prepared = session.prepare(_inputs(session, job["model"], int(job["seed"])))
    for _ in range(int(job["num_runs"])):
        session.invoke(prepared)
    emit("memory", id=job["model"]["id"], peak_memory_bytes=peak_memory_bytes())


def instructions(job: Job, emit: Emit) -> None:
    """Marks each run for qemu's counter, by a call of the kernel that nothing else here makes.

    Three marks a run: what lies between the first two costs what marking itself does.
    """
    session = _open(job["model"], emit)
    prepared = session.prepare(_inputs(session, job["model"], int(job["seed"])))
    for _ in range(int(job["warmup_runs"])):
        session.invoke(prepared)
    gc.collect()
    gc.disable()
    for _ in range(int(job["num_runs"])):
        os.getpriority(os.PRIO_PROCESS, 0)
        os.getpriority(os.PRIO_PROCESS, 0)
        session.invoke(prepared)
        os.getpriority(os.PRIO_PROCESS, 0)
    gc.enable()


def operators(job: Job, emit: Emit) -> None:
    """The operators of the graph that the runtime builds."""
    found = list_operators(job["model"]["runtime"], job["model"]["path"])
    emit(
        "operators",
        id=job["model"]["id"],
        operators=[[o.name, o.op_type, list(o.input_dtypes)] for o in found],
    )


def machine(job: Job, emit: Emit) -> None:
    """What this computer is, and the versions of the runtimes that it has."""
    runtimes = {name: _version(name) for name in job["runtimes"]}
    emit("machine", **{**host_info(), **identity(), **clocks()}, runtimes=runtimes)


def _version(runtime: str) -> str | None:
    try:
        return version(runtime)
    except (MeasurementError, ImportError):
        return None


MODES = {
    "predict": predict,
    "latency": latency,
    "sustained": sustained,
    "ratios": ratios,
    "memory": memory,
    "operators": operators,
    "machine": machine,
    "instructions": instructions,
}


def _pin(job: Job) -> list[int]:
    cores = [int(core) for core in job.get("cores") or ()]
    try:
        found = pin(cores)
    except OSError as error:
        raise MeasurementError(
            f"cores {cores}: this process may not have them: {error.strerror}",
            hint="protocol.cores names cores that are there and online",
        ) from None
    if cores and found != sorted(set(cores)):
        raise MeasurementError(f"cores {cores} were asked for, the kernel gives {found}")
    return found


def _open(model: Job, emit: Emit) -> Session:
    """A model's session, told of."""
    session, init_ms = _loaded(model)
    _tell(model, session, init_ms, emit, whole=False)
    return session


def _loaded(model: Job) -> tuple[Session, float]:
    """A model's session, and the milliseconds that it took."""
    preload(model["runtime"])  # once a process; an application does not pay it for each file
    start = time.perf_counter_ns()
    session = open_session(
        model["runtime"],
        model["path"],
        delegate=model["delegate"],
        num_threads=int(model["num_threads"]),
    )
    return session, (time.perf_counter_ns() - start) / 1e6


def _tell(model: Job, session: Session, init_ms: float, emit: Emit, *, whole: bool = True) -> None:
    """The `session` event; where it is told whole, with what the backend took of the graph.

    To know that, a further session may be loaded: it takes memory, and leaves kernels behind that a first
    inference would have had to compile.
    """
    delegated = session.delegated() if whole else None
    gpu = session.gpu()
    emit(
        "session",
        id=model["id"],
        runtime=session.runtime,
        version=session.version,
        backend=session.backend,
        num_threads=session.num_threads,
        init_ms=init_ms,
        operators_delegated=None if delegated is None else delegated.operators,
        operators_total=None if delegated is None else delegated.total,
        partitions=None if delegated is None else delegated.partitions,
        gpu=None if gpu is None else gpu.name,
        software_gpu=None if gpu is None else gpu.software,
        inputs=[[info.name, list(info.shape), info.dtype] for info in session.inputs],
        outputs=[[info.name, list(info.shape), info.dtype] for info in session.outputs],
    )


def _inputs(session: Session, model: Job, seed: int) -> list[NDArray[Any]]:
    if model.get("input") is None:
        return session.random_inputs(seed)
    if len(session.inputs) != 1:
        raise MeasurementError(f"{model['id']}: has {len(session.inputs)} inputs, one was given")
    return [session.inputs[0].encode(np.load(model["input"], allow_pickle=False))]


def _claim_stdout() -> Emit:
    """A function that writes events; whatever else writes to stdout lands on stderr."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: str, **fields: Any) -> None:
        stream.write(json.dumps({"event": event, **fields}) + "\n")
        stream.flush()

    return emit


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _follow_stdin(leave: Path | None) -> None:
    """Ends this process when whoever holds the other end of stdin is gone, however it went.

    Args:
        leave: a folder that nobody is left to remove.
    """

    def wait() -> None:
        # A link that is frozen ends nothing: this end is told every few seconds that the other is there.
        while (leave is None or select.select([0], [], [], SILENCE_S)[0]) and os.read(0, 4096):
            pass
        if leave is not None:
            shutil.rmtree(leave, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: list[str]) -> int:
    """Does one job; 0 where it was done, 1 where an `error` event says why not."""
    emit = _claim_stdout()
    if "--follow-stdin" in arguments:
        _follow_stdin(Path(arguments[-1]).parent if "--leave-nothing" in arguments else None)
    try:
        job = json.loads(Path(arguments[-1]).read_text(encoding="utf-8"))
        os.chdir(Path(arguments[-1]).resolve().parent)
        for name, sha256 in job.get("files", {}).items():
            if _sha256(Path(name)) != sha256:
                raise MeasurementError(f"{name}: changed on the way here")
        if job.get("mode") not in MODES:
            raise MeasurementError(f"unknown mode {job.get('mode')!r} (known: {', '.join(MODES)})")
        MODES[job["mode"]](job, emit)
    except EdgeKDError as error:
        emit("error", message=error.message, hint=error.hint)
        return 1
    except KeyError as error:
        emit("error", message=f"the job lacks {error}", hint="")
        return 1
    except Exception as error:  # a runtime's own, of any type: its words are the answer
        emit("error", message=" ".join(f"{type(error).__name__}: {error}".split()), hint="")
        return 1
    emit("done")
    return 0


def run() -> None:
    """Does the job that the command line names, and ends."""
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # No teardown: a runtime that crashes while it unloads must not spoil a finished job.
    os._exit(status)


if __name__ == "__main__":
    run()
