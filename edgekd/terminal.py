"""What the commands print, as Rich tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from edgekd import config
from edgekd.errors import UsageError
from edgekd.gate import WARNED, slice_scale
from edgekd.report import verdicts, words

if TYPE_CHECKING:
    from edgekd.config import GateConfig
    from edgekd.doctor import Finding
    from edgekd.gate import Slice
    from edgekd.measure.bench import Bench
    from edgekd.nodes import Node
    from edgekd.own_predictions import Answer
    from edgekd.report.schema import ArtifactRecord, MeasurementRecord, Report
    from edgekd.store import Store

COLOURS = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow", "NOT_APPLICABLE": "dim"}
SHORT = {
    "static_wi8_ai8": "int8",
    "dynamic_wi8_afp32": "int8 dyn",
    "weight_only_wi8_afp32": "int8 w",
    "fp16": "fp16",
    "fp32": "fp32",
}
# Off a terminal (a pipe, a log, CI) there is no width to fit into: tables keep their columns whole.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def emit_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, sort_keys=True, default=_plain))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def size_text(size_bytes: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("B", "KB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.2f} GB"


def _table(title: str, columns: Sequence[str]) -> Table:
    """Columns with a name in small letters hold words, the others figures, which are never broken."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for column in columns:
        words = column.islower()
        # A narrow terminal breaks the heading, not the figures.
        heading = column if words else column.replace(" (", "\n(")
        table.add_column(heading, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    return table


def show_plan(rows: Iterable[tuple[Node, bool, float | None, int]], free_bytes: int) -> None:
    """The stages of a run: cached or to do, with a guess of time and disk."""
    table = _table("plan", ("stage", "for targets", "state", "Time (s, guess)", "Disk (guess)"))
    rows = list(rows)
    most = max(len(node.targets) for node, *_ in rows)
    seconds = disk = 0.0
    unknown = False
    for node, cached, took, size in rows:
        state = "[green]cached[/green]" if cached else "to do"
        table.add_row(
            node.label,
            "all" if len(node.targets) in (0, most) else ", ".join(node.targets),
            state,
            "?" if took is None else f"{took:.0f}",
            size_text(size),
        )
        seconds, disk = seconds + (took or 0), disk + (0 if cached else size)
        unknown = unknown or took is None
    console.print(table)
    if unknown:
        console.print(
            "training takes longer the more samples there are: run with --until data to have them counted"
        )
    time = f"about {seconds / 60:.0f} min" + (" besides training" if unknown else "")
    console.print(f"{time} and {size_text(disk)} of disk to go; {size_text(free_bytes)} free")


def show_report(report: Report, folder: Path) -> None:
    """Stages, artifacts, verdict, and where the report lies."""
    stages = _table(
        "stages", ("stage", "Acc. (%)", "Drop (pp)", "Interval (90%)", "Parameters", "MMAC", "Time (s)")
    )
    for stage in report.stages:
        metric = stage.metrics[0]
        stages.add_row(
            stage.id,
            f"{metric.value:.2f}",
            "" if metric.drop is None else f"{metric.drop:+.2f}",
            _interval(metric.drop_interval),
            "" if stage.params is None else f"{stage.params:,}",
            "" if stage.macs is None else f"{stage.macs / 1e6:.2f}",
            f"{stage.seconds:.0f}",
        )
    console.print(stages)
    console.print(_artifact_table(report))
    show_verdict(report)
    console.print(f"report: {folder / 'report.html'}")


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:+.2f} {interval[1]:+.2f}"


