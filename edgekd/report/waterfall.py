"""The waterfall: what each step cost, from the teacher down to every file.

Stages are a tree. A row is indented only where the tree branches, so a straight
chain reads as a straight list. Every drop is against the teacher on the same
test samples; a step's own cost is its drop less that of the row it came from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgekd.report import words
from edgekd.report.schema import ArtifactRecord, MetricValue, Report, StageRecord

STAGE_WORDS = {
    "student": "Student",
    "distill": "Student, distilled",
    "prune": "Pruned",
    "quantize": "Quantized",
}
STEP_WORDS = {"Student, distilled": "distillation", "Pruned": "pruning", "Quantized": "quantization"}
SCOPE_NAMES = 3  # a stage for more targets than this says how many
Guide = Literal["tee", "elbow", "line", "blank"]


@dataclass(frozen=True)
class Row:
    """One line of the waterfall; numbers in the metric's unit, drops in the drop's.

    Attributes:
        guides: the tree's lines left of the label, outermost first.
        origin: drop of the row it came from, where its own step starts.
        step: drop less origin.
        scope: "for ..." where a stage leads to some of the targets only.
    """

    id: str
    label: str
    note: str
    kind: Literal["baseline", "stage", "file"]
    required: bool
    scope: str
    guides: tuple[Guide, ...]
    value: float | None
    drop: float | None
    interval: tuple[float, float] | None
    origin: float
    step: float | None


@dataclass(frozen=True)
class Waterfall:
    """Rows and the scale that all of them share."""

    metric: MetricValue
    rows: tuple[Row, ...]
    margin: float | None
    low: float
    high: float
    ticks: tuple[float, ...]

    @property
    def worst(self) -> Row | None:
        """The row whose own step lost the most, None where none lost anything."""
        steps = [r for r in self.rows if r.step is not None and r.step > 0]
        return max(steps, key=lambda r: r.step or 0.0, default=None)


@dataclass(frozen=True)
class _Node:
    row: Row
    children: tuple[_Node, ...]


def waterfall(report: Report) -> Waterfall:
    """The waterfall of the primary metric."""
    metric = words.primary(report)
    margin = words.margin_of(report)
    rows = tuple(_flatten(_Tree(report, metric.name).root(), ()))
    reach = [0.0, *(r.drop for r in rows if r.drop is not None)]
    reach += [end for r in rows if r.interval for end in r.interval]
    reach += [margin] if margin is not None else []
    low, high, ticks = scale(min(reach), max(reach))
    return Waterfall(metric, rows, margin, low, high, ticks)


def scale(low: float, high: float) -> tuple[float, float, tuple[float, ...]]:
    """An axis that holds low and high with some air, and 3 to 9 round ticks on it."""
    span = (high - low) or 1.0
    low, high = low - 0.03 * span, high + 0.03 * span
    raw = (high - low) / 8
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * f for f in (1, 2, 2.5, 5, 10) if size * f >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return low, high, tuple(round(i * step, 12) for i in range(first, last + 1))


class _Tree:
    """The report's stages and files, hung below the baseline."""

    def __init__(self, report: Report, metric: str) -> None:
        self.report = report
        self.metric = metric
        self.all_targets = words.targets(report)
        self.parent = {s.id: s.parent_id for s in report.stages}
        self.shown = {s.id: s for s in report.stages if self._is_shown(s)}

    def root(self) -> _Node:
        teacher = self.report.teacher
        row = Row(
            id="baseline",
            label=words.sentence(words.baseline_name(self.report)),
            note=_cost(teacher.params, teacher.macs),
            kind="baseline",
            required=False,
            scope="",
            guides=(),
            value=words.primary(self.report).value,
            drop=None,
            interval=None,
            origin=0.0,
            step=None,
        )
        return _Node(row, self._children(None, 0.0))

    def _is_shown(self, stage: StageRecord) -> bool:
        """Stages with a drop; the baseline itself and stages that were not judged are passed through."""
        found = words.find_metric(stage.metrics, self.metric)
        is_baseline = stage.parent_id is None and stage.name == "teacher"
        return found is not None and found.drop is not None and not is_baseline

    def _anchor(self, stage_id: str | None) -> str | None:
        """The nearest shown stage at or above."""
        while stage_id is not None and stage_id not in self.shown:
            stage_id = self.parent[stage_id]
        return stage_id

    def _children(self, parent: str | None, origin: float) -> tuple[_Node, ...]:
        stages = [s for s in self.shown.values() if self._anchor(s.parent_id) == parent]
        files = [
            a for a in self.report.artifacts if a.role == "target" and self._anchor(a.stage_id) == parent
        ]
        nodes = [_Node(self._file(a, origin), ()) for a in files]
        for stage in stages:
            row = self._stage(stage, origin, branches=len(stages) > 1)
            nodes.append(_Node(row, self._children(stage.id, row.drop or 0.0)))
        return tuple(nodes)

    def _stage(self, stage: StageRecord, origin: float, branches: bool) -> Row:
        found = words.find_metric(stage.metrics, self.metric)
        label = STAGE_WORDS.get(stage.name, words.sentence(stage.name))
        scope = "" if set(stage.targets) >= set(self.all_targets) else _scope(stage.targets)
        notes = (_cost(stage.params, stage.macs), scope if branches else "")
        row = Row(
            stage.id, label, " · ".join(n for n in notes if n), "stage", False, scope, **_figures(found)
        )
        return _from(row, origin)

    def _file(self, artifact: ArtifactRecord, origin: float) -> Row:
        found = words.find_metric(artifact.metrics, self.metric)
        note = f"{artifact.format} file · {artifact.scheme}"
        row = Row(
            artifact.id,
            words.name_of(artifact),
            note,
            "file",
            artifact.required,
            "",
            **_figures(found),
        )
        return _from(row, origin)


