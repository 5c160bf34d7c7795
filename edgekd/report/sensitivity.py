"""What each layer costs in 8 bits: as bars, and as a table of the details."""

from __future__ import annotations

from edgekd.report import words
from edgekd.report.details import Table
from edgekd.report.records import LayerSensitivity
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
                note=f"{_lost(layer, report)}{_float(stage, layer.path)}",
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
            error, drop = words.number(100 * layer.logit_error, 3), _drop(layer, report)
            rows.append((stage.id, layer.path, error, drop, _scheme(stage, layer.path)))
        for path in stage.float_layers:
            if path not in paths:
                rows.append((stage.id, path, words.ABSENT, words.ABSENT, _scheme(stage, path)))
    if not rows:
        return ()
    head = ("Stage", "Layer", "Logit error alone, %", _drop_head(report), "Emitted in")
    return (Table("Sensitivity of layers to 8 bits", head, tuple(rows), (2, 3)),)


def _drop(layer: LayerSensitivity, report: Report) -> str:
    """Lost of what is judged; of accuracy where no other metric was told."""
    if layer.drop is None:
        return words.signed(layer.drop_pp, 2)
    return words.signed(layer.drop, words.value_decimals(words.primary(report).unit))


def _lost(layer: LayerSensitivity, report: Report) -> str:
    metric = words.primary(report)
    if layer.drop is None:
        return f"{_drop(layer, report)} pp"
    return f"{_drop(layer, report)} {words.drop_unit(metric.unit) or words.metric_word(metric.name)}"


def _drop_head(report: Report) -> str:
    if all(layer.drop is None for stage in report.stages for layer in stage.sensitivity):
        return "Drop alone, pp"
    metric = words.primary(report)
    return words.headed(f"{words.metric_title(metric.name)} drop alone", words.drop_unit(metric.unit))


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