def _artifact_table(report: Report) -> Table:
    columns = (
        "target",
        "file",
        "Size",
        "Acc. (%)",
        "Drop (pp)",
        "Median (ms)",
        "Teacher (x)",
        "Float (x)",
    )
    table = _table("artifacts", columns)
    stands_in = False
    table.caption_justify = "left"
    table.caption = "(x): times faster than the float teacher, and than the same network in float"
    for artifact in report.artifacts:
        metric = artifact.metrics[0]
        timing = _timing(report, artifact)
        table.add_row(
            artifact.target or f"[dim]{artifact.role.partition('_')[0]}[/dim]",
            f"{artifact.format} {SHORT[artifact.scheme]}",
            size_text(artifact.size_bytes),
            f"{metric.value:.2f}",
            "" if metric.drop is None else f"{metric.drop:+.2f}",
            "" if timing is None else f"{timing.median_ms:.3f}{'' if timing.kind == 'measured' else '*'}",
            "" if artifact.speedup_over_teacher is None else f"{artifact.speedup_over_teacher.value:.1f}",
            "" if artifact.speedup_over_float is None else f"{artifact.speedup_over_float.value:.1f}",
        )
        stands_in = stands_in or (timing is not None and timing.kind != "measured")
    if stands_in:
        table.caption += "\n* on this computer, which is not the target"
    return table


def _timing(report: Report, artifact: ArtifactRecord) -> MeasurementRecord | None:
    return next((m for m in report.measurements if m.artifact_id == artifact.id), None)


def show_verdict(report: Report) -> None:
    """Every check that says something, targets of one answer together, and the overall verdict."""
    required = {a.target for a in report.artifacts if a.required}
    answers: dict[tuple[bool, str, str, str], list[str]] = {}
    for check in report.verdict.checks:
        if check.status != "NOT_APPLICABLE":
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
    console.print()
    _show_matrix(report)
    policy = config.build(config.PolicyGate, words.policy(report), "report gate.policy")
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
        table = _table("verdict by device and file", [name.lower() for name in head])
        for device, *cells in rows:
            shown = (f"[{COLOURS[c]}]{c}[/]" if c in COLOURS else escape(c) for c in cells)
            table.add_row(escape(device), *shown)
        console.print(table)


def show_bench(found: Bench) -> None:
    """A bench result, a line a figure."""
    values = found.as_dict()
    host, operators = values.pop("host"), values.pop("operators")
    table = Table(show_header=False)
    for key, value in values.items():
        if value is not None:
            table.add_row(key, f"{value:.4g}" if isinstance(value, float) else escape(str(value)))
    table.add_row("operators", "\n".join(f"{count} x {name}" for name, count in operators.items()))
    table.add_row("host", escape(f"{host['cpu']}, {host['usable_cores']} cores, {host['os']}"))
    console.print(table)


def show_steps(steps: Mapping[str, Sequence[tuple[int, float]]], kind: str, path: Path) -> None:
    """A latency table: for each shape of layer, where its cost stands still and where it jumps."""
    table = _table("microseconds by width, the other side at its widest", ("layer", "width: µs"))
    for name, widths in steps.items():
        table.add_row(escape(name), "  ".join(f"{w}: {1000 * ms:.3g}" for w, ms in widths))
    console.print(table)
    console.print(f"{kind} · {escape(str(path))}", soft_wrap=True)


def show_configs(kind: str, name: str | None) -> None:
    """All configs of a kind with their descriptions, or one with the meaning of each field."""
    if name is None:
        table = _table(f"{kind}s", ("name", "description"))
        for known, path in config.available(kind).items():
            table.add_row(known, escape(str(config.read_toml(path)[0].get("description", ""))))
        console.print(table)
        return
    path = config.find(kind, name)
    data, text = config.read_toml(path)
    built = config.build(config.SCHEMAS[kind], data, str(path), text)
    table = _table(f"{path.name}", ("key", "value", "meaning"))
    for key, value, meaning in _fields(built, data, ""):
        table.add_row(key, value, meaning)
    console.print(table)
    console.print("dim values are defaults, which the file does not name")