def _figures(found: MetricValue | None) -> dict[str, Any]:
    return {
        "guides": (),
        "value": found.value if found else None,
        "drop": found.drop if found else None,
        "interval": found.drop_interval if found else None,
        "origin": 0.0,
        "step": None,
    }


def _from(row: Row, origin: float) -> Row:
    """The row with the step it took from where it came from."""
    return replace(row, origin=origin, step=None if row.drop is None else row.drop - origin)


def _scope(targets: tuple[str, ...]) -> str:
    if len(targets) > SCOPE_NAMES:
        return f"for {len(targets)} targets"
    return f"for {words.listed(targets)}" if targets else ""


def _cost(params: int | None, macs: int | None) -> str:
    parts = [(params, "parameters"), (macs, "MACs")]
    return " · ".join(f"{words.short(n)} {what}" for n, what in parts if n is not None)


def _flatten(node: _Node, guides: tuple[Guide, ...]) -> Iterator[Row]:
    """Rows in reading order, each with its guides."""
    yield replace(node.row, guides=guides)
    carried: tuple[Guide, ...] = tuple("line" if g in ("tee", "line") else "blank" for g in guides)
    if len(node.children) == 1:
        yield from _flatten(node.children[0], carried)
        return
    for i, child in enumerate(node.children):
        last: Guide = "elbow" if i == len(node.children) - 1 else "tee"
        yield from _flatten(child, (*carried, last))


def worst_sentence(fall: Waterfall) -> str:
    """Names the step that lost the most."""
    worst = fall.worst
    unit, decimals = words.drop_unit(fall.metric.unit), words.value_decimals(fall.metric.unit)
    if worst is None:
        return f"No step lost {words.metric_word(fall.metric.name)} as observed."
    what = (
        f"writing the file for {worst.label}"
        if worst.kind == "file"
        else STEP_WORDS.get(worst.label, worst.label)
    )
    if worst.scope:
        what += f" {worst.scope}"
    if worst.interval is not None and worst.interval[0] <= 0:
        doubt = " Its total drop is not distinguishable from none on these samples."
    else:
        doubt = ""
    lost = (
        f"{words.number(worst.step or 0.0, decimals)} {unit or f'of {words.metric_word(fall.metric.name)}'}"
    )
    return f"The step that lost most: {what}, {lost} as observed.{doubt}"
