"""Axes of plots: values to places in percent of the plot's own width or height, and round ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.report import words

# The largest over the smallest value from which on an axis goes by factors, and beyond which none does.
_LOG_FROM, _LOG_TO = 8.0, 1e12


@dataclass(frozen=True)
class Mark:
    """A labelled place on an axis, 0 to 100."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`; `log`: equal factors are equally long."""

    low: float
    high: float
    log: bool
    ticks: tuple[Mark, ...]

    def at(self, value: float) -> float:
        """The value's place in percent, from the low end."""
        return _place(value, self.low, self.high, self.log)


def axis(values: Sequence[float], *, most: int, may_log: bool = False, air: float = 0.06) -> Axis:
    """An axis that holds the values with some air at both ends.

    Args:
        values: at least one.
        most: ticks at most.
        may_log: whether it goes by factors where the values spread widely and all are above zero.
        air: free room at each end, as a share of what the values span.
    """
    low, high = min(values), max(values)
    if may_log and low > 0 and _LOG_FROM <= high / low <= _LOG_TO:
        room = (high / low) ** (air / (1 - 2 * air))
        low, high = low / room, high * room
        at = _factors(low, high, most)
        return Axis(low, high, True, tuple(Mark(_place(v, low, high, True), _round(v)) for v in at))
    span = (high - low) or abs(high) or 1.0
    low, high = low - air * span, high + air * span
    step = _step(high - low, most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9), len(f"{step:.10f}".rstrip("0").partition(".")[2]))
    marks = tuple(
        Mark(_place(i * step, low, high, False), words.number(i * step, decimals))
        for i in range(first, last + 1)
    )
    return Axis(low, high, False, marks)


def _round(value: float) -> str:
    """A round number: `0.005`, `20`, `1,000`."""
    return f"{value:,.0f}" if value >= 1 else f"{value:.12f}".rstrip("0")


def _place(value: float, low: float, high: float, log: bool) -> float:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return round(100 * (value - low) / (high - low), 3)


def _step(span: float, most: int) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that makes at most so many ticks."""
    raw = span / most
    size = 10.0 ** math.floor(math.log10(raw))
    return next(size * f for f in (1, 2, 2.5, 5, 10) if size * f >= raw * (1 - 1e-9))


def _factors(low: float, high: float, most: int) -> list[float]:
    """Round values by factors: 1, 2 and 5 times powers of ten, or fewer of them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for mantissas in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        found = [m * 10.0**p for p in powers for m in mantissas if low <= m * 10.0**p <= high]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]