def _fields(built: BaseModel, given: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    """(dotted key, value, meaning) of every field, also of those that the file leaves at their default."""
    for key, field in type(built).model_fields.items():
        value, meaning = getattr(built, key), escape(field.description or "")
        if isinstance(value, BaseModel):
            yield f"{prefix}{key}", "", meaning
            yield from _fields(value, given.get(key, {}), f"{prefix}{key}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            yield f"{prefix}{key}", "" if key in given else "[dim]as follows[/dim]", meaning
            items = given.get(key) or [{}] * len(value)
            for i, (item, said) in enumerate(zip(value, items, strict=True)):
                yield from _fields(item, said, f"{prefix}{key}.{i}.")
        else:
            text = escape(json.dumps(value))
            yield f"{prefix}{key}", text if key in given else f"[dim]{text}[/dim]", meaning
    for key, value in (built.__pydantic_extra__ or {}).items():
        text = escape(json.dumps(value))
        shown = text if key in given else f"[dim]{text}[/dim]"
        yield f"{prefix}{key}", shown, f"an option of this {getattr(built, 'kind')}"  # noqa: B009


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
        _show_slices(judged.slices, answer.policy)
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


def _show_slices(found: Sequence[Slice], policy: GateConfig) -> None:
    """Mandatory slices, and of the others those that raise an alarm."""
    rows = [one for one in found if one.asked.mandatory or one.alarm]
    if len(found) > len(rows):
        rest = f"{len(found) - len(rows):,} slices that need not pass raise no alarm"
        console.print(f"[dim]{rest}[/dim]")
    if not rows:
        return
    scale, unit = slice_scale(policy)
    table = _table("slices", ("slice", "N", f"Drop {unit}".strip(), "Interval", "Margin", "verdict"))
    for one in rows:
        shown = one.evidence
        drop = "" if shown is None else f"{scale * shown.drop:.3g}"
        interval = "" if shown is None else " to ".join(f"{scale * end:.3g}" for end in shown.interval)
        status = "ALARM" if one.alarm else str(one.status)
        verdict = f"[{COLOURS.get(status, 'yellow')}]{status}[/]" + (
            f" {escape(one.reason)}" if one.reason else ""
        )
        name = escape(f"{one.column} = {one.value}")
        table.add_row(name, f"{one.n:,}", drop, interval, f"{scale * one.asked.margin:g}", verdict)
    console.print(table)


def _warn_of_judgements(count: int) -> None:
    if count >= 10:
        console.print(f"[yellow]judgement {count} of this test split: a PASS means less each time[/yellow]")


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON Schema of a config file, of the report, or of what a kind of task or loss takes."""
    if kind == "report":
        from edgekd.report.schema import json_schema

        return json_schema()
    from edgekd import losses, tasks

    if kind == "policy":
        return config.PolicyFile.model_json_schema()
    if kind in tasks.READERS:
        return tasks.options_of(kind).model_json_schema()
    if kind in losses.LOSSES:
        return losses.options_of(kind).model_json_schema()
    if kind not in config.SCHEMAS:
        known = ", ".join([*config.SCHEMAS, "policy", "report", *tasks.READERS, *losses.LOSSES])
        raise UsageError(f"no schema {kind!r}", hint=f"known: {known}")
    return config.SCHEMAS[kind].model_json_schema()


def show_store(store: Store) -> None:
    """Entries of the store with size and last use."""
    import datetime

    table = _table(str(store.root), ("entry", "Size", "last used"))
    total = 0
    for folder, size, used in store.entries():
        when = datetime.datetime.fromtimestamp(used).isoformat(" ", "minutes")
        table.add_row(folder.name, size_text(size), when)
        total += size
    console.print(table)
    console.print(f"{size_text(total)} in all")


def show_findings(findings: Iterable[Finding]) -> None:
    """What `doctor` found, with what to do where something is missing."""
    table = _table("doctor", ("what", "state", "detail"))
    for finding in findings:
        state = (
            "[green]ok[/green]"
            if finding.ok
            else ("[red]missing[/red]" if finding.needed else "[yellow]absent[/yellow]")
        )
        table.add_row(escape(finding.name), state, escape(finding.detail))
    console.print(table)
