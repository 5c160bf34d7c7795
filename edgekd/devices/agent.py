"""Runs and times models in a process of its own: `python -m edgekd.devices.agent JOB.json`.

The same file works here and on a board, so it needs only the standard
library, numpy, the runtimes, and nothing newer than Python 3.10.

A job is a JSON object; `mode` chooses what is done. A model is
`{"id", "path", "runtime", "delegate", "num_threads"}`.

- `predict`: `model`, `inputs` (.npy of floats in the file's layout), `outputs`
  (.npy to write), `batch_size`.
- `latency`: `models` (each may name an `input` .npy; without one it is random),
  `warmup_runs`, `min_runs`, `min_seconds`, `seed`.
- `ratios`: `reference`, `models`, `min_rounds`, `max_rounds`, `precision`, `full_speed`, `slowest`, `seed`,
  perhaps `fastest_ms`: what each model takes in units of the reference, which runs around each turn.
- `memory`: `model`, `num_runs`, `seed`.
- `operators`: `model`.

Each line on stdout is one JSON object with an `event`; the last one is `done`
or `error`. What libraries print goes to stderr.
"""

from __future__ import annotations

import collections
import gc
import json
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import EdgeKDError, MeasurementError
from edgekd.runtimes import Session, list_operators, open_session, preload

Job = dict[str, Any]
Emit = Callable[..., None]

# Models take turns for at least this long, and this many runs: short enough that
# all of them see the same state of the machine, long enough to be at full speed.
_TURN_MS = 20.0
_TURN_RUNS = 5
# For ratios the turns are short: thousands of small models are compared, and a processor that is shared
# has its full speed for milliseconds only.
_RATIO_TURN_MS = 1.0
_RATIO_RUNS = 3
_PATIENCE_S = 240.0
_SETTLED_S = 10.0  # a processor that has been slower for so long is slower as a whole


def predict(job: Job, emit: Emit) -> None:
    """Writes the scores (N, classes) of every input to `outputs`, whole or not at all."""
    session = _open(job["model"], emit)
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
    emit("scores", shape=list(scores.shape))


def latency(job: Job, emit: Emit) -> None:
    """Times all models in turns, so that a slow spell of the machine meets all of them."""
    turns = []
    for model in job["models"]:
        session = _open(model, emit)
        prepared = session.prepare(_inputs(session, model, int(job["seed"])))
        start = time.perf_counter_ns()
        session.invoke(prepared)
        emit("first", id=model["id"], first_ms=(time.perf_counter_ns() - start) / 1e6)
        turns.append(_Turn(session, prepared))
    for turn in turns:
        for _ in range(int(job["warmup_runs"])):
            turn.session.invoke(turn.prepared)
    gc.collect()
    gc.disable()
    unfinished = list(turns)
    while unfinished:
        for turn in unfinished:
            turn.take(settle=len(turns) > 1)
        unfinished = [
            t for t in unfinished if not t.finished(int(job["min_runs"]), float(job["min_seconds"]))
        ]
    gc.enable()
    for model, turn in zip(job["models"], turns, strict=True):
        emit("latency", id=model["id"], values_ms=[round(ns / 1e6, 6) for ns in turn.values_ns])


class _Turn:
    """One model's runs so far."""

    def __init__(self, session: Session, prepared: Any) -> None:
        self.session, self.prepared = session, prepared
        self.values_ns: list[int] = []

    def take(self, settle: bool) -> None:
        """One turn; `settle` runs once uncounted, since another model has just had the caches."""
        invoke, prepared, clock = self.session.invoke, self.prepared, time.perf_counter_ns
        if settle:
            invoke(prepared)
        begin, runs = clock(), 0
        while runs < _TURN_RUNS or clock() - begin < _TURN_MS * 1e6:
            start = clock()
            invoke(prepared)
            self.values_ns.append(clock() - start)
            runs += 1

    def fastest_ms(self) -> float:
        """The fastest run of one short turn, after a run that warms up: what disturbs a run only adds."""
        invoke, prepared, clock = self.session.invoke, self.prepared, time.perf_counter_ns
        invoke(prepared)
        begin, values = clock(), list[int]()
        while len(values) < _RATIO_RUNS or clock() - begin < _RATIO_TURN_MS * 1e6:
            start = clock()
            invoke(prepared)
            values.append(clock() - start)
        return min(values) / 1e6

    def finished(self, min_runs: int, min_seconds: float) -> bool:
        return len(self.values_ns) >= min_runs and sum(self.values_ns) >= min_seconds * 1e9


def ratios(job: Job, emit: Emit) -> None:
    """Compares models with a reference until each ratio is known to `precision`, or max_rounds are over.

    A turn counts where the reference had its full speed before and after it. Programs beside this one
    slow different layers by different factors, so a ratio taken meanwhile would be another one. A processor
    that is a little slower as a whole slows all of them alike: full speed is that of the time. By how much
    shows by and by: a turn that looked good no longer counts once the reference was far faster.
    """
    seed = int(job["seed"])

    def turn_of(model: Job) -> _Turn:
        session = _open(model, emit)
        return _Turn(session, session.prepare(_inputs(session, model, seed)))

    reference = _Reference(
        turn_of(job["reference"]),
        float(job.get("fastest_ms") or "inf"),
        float(job["full_speed"]),
        float(job["slowest"]),
    )
    turns = [(turn_of(model), _Ratios(str(model["id"]))) for model in job["models"]]

    def known(kept: _Ratios) -> bool:
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


