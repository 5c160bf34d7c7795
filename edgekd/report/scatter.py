"""Accuracy against latency and against size: every file and float reference, and who is on the front.

Places are percentages of the plot's width and height, so that it fits any screen; labels keep
their size, and are set for the narrowest screen, where they need most room.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekd.report import words
from edgekd.report.axes import Axis, axis
from edgekd.report.details import Table
from edgekd.report.schema import ArtifactRecord, MetricValue, Report
from edgekd.report.sharing import shown_name

# Pixels of the plot's area: on a phone, on a larger one, beside the other plot, alone on a tablet.
_SIZES = ((272.0, 260.0), (360.0, 260.0), (484.0, 300.0), (770.0, 260.0))
_CHARACTER, _LINE = 8.2, 13.0  # pixels of a label's letters
# Where a label may stand: right (1), left (-1) or in the middle (0), how far off, how far down its foot.
_NEAR = ((1, 7.0, -4.0), (-1, 7.0, -4.0), (1, 7.0, 12.0), (-1, 7.0, 12.0), (0, 0.0, -10.0), (0, 0.0, 20.0))
_FAR = tuple(
    (side, away, 4.0 + down)
    for away in (22.0, 44.0, 66.0)
    for down in (0.0, -15.0, 15.0, -30.0, 30.0, -45.0, 45.0)
    for side in (1, -1)
)
_APART = 10.0
_ANCHORS = {1: "start", 0: "middle", -1: "end"}
_SHAPES = {"target": "circle", "student_float": "square", "teacher_float": "diamond"}


@dataclass(frozen=True)
class Point:
    """One place on the plot: one artifact, or several that lie on each other."""

    label: str
    names: str
    shape: str
    x: float
    y: float
    whisker: tuple[float, float] | None
    on_front: bool
    dx: float
    dy: float
    anchor: str

    @property
    def leader(self) -> tuple[float, float] | None:
        """Where a line from the point to a label that stands apart ends."""
        return (self.dx - math.copysign(3, self.dx), self.dy - 4) if abs(self.dx) > _APART else None


@dataclass(frozen=True)
class Line:
    """A part of the front, both ends in percent."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Scatter:
    """A plot; `y` counts from the top."""

    id: str
    title: str
    x_title: str
    y_title: str
    x: Axis
    y: Axis
    points: tuple[Point, ...]
    front: tuple[Line, ...]
    margin_y: float | None
    alternative: str


@dataclass(frozen=True)
class _Value:
    """An artifact with what it costs and what it is worth."""

    number: int
    artifact: ArtifactRecord
    metric: MetricValue
    cost: float


def scatters(report: Report) -> tuple[Scatter, ...]:
    """One plot by latency for each device that something was timed on, and one by size."""
    devices = tuple(dict.fromkeys(m.device for m in report.measurements))
    found = []
    for place, device in enumerate(devices):
        by_id = _latencies(report, device)
        title = f"{_metric_name(report)} against latency"
        x_title = "Median latency, ms" + (f", on {device}" if len(devices) > 1 else "")
        found.append(_scatter(report, f"by-latency-{place}", title, x_title, by_id))
    sizes = {a.id: a.size_bytes / 1000 for a in report.artifacts if a.size_bytes}
    found.append(
        _scatter(report, "by-size", f"{_metric_name(report)} against size", "Size of the file, kB", sizes)
    )
    return tuple(plot for plot in found if plot is not None)


def _metric_name(report: Report) -> str:
    return words.metric_title(words.primary(report).name)


def _latencies(report: Report, device: str) -> dict[str, float]:
    """Artifact -> median on a device; what was timed beside several files counts as beside the first."""
    found: dict[str, float] = {}
    for artifact in report.artifacts:
        for m in words.measurements_of(report, artifact):
            if m.device == device and m.median_ms > 0:
                found.setdefault(artifact.id, m.median_ms)
    return found


def _values(report: Report, costs: dict[str, float]) -> list[_Value]:
    name = words.primary(report).name
    found = []
    for number, artifact in enumerate(report.artifacts, start=1):
        metric = words.find_metric(artifact.metrics, name)
        if metric is not None and artifact.id in costs:
            found.append(_Value(number, artifact, metric, costs[artifact.id]))
    return found


