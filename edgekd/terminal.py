"""What the commands print, as Rich tables."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgekd import config
from edgekd.errors import UsageError, nearest
from edgekd.measurements import Conditions, conditions_text

if TYPE_CHECKING:
    from edgekd.doctor import Finding
    from edgekd.nodes import Node
    from edgekd.store import Store

COLOURS = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow", "NOT_APPLICABLE": "dim"}


def _width() -> int | None:
    """Off a terminal (a pipe, a log, CI) that of most logs; else, or where COLUMNS says, what Rich finds."""
    told = sys.stdout.isatty() or re.fullmatch(r"[1-9][0-9]{0,4}", os.environ.get("COLUMNS", ""))
    return None if told else 100


console = Console(highlight=False, width=_width())


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


def empty_table(title: str, columns: Sequence[str]) -> Table:
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
    table = empty_table("plan", ("stage", "for targets", "state", "Time (s, guess)", "Disk (guess)"))
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


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(map(_shown, value)) if len(value) == 2 else " ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_bench(found: Mapping[str, Any]) -> None:
    """A bench result, a line a figure."""
    values = dict(found)
    host, operators = values.pop("host"), values.pop("operators", {})
    notes, conditions = values.pop("notes"), values.pop("conditions", ())
    taken, total = values.pop("operators_delegated", None), values.pop("operators_total", None)
    parts = values.pop("partitions", None)
    table = Table(show_header=False)
    for key, value in values.items():
        if value is not None:
            table.add_row(key, escape(_shown(value)))
    if taken is not None:
        table.add_row("delegated", f"{taken} of {total} operators in {parts} part{'' if parts == 1 else 's'}")
    if operators:
        table.add_row("operators", escape("\n".join(f"{n} x {name}" for name, n in operators.items())))
    table.add_row("host", escape(f"{host['cpu']}, {host['usable_cores']} cores, {host['os']}"))
    if text := conditions_text([Conditions(**each) for each in conditions]):
        table.add_row("conditions", escape(text))
    if notes:
        table.add_row("notes", escape("\n".join(notes)))
    console.print(table)


def show_steps(steps: Mapping[str, Sequence[tuple[int, float]]], kind: str, path: Path) -> None:
    """A latency table: for each shape of layer, where its cost stands still and where it jumps."""
    table = empty_table("microseconds by width, the other side at its widest", ("layer", "width: µs"))
    for name, widths in steps.items():
        table.add_row(escape(name), "  ".join(f"{w}: {1000 * ms:.3g}" for w, ms in widths))
    console.print(table)
    console.print(f"{kind} · {escape(str(path))}", soft_wrap=True)


def show_configs(kind: str, name: str | None) -> None:
    """All configs of a kind with their descriptions, or one with the meaning of each field."""
    if name is None:
        table = empty_table(f"{kind}s", ("name", "description"))
        for known, path in config.available(kind).items():
            table.add_row(known, escape(str(config.read_toml(path)[0].get("description", ""))))
        console.print(table)
        return
    path = config.find(kind, name)
    data, text = config.read_toml(path)
    built = config.build(config.SCHEMAS[kind], data, str(path), text)
    table = empty_table(f"{path.name}", ("key", "value", "meaning"))
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
        known = [*config.SCHEMAS, "policy", "report", *tasks.READERS, *losses.LOSSES]
        raise UsageError(f"no schema {kind!r}", hint=nearest(kind, known, f"known: {', '.join(known)}"))
    return config.SCHEMAS[kind].model_json_schema()


def show_store(store: Store) -> None:
    """Entries of the store with size and last use."""
    import datetime

    table = empty_table(str(store.root), ("entry", "Size", "last used"))
    total = 0
    for folder, size, used in store.entries():
        when = datetime.datetime.fromtimestamp(used).isoformat(" ", "minutes")
        table.add_row(folder.name, size_text(size), when)
        total += size
    console.print(table)
    console.print(f"{size_text(total)} in all")


def show_findings(findings: Iterable[Finding]) -> None:
    """What `doctor` found, with what to do where something is missing."""
    table = empty_table("doctor", ("what", "state", "detail"))
    for finding in findings:
        state = (
            "[green]ok[/green]"
            if finding.ok
            else ("[red]missing[/red]" if finding.needed else "[yellow]absent[/yellow]")
        )
        table.add_row(escape(finding.name), state, escape(finding.detail))
    console.print(table)


def show_machine(name: str, found: Mapping[str, Any]) -> None:
    """What a device is, as its agent told."""
    table = empty_table(name, ("what", "found"))
    for key in ("cpu", "isa", "features", "cores", "memory_bytes", "os", "kernel", "python"):
        value = found.get(key)
        table.add_row(key, escape(", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    for runtime, version in found.get("runtimes", {}).items():
        wrong = found.get("trouble", {}).get(runtime)
        works = "" if wrong is None else f", does not work: {wrong}" if wrong else ", ran a model"
        table.add_row(escape(str(runtime)), escape(f"{version}{works}" if version else "not there"))
    for key in ("governors", "clock_khz", "temperature_c"):
        table.add_row(key, escape(", ".join(map(str, found.get(key) or []))) or "not told")
    console.print(table)
