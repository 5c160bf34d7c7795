"""What an agent says, line by line. It may come from a board that lies: everything is checked and bounded."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from typing import Any, Protocol

from edgekd.errors import MeasurementError

Event = dict[str, Any]

# More than the raw times of an hour take; a board that writes on and on is cut off.
MOST_BYTES = 256 * 2**20
MOST_LINE = 16 * 2**20
_MOST_NOISE = 64 * 2**10

_TEXTS, _NUMBERS, _LISTS, _TABLES = "text", "number", "list", "table"
# Whole from 0, whole from 1, a number from 0.
_COUNTS, _RATES, _TIMES, _FLAGS = "count", "rate", "time", "truth value"
_MANY_TEXTS, _MANY_NUMBERS, _MANY_COUNTS = "list of texts", "list of numbers", "list of counts"
_LISTS_OF = {_MANY_TEXTS: _TEXTS, _MANY_NUMBERS: _NUMBERS, _MANY_COUNTS: _COUNTS}
_VERSIONS = "table of texts or nulls"
# What not every session, or kernel, has something to say of.
_MAYBE_COUNTS, _MAYBE_TEXTS, _MAYBE_FLAGS = "count or null", "text or null", "truth value or null"
_MAYBE_NUMBERS, _MAYBE_TIMES, _MAYBE_RATES = "number or null", "time or null", "rate or null"
_OR_NULL = {
    _MAYBE_COUNTS: _COUNTS,
    _MAYBE_TEXTS: _TEXTS,
    _MAYBE_FLAGS: _FLAGS,
    _MAYBE_NUMBERS: _NUMBERS,
    _MAYBE_TIMES: _TIMES,
    _MAYBE_RATES: _RATES,
}
# Each event, and the fields that are read from it.
_FIELDS: Mapping[str, Mapping[str, str]] = {
    "session": {
        "id": _TEXTS,
        "version": _TEXTS,
        "backend": _TEXTS,
        "num_threads": _COUNTS,
        "init_ms": _TIMES,
        "operators_delegated": _MAYBE_COUNTS,
        "operators_total": _MAYBE_COUNTS,
        "partitions": _MAYBE_COUNTS,
        "gpu": _MAYBE_TEXTS,
        "software_gpu": _MAYBE_FLAGS,
    },
    "scores": {"shape": _LISTS, "sha256": _TEXTS},
    "first": {"id": _TEXTS, "first_ms": _TIMES},
    "latency": {"id": _TEXTS, "values_ms": _LISTS},
    "conditions": {"cores": _MANY_COUNTS, "before": _TABLES, "after": _TABLES},
    "window": {
        "at_s": _TIMES,
        "num_runs": _COUNTS,
        "mean_ms": _TIMES,
        "max_ms": _TIMES,
        "before": _TABLES,
        "after": _TABLES,
    },
    "reference": {"fastest_ms": _TIMES},
    "ratios": {"id": _TEXTS, "value": _NUMBERS, "standard_error": _NUMBERS, "reference_ms": _TIMES},
    "memory": {"id": _TEXTS, "peak_memory_bytes": _COUNTS},
    "operators": {"id": _TEXTS, "operators": _LISTS},
    "machine": {
        "cpu": _TEXTS,
        "isa": _TEXTS,
        "features": _MANY_TEXTS,
        "cores": _MAYBE_COUNTS,
        "usable_cores": _COUNTS,
        "memory_bytes": _COUNTS,
        "os": _TEXTS,
        "kernel": _TEXTS,
        "python": _TEXTS,
        "board": _TEXTS,
        "all_features": _MANY_TEXTS,
        "denied_features": _MANY_TEXTS,
        "governors": _MANY_TEXTS,
        "clock_khz": _MANY_NUMBERS,
        "temperature_c": _MANY_NUMBERS,
        "runtimes": _VERSIONS,
    },
    "error": {"message": _TEXTS, "hint": _TEXTS},
    "done": {},
}
# What `conditions.snapshot` gives.
_SNAPSHOT: Mapping[str, str] = {
    "throttled_ms": _MAYBE_TIMES,
    "hot_events": _MAYBE_COUNTS,
    "firmware": _MANY_TEXTS,
    "clock_khz": _MAYBE_RATES,
    "temperature_c": _MAYBE_NUMBERS,
}


class IllegalInstructionError(MeasurementError):
    """The process on the device was ended since its processor does not have an instruction."""


class RunJob(Protocol):
    """Does a job of the agent, here or on a device: `local.run_agent`, `Board.run`."""

    def __call__(self, job: Mapping[str, Any], *, time_limit_s: float = ...) -> tuple[Event, ...]:
        """The events of the job; a MeasurementError where it was not done."""


class Events:
    """The events of one job so far.

    Args:
        job: what was asked, to name it in errors.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._job, self._name = job, named(job)
        self._found: list[Event] = []
        self._rest, self._size, self._noise = bytearray(), 0, b""

    def feed(self, chunk: bytes) -> None:
        """A piece of the agent's stdout.

        Raises:
            MeasurementError: it is no event, or too much.
        """
        self._size += len(chunk)
        if self._size > MOST_BYTES:
            raise MeasurementError(f"{self._name}: the agent wrote more than {MOST_BYTES:,} bytes")
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._found.append(self._event(bytes(self._rest + line)))
            self._rest.clear()
        self._rest += rest
        if len(self._rest) > MOST_LINE:
            raise MeasurementError(f"{self._name}: the agent wrote a line of more than {MOST_LINE:,} bytes")

    def feed_noise(self, chunk: bytes) -> None:
        """A piece of its stderr, of which the end is kept."""
        self._noise = (self._noise + chunk)[-_MOST_NOISE:]

    def ended(self, returncode: int) -> tuple[Event, ...]:
        """All events of a job that was done.

        Raises:
            MeasurementError: it was not, in the agent's own words where it had some.
        """
        if self._rest:
            self._found.append(self._event(bytes(self._rest)))
        last: Event = self._found[-1] if self._found else {"event": None}
        if last["event"] == "error":
            told = any(model in last["message"] for model in _ids(self._job))
            message = last["message"] if told else f"{self._name}: {last['message']}"
            raise MeasurementError(message, hint=last["hint"])
        if last["event"] != "done" or returncode != 0:
            noise = self._noise.decode(errors="replace")
            if _signal(returncode) is signal.SIGILL:
                raise IllegalInstructionError(
                    f"{self._name}: the process was ended by SIGILL, an illegal instruction: the file or its "
                    "runtime uses instructions that this processor does not have",
                    hint="its /proc/cpuinfo, or the runtime itself, claims what is not there",
                )
            raise MeasurementError(f"{self._name}: the process {_ending(returncode)}{_last_words(noise)}")
        return tuple(self._found)

    def _event(self, line: bytes) -> Event:
        try:
            event = printable(json.loads(line))
        except (ValueError, RecursionError):
            event = None
        name = event.get("event") if isinstance(event, dict) else None
        if not isinstance(event, dict) or not isinstance(name, str) or name not in _FIELDS:
            shown = line[:200].decode(errors="replace")
            raise MeasurementError(f"{self._name}: the agent wrote what is no event: {shown!r}")
        for field, kind in _FIELDS[name].items():
            if not _is(event.get(field), kind):
                raise MeasurementError(
                    f"{self._name}: the agent's event {name!r} has {field} = "
                    f"{str(event.get(field))[:50]!r}, no {kind}"
                )
        if name == "latency" and not (values := event["values_ms"]):
            raise MeasurementError(f"{self._name}: the agent sent no times")
        if name == "latency" and not all(_is(value, _NUMBERS) and value > 0 for value in values):
            raise MeasurementError(f"{self._name}: the agent sent times that are none")
        if name in ("conditions", "window") and not all(map(_is_snapshot, (event["before"], event["after"]))):
            raise MeasurementError(f"{self._name}: the agent sent conditions that are none")
        taken, total = event.get("operators_delegated"), event.get("operators_total")
        if name == "session" and (taken or 0) > (total or 0):
            raise MeasurementError(
                f"{self._name}: the agent says that {taken} of {total} operators were taken"
            )
        return event


