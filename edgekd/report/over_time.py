"""Latency over time under sustained load, as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.measure.sustained import SLOWER, Sustained
from edgekd.measurements import Kind
from edgekd.report import words
from edgekd.report.axes import Axis, axis
from edgekd.report.pages import environment
from edgekd.report.tables import KIND_WORDS


@dataclass(frozen=True)
class Line:
    """A plot over time: its line and axes in percent; `slowed` is where the device slowed down."""

    title: str
    path: str
    x: Axis
    y: Axis
    limit: float | None
    slowed: float | None


def page(found: Sustained, name: str, device: str, kind: Kind, notes: Sequence[str]) -> str:
    """The page.

    Args:
        found: what was measured.
        name: the file's.
        device: what it ran on, in words.
        kind: whether that is the target.
        notes: in what it is not what was asked for.
    """
    lines = [_line(found, "Mean latency, ms", [w.mean_ms for w in found.windows], SLOWER * found.first_ms)]
    heat = [w.temperature_c for w in found.windows if w.temperature_c is not None]
    clocks = [w.clock_khz / 1e6 for w in found.windows if w.clock_khz is not None]
    for title, values in (("Temperature, °C", heat), ("Clock, GHz", clocks)):
        if len(values) == len(found.windows):
            lines.append(_line(found, title, values, None))
    text: str = (
        environment()
        .get_template("sustained.html.j2")
        .render(
            name=name,
            device=f"{device} ({KIND_WORDS[kind]})",
            notes=notes,
            backend=found.backend,
            lines=lines,
            said=said(found),
            slowed=found.is_slower,
            facts=facts(found),
        )
    )
    return text


def said(found: Sustained) -> str:
    """What came of it, in a sentence."""
    change = f"{words.number(found.first_ms, 3)} ms at first, {words.number(found.last_ms, 3)} ms in the end"
    if not found.is_slower:
        return f"The device kept its speed: {change}."
    if found.slowed_at_s is None:
        return f"The device was slower in the end: {change}."
    return f"The device slowed down after {found.slowed_at_s:.0f} s: {change}."


def facts(found: Sustained) -> tuple[tuple[str, str], ...]:
    """(name, value) of what stands beside the plot."""
    held = [w.throttled_ms for w in found.windows if w.throttled_ms is not None]
    runs = sum(w.num_runs for w in found.windows)
    return (
        ("Runs", f"{runs:,}"),
        ("Longest run", f"{words.number(max(w.max_ms for w in found.windows), 3)} ms"),
        ("Held by a CPU quota", f"{sum(held):,.0f} ms" if held else "not told"),
    )


def _line(found: Sustained, title: str, values: list[float], limit: float | None) -> Line:
    times = [window.at_s for window in found.windows]
    x = axis([0.0, *times], most=8, air=0.0)
    y = axis([0.0, *values, *([limit] if limit is not None else [])], most=5, air=0.04)
    points = (f"{x.at(t):.3f} {100 - y.at(v):.3f}" for t, v in zip(times, values, strict=True))
    at = None if limit is None else 100 - y.at(limit)
    slowed = None if found.slowed_at_s is None else x.at(found.slowed_at_s)
    return Line(title, "M" + "L".join(points), x, y, at, slowed)
