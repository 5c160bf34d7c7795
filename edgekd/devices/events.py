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
# What not every session has something to say of.
_MAYBE_COUNTS, _MAYBE_TEXTS, _MAYBE_FLAGS = "count or null", "text or null", "truth value or null"
# Each event, and the fields that are read from it.
_FIELDS: Mapping[str, Mapping[str, str]] = {
    "session": {
        "id": _TEXTS,
        "version": _TEXTS,
        "backend": _TEXTS,
        "num_threads": _NUMBERS,
        "init_ms": _NUMBERS,
        "operators_delegated": _MAYBE_COUNTS,
        "operators_total": _MAYBE_COUNTS,
        "partitions": _MAYBE_COUNTS,
        "gpu": _MAYBE_TEXTS,
        "software_gpu": _MAYBE_FLAGS,
    },
    "scores": {"shape": _LISTS, "sha256": _TEXTS},
    "first": {"id": _TEXTS, "first_ms": _NUMBERS},
    "latency": {"id": _TEXTS, "values_ms": _LISTS},
    "conditions": {"cores": _LISTS, "before": _TABLES, "after": _TABLES},
    "window": {
        "at_s": _NUMBERS,
        "num_runs": _NUMBERS,
        "mean_ms": _NUMBERS,
        "max_ms": _NUMBERS,
        "before": _TABLES,
        "after": _TABLES,
    },
    "reference": {"fastest_ms": _NUMBERS},
    "ratios": {"id": _TEXTS, "value": _NUMBERS, "standard_error": _NUMBERS, "reference_ms": _NUMBERS},
    "memory": {"id": _TEXTS, "peak_memory_bytes": _NUMBERS},
    "operators": {"id": _TEXTS, "operators": _LISTS},
    "machine": {
        "cpu": _TEXTS,
        "isa": _TEXTS,
        "board": _TEXTS,
        "all_features": _LISTS,
        "denied_features": _LISTS,
        "runtimes": _TABLES,
    },
    "error": {"message": _TEXTS, "hint": _TEXTS},
    "done": {},
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
        if name == "conditions" and not all(isinstance(core, int) for core in event["cores"]):
            raise MeasurementError(f"{self._name}: the agent sent cores that are no numbers")
        taken, total = event.get("operators_delegated"), event.get("operators_total")
        if name == "session" and (taken or 0) > (total or 0):
            raise MeasurementError(
                f"{self._name}: the agent says that {taken} of {total} operators were taken"
            )
        if name == "machine" and not all(
            isinstance(text, str) for text in event["all_features"] + event["denied_features"]
        ):
            raise MeasurementError(f"{self._name}: the agent sent features that are no texts")
        return event


def _is_snapshot(value: Mapping[str, Any]) -> bool:
    """Whether it has what `conditions.snapshot` gives."""
    numbers = ("throttled_ms", "hot_events", "clock_khz", "temperature_c")
    told = [value.get(name, "") for name in numbers]
    flags = value.get("firmware")
    sound = all(number is None or _is(number, _NUMBERS) for number in told)
    return sound and isinstance(flags, list) and all(isinstance(flag, str) for flag in flags)


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
    if kind == _NUMBERS:
        sound = isinstance(value, int | float) and not isinstance(value, bool)
        return sound and abs(value) < 1e300  # and so no NaN, and no whole number that is no float
    if kind == _MAYBE_COUNTS:
        return value is None or (type(value) is int and 0 <= value < 2**31)
    if kind in (_MAYBE_TEXTS, _MAYBE_FLAGS):
        return value is None or isinstance(value, str if kind == _MAYBE_TEXTS else bool)
    return isinstance(value, {_TEXTS: str, _LISTS: list, _TABLES: dict}[kind])


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