class _Reference:
    """The model that tells whether the processor is all ours just now."""

    def __init__(self, turn: _Turn, fastest_ms: float, full_speed: float, slowest: float) -> None:
        self._turn, self.fastest_ms, self._full_speed, self._slowest = turn, fastest_ms, full_speed, slowest
        self.since = time.monotonic()  # when a turn counted last
        self._level_ms = self._lately_ms = float("inf")  # what it takes undisturbed; its fastest of late
        self._begun = self.since  # of late

    def take_ms(self) -> float:
        """One short turn now."""
        found = self._turn.fastest_ms()
        self.fastest_ms, self._level_ms, self._lately_ms = (
            min(known, found) for known in (self.fastest_ms, self._level_ms, self._lately_ms)
        )
        return found

    def is_near_fastest(self, found_ms: float) -> bool:
        """Whether a turn may count at all: the processor is not much slower than it has ever been."""
        return found_ms <= self._slowest * self._full_speed * self.fastest_ms

    def is_steady(self, found_ms: float) -> bool:
        """Whether a turn took at most `full_speed` times what it takes undisturbed at this time."""
        return found_ms <= self._full_speed * self._level_ms and self.is_near_fastest(found_ms)

    def at_full_speed(self) -> float:
        """Its time as soon as it is undisturbed; an error where no turn has counted for too long."""
        while True:
            found, now = self.take_ms(), time.monotonic()
            if now - max(self.since, self._begun) > _SETTLED_S:
                self._level_ms, self._lately_ms, self._begun = self._lately_ms, float("inf"), now
            if now - self.since > _PATIENCE_S:
                raise MeasurementError(
                    f"for {_PATIENCE_S:.0f} s the processor was never undisturbed for long enough "
                    f"(just now it takes {found / self.fastest_ms:.1f} times as long as at its fastest)",
                    hint="end other programs, let the device cool, and run the same command again",
                )
            if self.is_steady(found):
                return found


class _Ratios:
    """What one model took in units of the reference, and what the reference took around it."""

    def __init__(self, id: str) -> None:
        self.id = id
        self._kept: list[tuple[float, float]] = []

    @property
    def values(self) -> list[float]:
        """The ratios, in order."""
        return [value for value, _ in self._kept]

    def add(self, value: float, reference_ms: float) -> None:
        """Keeps one turn's."""
        self._kept.append((value, reference_ms))

    def drop(self, disturbed: Callable[[float], bool]) -> None:
        """Forgets turns around which the reference was disturbed."""
        self._kept = [one for one in self._kept if not disturbed(one[1])]

    def slowest_ms(self) -> float:
        """What the reference took at most around a turn."""
        return max(found_ms for _, found_ms in self._kept)

    def median(self) -> tuple[float, float]:
        """Median and its standard error, from the median deviation."""
        middle = statistics.median(self.values)
        spread = 1.4826 * statistics.median(abs(value - middle) for value in self.values)
        return middle, 1.2533 * spread / len(self.values) ** 0.5

    def is_precise(self, precision: float) -> bool:
        """Whether the standard error is at most that share of the median."""
        middle, error = self.median()
        return error <= precision * middle


def memory(job: Job, emit: Emit) -> None:
    """High-water mark of this process after it has loaded the file and run it a few times."""
    session = _open(job["model"], emit)
    prepared = session.prepare(_inputs(session, job["model"], int(job["seed"])))
    for _ in range(int(job["num_runs"])):
        session.invoke(prepared)
    emit("memory", id=job["model"]["id"], peak_memory_bytes=peak_memory_bytes())


def operators(job: Job, emit: Emit) -> None:
    """The operators of the graph that the runtime builds."""
    found = list_operators(job["model"]["runtime"], job["model"]["path"])
    emit(
        "operators",
        id=job["model"]["id"],
        operators=[[o.name, o.op_type, list(o.input_dtypes)] for o in found],
    )


MODES = {
    "predict": predict,
    "latency": latency,
    "ratios": ratios,
    "memory": memory,
    "operators": operators,
}


def peak_memory_bytes() -> int:
    """This process's largest resident size.

    Not getrusage's, where /proc tells: Linux carries the size of the process
    that started this one into it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _open(model: Job, emit: Emit) -> Session:
    preload(model["runtime"])  # once a process; an application does not pay it for each file
    start = time.perf_counter_ns()
    session = open_session(
        model["runtime"],
        model["path"],
        delegate=model["delegate"],
        num_threads=int(model["num_threads"]),
    )
    init_ms = (time.perf_counter_ns() - start) / 1e6
    emit(
        "session",
        id=model["id"],
        runtime=session.runtime,
        version=session.version,
        backend=session.backend,
        num_threads=session.num_threads,
        init_ms=init_ms,
        inputs=[[info.name, list(info.shape), info.dtype] for info in session.inputs],
        outputs=[[info.name, list(info.shape), info.dtype] for info in session.outputs],
    )
    return session


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


def _follow_stdin() -> None:
    """Ends this process when whoever holds the other end of stdin is gone, however it went."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: list[str]) -> int:
    """Does one job; 0 where it was done, 1 where an `error` event says why not."""
    emit = _claim_stdout()
    if "--follow-stdin" in arguments:
        _follow_stdin()
    try:
        job = json.loads(Path(arguments[-1]).read_text(encoding="utf-8"))
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


if __name__ == "__main__":
    # No teardown: a runtime that crashes while it unloads must not spoil a finished job.
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
