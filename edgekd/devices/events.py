"""What an agent says, line by line. It may come from a board that lies: everything is checked and bounded."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Mapping
from typing import Any, Protocol

from edgekd.errors import MeasurementError

Event = dict[str, Any]

# More than the raw times of an hour take; a board that writes on and on is cut off.
MOST_BYTES = 256 * 2**20
_MOST_NOISE = 64 * 2**10

_TEXTS, _NUMBERS, _LISTS, _TABLES = "text", "number", "list", "table"
# Each event, and the fields that are read from it.
_FIELDS: Mapping[str, Mapping[str, str]] = {
    "session": {
        "id": _TEXTS,
        "version": _TEXTS,
        "backend": _TEXTS,
        "num_threads": _NUMBERS,
        "init_ms": _NUMBERS,
    },
    "scores": {"shape": _LISTS, "sha256": _TEXTS},
    "first": {"id": _TEXTS, "first_ms": _NUMBERS},
    "latency": {"id": _TEXTS, "values_ms": _LISTS},
    "reference": {"fastest_ms": _NUMBERS},
    "ratios": {"id": _TEXTS, "value": _NUMBERS, "standard_error": _NUMBERS, "reference_ms": _NUMBERS},
    "memory": {"id": _TEXTS, "peak_memory_bytes": _NUMBERS},
    "operators": {"id": _TEXTS, "operators": _LISTS},
    "machine": {"cpu": _TEXTS, "isa": _TEXTS, "board": _TEXTS, "all_features": _LISTS, "runtimes": _TABLES},
    "error": {"message": _TEXTS, "hint": _TEXTS},
    "done": {},
}


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
        self._rest, self._size, self._noise = b"", 0, b""

    def feed(self, chunk: bytes) -> None:
        """A piece of the agent's stdout.

        Raises:
            MeasurementError: it is no event, or too much.
        """
        self._size += len(chunk)
        if self._size > MOST_BYTES:
            raise MeasurementError(f"{self._name}: the agent wrote more than {MOST_BYTES:,} bytes")
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._found += [self._event(line) for line in lines]

    def feed_noise(self, chunk: bytes) -> None:
        """A piece of its stderr, of which the end is kept."""
        self._noise = (self._noise + chunk)[-_MOST_NOISE:]

    def ended(self, returncode: int) -> tuple[Event, ...]:
        """All events of a job that was done.

        Raises:
            MeasurementError: it was not, in the agent's own words where it had some.
        """
        if self._rest:
            self._found.append(self._event(self._rest))
        last: Event = self._found[-1] if self._found else {"event": None}
        if last["event"] == "error":
            told = any(model in last["message"] for model in _ids(self._job))
            message = last["message"] if told else f"{self._name}: {last['message']}"
            raise MeasurementError(message, hint=last["hint"])
        if last["event"] != "done" or returncode != 0:
            noise = self._noise.decode(errors="replace")
            raise MeasurementError(f"{self._name}: the process {_ending(returncode)}{_last_words(noise)}")
        return tuple(self._found)

    def _event(self, line: bytes) -> Event:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict) or event.get("event") not in _FIELDS:
            shown = line[:200].decode(errors="replace")
            raise MeasurementError(f"{self._name}: the agent wrote what is no event: {shown!r}")
        for field, kind in _FIELDS[event["event"]].items():
            if not _is(event.get(field), kind):
                raise MeasurementError(
                    f"{self._name}: the agent's event {event['event']!r} has {field} = "
                    f"{str(event.get(field))[:50]!r}, no {kind}"
                )
        if not all(_is(value, _NUMBERS) for value in event.get("values_ms", ())):
            raise MeasurementError(f"{self._name}: the agent sent times that are no numbers")
        return event


def _is(value: Any, kind: str) -> bool:
    if kind == _NUMBERS:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, {_TEXTS: str, _LISTS: list, _TABLES: dict}[kind])


def named(job: Mapping[str, Any]) -> str:
    """What a job is, in words."""
    return " of ".join(filter(None, (str(job.get("mode")), ", ".join(_ids(job)))))


def _ids(job: Mapping[str, Any]) -> list[str]:
    models = job.get("models") or ([job["model"]] if job.get("model") else [])
    return [str(model.get("id")) for model in models]


def _ending(returncode: int) -> str:
    # A shell that tells of a signal adds 128 to it.
    number = -returncode if returncode < 0 else returncode - 128
    try:
        return f"was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"ended early with code {returncode}"


def _last_words(noise: str) -> str:
    lines = [line.strip() for line in noise.splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else ""