def _is_snapshot(value: Mapping[str, Any]) -> bool:
    """Whether it has what `conditions.snapshot` gives."""
    return all(name in value and _is(value[name], kind) for name, kind in _SNAPSHOT.items())


def printable(value: Any) -> Any:
    """Texts without what could move a terminal's cursor, or end a line of its markup."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "?" for c in value)
    if isinstance(value, dict):
        return {printable(key): printable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [printable(each) if isinstance(each, str | list | dict) else each for each in value]
    return value


def _is(value: Any, kind: str) -> bool:
    if kind in _OR_NULL:
        return value is None or _is(value, _OR_NULL[kind])
    if kind in _LISTS_OF:
        return isinstance(value, list) and all(_is(each, _LISTS_OF[kind]) for each in value)
    if kind == _VERSIONS:
        return isinstance(value, dict) and all(_is(each, _MAYBE_TEXTS) for each in value.values())
    if kind in (_NUMBERS, _TIMES):
        sound = isinstance(value, int | float) and not isinstance(value, bool)
        # And so no NaN, and no whole number that is no float.
        return sound and abs(value) < 1e300 and (kind == _NUMBERS or value >= 0)
    if kind in (_COUNTS, _RATES):
        return type(value) is int and (kind == _RATES) <= value < 2**53
    return isinstance(value, {_TEXTS: str, _FLAGS: bool, _LISTS: list, _TABLES: dict}[kind])


def named(job: Mapping[str, Any]) -> str:
    """What a job is, in words."""
    return " of ".join(filter(None, (str(job.get("mode")), ", ".join(_ids(job)))))


def _ids(job: Mapping[str, Any]) -> list[str]:
    models = job.get("models") or ([job["model"]] if job.get("model") else [])
    return [str(model.get("id")) for model in models]


def _signal(returncode: int) -> signal.Signals | None:
    # A shell that tells of a signal adds 128 to it.
    number = -returncode if returncode < 0 else returncode - 128
    return signal.Signals(number) if number in signal.valid_signals() and number > 0 else None


def _ending(returncode: int) -> str:
    by = _signal(returncode)
    return f"ended early with code {returncode}" if by is None else f"was ended by {by.name}"


def _last_words(noise: str) -> str:
    lines = [line.strip() for line in noise.splitlines() if line.strip()]
    return f": {printable(lines[-1][:300])}" if lines else ""
