"""The report as one self-contained HTML page: no network, light and dark, prints.

One small script sorts tables; the page's own policy lets nothing else run, and without it every table
keeps the order that it was written in.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from edgekd.report import tables, words
from edgekd.report.bounds import ABOUT, bound_table, bound_tables, bounds_notes
from edgekd.report.classes import changes
from edgekd.report.details import detail_tables
from edgekd.report.further import further_tables
from edgekd.report.inside import content_tables, insides
from edgekd.report.pages import environment
from edgekd.report.pictures import cards, gallery_said
from edgekd.report.scatter import key_table, scatters
from edgekd.report.schema import Report
from edgekd.report.sensitivity import sensitivity_bars, sensitivity_tables
from edgekd.report.slices import slices
from edgekd.report.spread import spread_table, spreads
from edgekd.report.waterfall import Row, Waterfall, waterfall, worst_sentence

TRACK = 1000.0  # width of a bar's own coordinates; the page stretches them to the column


@dataclass(frozen=True)
class Drawing:
    """A waterfall row in track coordinates (0 to 1000); widths are never negative."""

    total_x: float
    total_width: float
    step_x: float
    step_width: float
    step_kind: str
    whisker: tuple[float, float] | None
    at: float


@dataclass(frozen=True)
class Line:
    """A waterfall row ready for the template."""

    row: Row
    value: str
    drop: str
    interval: str
    step: str
    drawing: Drawing | None


@dataclass(frozen=True)
class Tick:
    """A labelled place on the axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """The waterfall ready for the template."""

    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]
    zero: float
    margin: float | None
    margin_label: str
    unit: str
    value_head: str
    worst: str
    deepest: int


def html(report: Report) -> str:
    """The whole report as one HTML document; all text from the report is escaped."""
    metric = words.primary(report)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            status=report.verdict.status,
            headline=words.headline(report),
            detail=words.sentence(words.decisive_detail(report)),
            facts=tables.facts(report),
            why=words.why_margin(report),
            cautions=words.cautions(report),
            chart=chart(report),
            confidence=words.confidence(report),
            cluster=words.policy(report).get("cluster"),
            baseline=words.baseline_name(report),
            samples=words.count(report.data.splits.test.n, "test sample"),
            metric=words.metric_title(metric.name),
            value_unit=words.unit_sign(metric.unit),
            unit=words.drop_unit(metric.unit),
            artifacts=tables.artifact_rows(report),
            kinds=tables.KIND_WORDS,
            used_kinds=tuple(dict.fromkeys(m.kind for m in report.measurements)),
            sizes=tables.size_bars(report),
            latencies=tables.latency_bars(report),
            emulated=any(m.kind == "emulated" for m in report.measurements),
            checks=tables.check_rows(report),
            sensitivity=sensitivity_bars(report),
            details=(
                *detail_tables(report),
                *further_tables(report),
                *bound_tables(report),
                *content_tables(report),
                *sensitivity_tables(report),
            ),
            notes=tuple(tables.settings(report.data.notes)),
            recipe=words.toml(report.recipe.config),
            absent=words.ABSENT,
            **_plots(report),
            **_script(),
        )
    )


def _plots(report: Report) -> dict[str, Any]:
    """What the plots are drawn from, and the parts that the page has."""
    found: dict[str, Any] = {
        "slices": slices(report),
        "scatters": scatters(report),
        "key": key_table(report),
        "spreads": (spread := spreads(report)),
        "spread_tables": spread_table(report),
        "changes": changes(report),
        "gallery_said": gallery_said(report),
        "cards": cards(report),
        "insides": insides(report),
        "bounds": bound_table(report),
        "bounds_said": ABOUT,
        "bounds_notes": bounds_notes(report),
    }
    parts = {
        "waterfall": "Steps",
        "files": "Files",
        "checks": "Checks",
        "slices": "Slices" if found["slices"] else "",
        "pareto": "Trade-offs" if found["scatters"] else "",
        "sizes": "Size and latency",
        "distributions": "Timed runs" if spread.files or spread.references else "",
        "bounds": "Bounds" if found["bounds"] or found["bounds_notes"] else "",
        "classes": "Classes" if found["changes"] else "",
        "gallery": "Gallery" if found["gallery_said"] else "",
        "sensitivity": "Sensitivity" if sensitivity_bars(report) else "",
        "inside": "Inside the files" if found["insides"] else "",
        "details": "Details",
    }
    return {**found, "parts": tuple((id, name) for id, name in parts.items() if name)}


@cache
def _script() -> dict[str, Any]:
    """The script, and its hash for the page's policy."""
    text = resources.files("edgekd.report").joinpath("templates/sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"script": text, "script_hash": f"sha256-{digest}"}


def chart(report: Report) -> Chart:
    """The waterfall in track coordinates."""
    fall = waterfall(report)
    unit = words.drop_unit(fall.metric.unit)
    decimals = words.value_decimals(fall.metric.unit)
    places = max((len(f"{t:.6f}".rstrip("0").partition(".")[2]) for t in fall.ticks), default=0)
    return Chart(
        lines=tuple(_line(row, fall, decimals) for row in fall.rows),
        ticks=tuple(Tick(_at(t, fall), words.signed(t, places)) for t in fall.ticks),
        zero=_at(0.0, fall),
        margin=None if fall.margin is None else _at(fall.margin, fall),
        margin_label="" if fall.margin is None else words.margin_text(fall.margin, fall.metric.unit),
        unit=unit,
        value_head=words.headed(words.metric_title(fall.metric.name), words.unit_sign(fall.metric.unit)),
        worst=worst_sentence(fall),
        deepest=max(len(row.guides) for row in fall.rows),
    )


def _at(value: float, fall: Waterfall) -> float:
    """A drop as a place on the track."""
    return round((value - fall.low) / (fall.high - fall.low) * TRACK, 3)


def _line(row: Row, fall: Waterfall, decimals: int) -> Line:
    return Line(
        row=row,
        value=words.number(row.value, decimals),
        drop=words.signed(row.drop, decimals),
        interval=words.interval(row.interval, decimals),
        step=words.signed(row.step, decimals),
        drawing=_draw(row, fall),
    )


def _draw(row: Row, fall: Waterfall) -> Drawing | None:
    """Bar from zero to the drop, the step's own part of it, and the whisker of the interval."""
    if row.drop is None:
        return None
    zero, at, origin = (_at(v, fall) for v in (0.0, row.drop, row.origin))
    return Drawing(
        total_x=min(zero, at),
        total_width=round(abs(at - zero), 3),
        step_x=min(origin, at),
        step_width=round(abs(at - origin), 3),
        step_kind="loss" if row.drop > row.origin else "gain",
        whisker=None if row.interval is None else (_at(row.interval[0], fall), _at(row.interval[1], fall)),
        at=at,
    )