def front(costs: Sequence[float], values: Sequence[float], higher: bool) -> tuple[int, ...]:
    """Places of those that nothing beats in both cost and value, the cheapest first.

    Args:
        costs: less is better.
        values: as many.
        higher: whether more value is better.
    """
    sign = 1.0 if higher else -1.0
    best, found = -float("inf"), []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -sign * values[i])):
        if sign * values[i] > best:
            best = sign * values[i]
            found.append(i)
    return tuple(found)


def _scatter(report: Report, id: str, title: str, x_title: str, costs: dict[str, float]) -> Scatter | None:
    values = _values(report, costs)
    if not values:
        return None
    metric, margin = words.primary(report), words.margin_of(report)
    higher = metric.direction == "higher"
    floor = None if margin is None else metric.value + (-margin if higher else margin)
    ends = [end for v in values for end in (*_ends(v, metric), v.metric.value)]
    y = axis([*ends, *([] if floor is None else [floor])], most=6)
    x = axis([v.cost for v in values], most=6, may_log=True)
    best = front([v.cost for v in values], [v.metric.value for v in values], higher)
    on_front = {values[i].number for i in best}
    corners = [(x.at(values[i].cost), 100 - y.at(values[i].metric.value)) for i in best]
    return Scatter(
        id=id,
        title=title,
        x_title=x_title + (", log scale" if x.log else ""),
        y_title=words.headed(words.metric_title(metric.name), words.unit_sign(metric.unit)),
        x=x,
        y=y,
        points=_placed(values, metric, x, y, on_front),
        front=tuple(_steps(corners)),
        margin_y=None if floor is None else 100 - y.at(floor),
        alternative=_alternative(title, values, best, metric, x_title),
    )


def _alternative(
    title: str, values: Sequence[_Value], best: Sequence[int], metric: MetricValue, x_title: str
) -> str:
    unit, decimals = words.unit_sign(metric.unit), words.value_decimals(metric.unit)
    names = "; ".join(
        f"{shown_name(values[i].artifact)} with {words.number(values[i].metric.value, decimals)}"
        f"{f' {unit}' if unit else ''} at {values[i].cost:.4g}"
        for i in best
    )
    return (
        f"{title}, {words.count(len(values), 'file')}. Nothing beats in both (x is {x_title}): {names}. "
        "All numbers stand in the table below."
    )


def _ends(value: _Value, baseline: MetricValue) -> tuple[float, ...]:
    """The interval of the drop as values of the metric."""
    found = value.metric.drop_interval
    if found is None:
        return ()
    sign = -1.0 if baseline.direction == "higher" else 1.0
    return tuple(sorted(baseline.value + sign * end for end in found))


def _steps(corners: Sequence[tuple[float, float]]) -> Iterable[Line]:
    """A staircase: up to the next file nothing better is to be had."""
    for (x1, y1), (x2, y2) in itertools.pairwise(corners):
        yield Line(x1, y1, x2, y1)
        yield Line(x2, y1, x2, y2)


Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Placed:
    """Pixels around a place in percent: what keeps its size on every screen."""

    x: float
    y: float
    box: Box

    def at(self, width: float, height: float) -> Box:
        """Where it lies on a plot of that size."""
        x, y = self.x * width / 100, self.y * height / 100
        return (x + self.box[0], y + self.box[1], x + self.box[2], y + self.box[3])


def _placed(
    values: Sequence[_Value], metric: MetricValue, x: Axis, y: Axis, on_front: set[int]
) -> tuple[Point, ...]:
    """Points with their labels where they cover neither points nor each other."""
    merged: dict[tuple[float, float, str], list[_Value]] = {}
    for v in values:
        place = (round(x.at(v.cost), 1), round(100 - y.at(v.metric.value), 1), v.artifact.role)
        merged.setdefault(place, []).append(v)
    taken = [Placed(px, py, (-6.0, -6.0, 6.0, 6.0)) for px, py, _ in merged]
    points = []
    for (_, _, role), same in merged.items():
        first = same[0]
        px, py = x.at(first.cost), 100 - y.at(first.metric.value)
        label = _numbers([v.number for v in same])
        dx, dy, anchor, box = _free(px, py, label, taken)
        taken.append(Placed(px, py, box))
        ends = [100 - y.at(end) for end in _ends(first, metric)]
        points.append(
            Point(
                label=label,
                names=", ".join(shown_name(v.artifact) for v in same),
                shape=_SHAPES[role],
                x=px,
                y=py,
                whisker=(min(ends), max(ends)) if ends else None,
                on_front=any(v.number in on_front for v in same),
                dx=dx,
                dy=dy,
                anchor=anchor,
            )
        )
    return tuple(points)


