"""What each layer costs in 8 bits: as bars, and as a table of the details."""

from __future__ import annotations

from edgekd.report import words
from edgekd.report.details import Table
from edgekd.report.schema import Report, StageRecord
from edgekd.report.tables import Bar, BarGroup

_MOST_BARS = 16


def sensitivity_bars(report: Report) -> tuple[BarGroup, ...]:
    """Of each quantized network the costliest layers, all on one scale."""
    stages = [s for s in report.stages if s.sensitivity]
    longest = max((layer.logit_error for s in stages for layer in s.sensitivity), default=1.0) or 1.0
    groups = []
    for stage in stages:
        bars = tuple(
            Bar(
                label=layer.path,
                note=f"{words.signed(layer.drop_pp, 2)} pp{_float(stage, layer.path)}",
                text=words.number(100 * layer.logit_error, 2),
                share=layer.logit_error / longest,
                mark=None,
                reference=layer.path in stage.float_layers,
            )
            for layer in stage.sensitivity[:_MOST_BARS]
        )
        left = len(stage.sensitivity) - len(bars)
        more = f"; {words.count(left, 'layer')} that cost less stand in the details" if left else ""
        groups.append(BarGroup(f"{stage.id}{more}", bars))
    return tuple(groups)


def sensitivity_tables(report: Report) -> tuple[Table, ...]:
    """All layers; nothing where nothing was measured and no layer was left in float."""
    rows = []
    for stage in report.stages:
        paths = [layer.path for layer in stage.sensitivity]
        for layer in stage.sensitivity:
            error, drop = words.number(100 * layer.logit_error, 3), words.signed(layer.drop_pp, 2)
            rows.append((stage.id, layer.path, error, drop, _scheme(stage, layer.path)))
        for path in stage.float_layers:
            if path not in paths:
                rows.append((stage.id, path, words.ABSENT, words.ABSENT, _scheme(stage, path)))
    if not rows:
        return ()
    head = ("Stage", "Layer", "Logit error alone, %", "Drop alone, pp", "Emitted in")
    return (Table("Sensitivity of layers to 8 bits", head, tuple(rows), (2, 3)),)


def _scheme(stage: StageRecord, path: str) -> str:
    if path not in stage.float_layers:
        return "int8"
    costs = [
        f"{words.signed(by_path[path], 3)} ms here in {clock}"
        for clock, by_path in stage.float_costs_ms.items()
        if path in by_path
    ]
    return ", ".join(["float", *costs])


def _float(stage: StageRecord, path: str) -> str:
    return " · float" if path in stage.float_layers else ""
