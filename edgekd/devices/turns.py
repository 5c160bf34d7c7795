"""Models that are timed in turns, and a reference that tells whether the processor is all theirs.

This file travels to boards with the agent: only the standard library, nothing newer than Python 3.10.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from edgekd.errors import MeasurementError
from edgekd.runtimes import Session

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


class Turn:
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
        """Whether it was timed often enough, and for long enough."""
        return len(self.values_ns) >= min_runs and sum(self.values_ns) >= min_seconds * 1e9


class Reference:
    """The model that tells whether the processor is all ours just now."""

    def __init__(self, turn: Turn, fastest_ms: float, full_speed: float, slowest: float) -> None:
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


class Ratios:
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