def _free(px: float, py: float, label: str, taken: Sequence[Placed]) -> tuple[float, float, str, Box]:
    """Where a label covers nothing on any screen: beside its point, above or below it, or further off."""
    width, choices = len(label) * _CHARACTER + 5, []
    for side, away, dy in (*_NEAR, *_FAR):
        dx = side * away
        left = dx - width * (1 - side) / 2
        box = (left, dy - _LINE + 3, left + width, dy + 3)
        cost = sum(_cost(Placed(px, py, box), taken, size) for size in _SIZES)
        choices.append((cost, dx, dy, _ANCHORS[side], box))
        if not cost:
            break
    _, dx, dy, anchor, box = min(choices, key=lambda choice: choice[0])
    return dx, dy, anchor, box


def _cost(label: Placed, taken: Sequence[Placed], size: tuple[float, float]) -> float:
    """Pixels of other things that a label covers, and how far it reaches beyond the plot."""
    box = label.at(*size)
    outside = max(-box[0], box[2] - size[0], -box[1], box[3] - size[1], 0.0)
    return sum(_overlap(box, other.at(*size)) for other in taken) + 10 * outside


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _numbers(numbers: Sequence[int]) -> str:
    """`1, 3–6`."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(
        str(r[0]) if len(r) == 1 else f"{r[0]}–{r[-1]}" if len(r) > 2 else f"{r[0]}, {r[1]}" for r in runs
    )


def key_table(report: Report) -> Table:
    """What the numbers on the plots are, with what is drawn of each."""
    metric = words.primary(report)
    decimals, unit = words.value_decimals(metric.unit), words.drop_unit(metric.unit)
    devices = tuple(dict.fromkeys(m.device for m in report.measurements))
    latencies = [_latencies(report, device) for device in devices]
    ms = words.ms_decimals(v for by_id in latencies for v in by_id.values())
    sizes = {a.id: a.size_bytes / 1000 for a in report.artifacts if a.size_bytes}
    fronts = [_front_numbers(report, costs) for costs in (*latencies, sizes)]
    rows = []
    for number, artifact in enumerate(report.artifacts, start=1):
        found = words.find_metric(artifact.metrics, metric.name)
        on = ["latency"] * any(number in f for f in fronts[:-1]) + ["size"] * (number in fronts[-1])
        rows.append(
            (
                str(number),
                shown_name(artifact),
                artifact.scheme,
                words.number(found.value if found else None, decimals),
                words.signed(found.drop if found else None, decimals),
                words.interval(found.drop_interval if found else None, decimals),
                *(words.number(by_id.get(artifact.id), ms) for by_id in latencies),
                words.number(artifact.size_bytes / 1000, 1),
                words.listed(on) if on else words.ABSENT,
            )
        )
    timed = ["Median, ms"] if len(devices) == 1 else [f"Median on {device}, ms" for device in devices]
    head: tuple[str, ...] = (
        "No.",
        "File",
        "Scheme",
        words.headed(words.metric_title(metric.name), words.unit_sign(metric.unit)),
    )
    head += (
        words.headed("Drop", unit),
        words.headed(f"{words.confidence(report)} interval", unit),
        *timed,
        "Size, kB",
        "Unbeaten in",
    )
    return Table("Files on the plots", head, tuple(rows), (0, *range(3, len(head) - 1)))


def _front_numbers(report: Report, costs: dict[str, float]) -> set[int]:
    values = _values(report, costs)
    higher = words.primary(report).direction == "higher"
    return {
        values[i].number for i in front([v.cost for v in values], [v.metric.value for v in values], higher)
    }
