"""What is printed of a report, of its verdict, and of a verdict on predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from edgekd import config
from edgekd.gate import WARNED
from edgekd.judgement import slice_record
from edgekd.report import slices, verdicts, words
from edgekd.report.sharing import shared
from edgekd.terminal import COLOURS, console, empty_table, size_text

if TYPE_CHECKING:
    from edgekd.config import GateConfig
    from edgekd.own_predictions import Answer
    from edgekd.report.schema import ArtifactRecord, MeasurementRecord, MetricValue, Report, SliceRecord

SHORT = {
    "static_wi8_ai8": "int8",
    "dynamic_wi8_afp32": "int8 dyn",
    "weight_only_wi8_afp32": "int8 w",
    "fp16": "fp16",
    "fp32": "fp32",
}


def show_report(report: Report, folder: Path) -> None:
    """Stages, artifacts, verdict, and where the report lies."""
    heads = ("Interval (90%)", "Parameters", "MMAC", "Time (s)")
    stages = empty_table("stages", ("stage", *_metric_heads(report), *heads))
    for stage in report.stages:
        stages.add_row(
            stage.id,
            *_metric_cells(stage.metrics, report),
            _interval(stage.metrics[0]),
            "" if stage.params is None else f"{stage.params:,}",
            "" if stage.macs is None else f"{stage.macs / 1e6:.2f}",
            f"{stage.seconds:.0f}",
        )
    console.print(stages)
    console.print(_artifact_table(report))
    show_verdict(report)
    console.print(f"report: {folder / 'report.html'}")


def _metric_heads(report: Report) -> tuple[str, str]:
    """Of a figure and its drop, by the metric that is judged."""
    metric = words.primary(report)
    if metric.unit == "percent":
        short = {"accuracy": "Acc."}.get(metric.name, words.metric_title(metric.name))
        return f"{short} (%)", "Drop (pp)"
    return words.metric_title(metric.name), "Drop"


def _metric_cells(metrics: Sequence[MetricValue], report: Report) -> tuple[str, str]:
    found = words.find_metric(metrics, words.primary(report).name)
    if found is None:
        return "", ""
    decimals = words.value_decimals(found.unit)
    drop = "" if found.drop is None else f"{found.drop:+.{decimals}f}"
    return f"{found.value:.{decimals}f}", drop


def _interval(metric: MetricValue) -> str:
    if metric.drop_interval is None:
        return ""
    decimals = words.value_decimals(metric.unit)
    return " ".join(f"{end:+.{decimals}f}" for end in metric.drop_interval)


_MARKS = {
    "measured": ("", ""),
    "host": ("*", "on a computer that is not the target"),
    "emulated": ("†", "in an emulator, whose time means nothing"),
}


def _artifact_table(report: Report) -> Table:
    columns = (
        "target",
        "file",
        "Size",
        *_metric_heads(report),
        "Median (ms)",
        "Teacher (x)",
        "Float (x)",
    )
    table = empty_table("artifacts", columns)
    marks: set[str] = set()
    table.caption_justify = "left"
    table.caption = "(x): times faster than the float teacher, and than the same network in float"
    for artifact in report.artifacts:
        timing = _timing(report, artifact)
        table.add_row(
            artifact.target or f"[dim]{artifact.role.partition('_')[0]}[/dim]",
            f"{artifact.format} {SHORT[artifact.scheme]}",
            size_text(artifact.size_bytes),
            *_metric_cells(artifact.metrics, report),
            "" if timing is None else f"{timing.median_ms:.3f}{_MARKS[timing.kind][0]}",
            "" if artifact.speedup_over_teacher is None else f"{artifact.speedup_over_teacher.value:.1f}",
            "" if artifact.speedup_over_float is None else f"{artifact.speedup_over_float.value:.1f}",
        )
        if timing is not None:
            marks.add(" ".join(_MARKS[timing.kind]).strip())
    table.caption += "".join(f"\n{mark}" for mark in sorted(marks - {""}))
    return table


def _timing(report: Report, artifact: ArtifactRecord) -> MeasurementRecord | None:
    return next((m for m in report.measurements if m.artifact_id == artifact.id), None)


def show_verdict(report: Report) -> None:
    """Every check that says something, targets of one answer together, slices, and the overall verdict."""
    policy = config.build(config.PolicyGate, words.policy(report), "report gate.policy")
    required = {a.target for a in report.artifacts if a.required}
    answers: dict[tuple[bool, str, str, str], list[str]] = {}
    for check in report.verdict.checks:
        if check.status != "NOT_APPLICABLE" and check.slice is None:
            of = (check.target not in required, check.name, check.status, check.detail)
            answers.setdefault(of, []).append(str(check.target))
    for spare in (False, True):
        groups = [(of, named) for of, named in answers.items() if of[0] is spare]
        if groups:
            console.print(
                "\n[bold]checks of other targets, for information[/]" if spare else "[bold]checks[/]"
            )
        for (_, name, status, detail), named in groups:
            console.print(f"[{COLOURS[status]}]{status}[/] [bold]{name}[/]: {', '.join(named)}")
            console.print(Padding(escape(detail), (0, 0, 0, 4)))
        same = shared((a for a in report.artifacts if a.required is not spare), lambda a: a.slices or None)
        for group in same:
            _show_slices(group.first.slices, policy, f"slices of {group.name}")
    console.print()
    _show_matrix(report)
    status = report.verdict.status
    console.print(
        f"[bold {COLOURS[status]}]{status}[/] at a margin of {policy.margin_text} on "
        f"{report.data.splits.test.n:,} test samples" + (f": {escape(policy.why)}" if policy.why else "")
    )
    if status != "PASS":
        console.print(escape(words.headline(report)))
    if report.recipe.config.get("smoke"):
        console.print(
            "[yellow]a smoke run on a sliver of data: the chain runs, its verdict means nothing[/yellow]"
        )
    failed = [c for c in report.verdict.checks if c.status == "FAIL" and c.target not in required]
    if failed and status != "FAIL":
        names = ", ".join(f"{c.target} ({c.name})" for c in failed)
        console.print(f"[red]not required, but failed: {names}[/red]")
    if not policy.spend_alpha:
        _warn_of_judgements(report.judgements)


def _show_matrix(report: Report) -> None:
    """A verdict for each device, below the file that ships there."""
    found = verdicts.matrix(report)
    if len(found.devices) > 1:
        head, rows = found.lines("")
        table = empty_table("verdict by device and file", [name.lower() for name in head])
        for device, *cells in rows:
            shown = (f"[{COLOURS[c]}]{c}[/]" if c in COLOURS else escape(c) for c in cells)
            table.add_row(escape(device), *shown)
        console.print(table)


def show_answer(answer: Answer) -> None:
    """What the gate says of predictions: each candidate's checks and slices, then the verdict."""
    for name, judged in answer.judged.items():
        teacher, own = judged.values
        unit = "%" if answer.policy.judged.unit == "percent" else ""
        shown = f"{answer.policy.metric} {own:.5g}{unit}, the baseline {teacher:.5g}{unit}"
        console.print(f"\n[bold]{escape(name)}[/]: {shown}")
        for check in judged.checks:
            if check.status != "NOT_APPLICABLE" and check.slice is None:
                console.print(f"[{COLOURS[check.status]}]{check.status}[/] [bold]{check.name}[/]")
                console.print(Padding(escape(check.detail), (0, 0, 0, 4)))
        _show_slices([slice_record(one, answer.policy) for one in judged.slices], answer.policy, "slices")
        for note in judged.notes:
            console.print(f"[dim]{escape(note)}[/dim]")
    status, policy = answer.verdict.status, answer.policy
    decided = [c for c in answer.verdict.checks if c.status == status != "PASS"]
    named = ", ".join(f"{c.target}: {' = '.join(c.slice) if c.slice else c.name}" for c in decided)
    console.print(
        f"\n[bold {COLOURS[status]}]{status}[/] at a margin of {escape(policy.margin_text)}"
        + (f": {escape(policy.why)}" if policy.why else "")
        + (escape(f" ({named})") if named else "")
    )
    if answer.joint_power is not None and answer.joint_power < WARNED:
        console.print(
            f"[yellow]a candidate that lost nothing passes all mandatory slices with probability "
            f"{answer.joint_power:.0%} only: wider margins or more samples[/yellow]"
        )
    if not policy.spend_alpha:
        _warn_of_judgements(answer.judgements)


def _show_slices(found: Sequence[SliceRecord], policy: GateConfig, title: str) -> None:
    """Mandatory slices, the worst verdict first, and of the others those that raise an alarm."""
    shown = slices.ordered([("", one) for one in found], policy.judged.unit == "percent")
    if shown is None:
        return
    said = " ".join(filter(None, (shown.mandatory_said, shown.others_said)))
    console.print(f"[bold]{escape(title)}[/]: {escape(said)}")
    rows = (*shown.must_pass(slices.MOST_ROWS), *shown.alarms)
    if not rows:
        return
    table = empty_table("", ("slice", "N", f"Drop {shown.unit}".strip(), "Interval", "Margin", "verdict"))
    for row in rows:
        verdict = f"[{COLOURS.get(row.status, 'yellow')}]{row.status}[/] {escape(row.reason)}"
        table.add_row(escape(row.name), row.n, row.drop, row.interval, row.margin, verdict.rstrip())
    console.print(table)


def _warn_of_judgements(count: int) -> None:
    if count >= 10:
        console.print(f"[yellow]judgement {count} of this test split: a PASS means less each time[/yellow]")
