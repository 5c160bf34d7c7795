"""`edgekd bench`: what a model file costs, here or on a device, and whether that is within a limit."""

from __future__ import annotations

import math
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli_release import Json
from edgekd.errors import UsageError

if TYPE_CHECKING:
    from edgekd.config import Target
    from edgekd.measure.bench import Bench
    from edgekd.types import Check

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def bench(
    artifact: Annotated[Path, typer.Argument(help="An ONNX or TFLite file, made here or not.")],
    target: Annotated[str | None, typer.Option(help="Whose runtime and protocol to use.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for inference.")] = None,
    device: Annotated[
        str | None, typer.Option(help="On a device of `edgekd devices`, in place of this computer.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="As long as MLPerf asks for: 1,024 runs and 60 seconds.")
    ] = False,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(help="Judge its 90th percentile: exit code 0, 1 or 3."),
    ] = None,
    sustained: Annotated[
        str | None,
        typer.Option(help="Run it without a pause, 5m say, and tell when it slows down."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Of --sustained: the page with its plot.")] = None,
    count_instructions: Annotated[
        bool, typer.Option("--count-instructions", help="Those of an inference too: a qemu:/// device.")
    ] = False,
    max_instructions: Annotated[
        int | None, typer.Option(min=1, help="With --count-instructions: exit code 1 where it takes more.")
    ] = None,
    json_: Json = False,
) -> None:
    """Measure a model file, here or on a device: size, latency, memory, operators."""
    from rich.console import Console

    from edgekd import config, terminal
    from edgekd.devices import known
    from edgekd.devices.board import Board
    from edgekd.measure.bench import bench as measure
    from edgekd.progress import Display

    if max_instructions is not None and not count_instructions:
        raise UsageError("--max-instructions judges what --count-instructions counts", hint="give both")
    if output is not None and sustained is None:
        raise UsageError("--output is the page of --sustained", hint="give both")
    if max_latency_ms is not None and not 0 < max_latency_ms < math.inf:
        raise UsageError(f"--max-latency-ms {max_latency_ms}: no positive number")
    if sustained is not None and (strict or count_instructions or max_latency_ms is not None):
        raise UsageError(
            "--sustained tells how latency goes over time: nothing else is judged or counted meanwhile",
            hint="without --strict, --count-instructions and --max-latency-ms",
        )
    if output is not None and output.is_dir():
        raise UsageError(f"--output {output}: a folder, not a file", hint=f"{output / 'sustained.html'}")
    seconds = None if sustained is None else _seconds(sustained)
    profile = config.load_target(target) if target else None
    there = known.device(device) if device else None
    if device and there is not None and there.benchmark_model is not None:
        if count_instructions or strict or max_latency_ms is not None or seconds is not None:
            raise UsageError(
                f"{device}: benchmark_model tells averages only: nothing is judged or counted by it",
                hint="without --count-instructions, --strict, --max-latency-ms and --sustained",
            )
        _natively(artifact, device, profile, threads, json_)
        return
    with ExitStack() as stack:
        board = stack.enter_context(Board(device, there, _warn)) if device and there is not None else None
        display = stack.enter_context(Display(Console(quiet=json_)))
        if seconds is not None:
            _sustained(artifact, profile, threads, board, seconds, output, json_)
            return
        found = measure(
            artifact,
            profile,
            threads,
            display=display,
            board=board,
            strict=strict,
            instructions=count_instructions,
        )
    checks = _checks(found, max_latency_ms, max_instructions)
    values = {**found.as_dict(), **_sureness(found), **_bound(found, profile)}
    if json_:
        terminal.emit_json({**values, "checks": [vars(check) for check in checks]})
    else:
        terminal.show_bench(values)
    for check in checks:
        typer.echo(f"{check.status}: {check.detail}", err=True)
    if checks:
        from edgekd.gate import conclude

        verdict = conclude(checks, [checks[0].target], checks[0].name)
        raise typer.Exit(verdict.exit_code)


def _warn(text: str) -> None:
    typer.echo(text, err=True)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found is None:
        raise UsageError(f"--sustained {text}: no span of time", hint="90s, 5m or 1h")
    return float(found[1]) * _UNITS[found[2]]


def _natively(artifact: Path, device: str, profile: Target | None, threads: int | None, json_: bool) -> None:
    from edgekd import terminal
    from edgekd.devices import known
    from edgekd.measure.native import bench_natively

    values = bench_natively(artifact, device, known.device(device), profile, threads).as_dict()
    terminal.emit_json(values) if json_ else terminal.show_bench(values)


def _sureness(found: Bench) -> dict[str, Any]:
    """How sure its quantiles are, and why the device was not steady enough, where it was not."""
    from edgekd.gate import timing

    m = found.measurement
    reasons = "; ".join(filter(None, (timing.unsteady(m), timing.noisy(m))))
    return {
        "median_ms_interval": timing.quantile_interval(m, 0.5),
        "p90_ms_interval": timing.quantile_interval(m, 0.9),
        "process_medians_ms": m.process_medians_ms,
        "unsteady": reasons or None,
    }


def _bound(found: Bench, target: Target | None) -> dict[str, Any]:
    """The least time at the target's peak rates, and what share of it was reached, on the target itself."""
    from edgekd.errors import MeasurementError
    from edgekd.measure.roofline import roofline_of

    if target is None or target.peak is None:
        return {"bound_ms": None, "bound_reached": None}
    m, halves = found.measurement, target.runtime.delegate == "gpu"
    try:
        bound_ms = roofline_of(
            found.path, found.format, target.peak, m.protocol.num_threads, halves=halves
        ).bound_ms
    except MeasurementError as error:
        return {"bound_ms": None, "bound_reached": None, "bound_absent": error.message}
    reached = bound_ms / m.median_ms if m.kind == "measured" else None
    return {"bound_ms": bound_ms, "bound_reached": reached}


def _checks(found: Bench, max_latency_ms: float | None, max_instructions: int | None) -> list[Check]:
    from edgekd.gate import judge_latency
    from edgekd.types import Check, Status

    target, checks = found.target or found.measurement.device, []
    if max_latency_ms is not None:
        checks.append(judge_latency(found.measurement, max_latency_ms, target))
    if max_instructions is not None and found.instructions is not None:
        taken = found.instructions.per_inference
        status = Status.FAIL if taken > max_instructions else Status.PASS
        detail = f"{taken:,} instructions an inference, allowed are {max_instructions:,}"
        checks.append(Check("instructions", target, taken, max_instructions, "instructions", status, detail))
    return checks


def _sustained(
    artifact: Path,
    profile: Target | None,
    threads: int | None,
    board: Any,
    seconds: float,
    output: Path | None,
    json_: bool,
) -> None:
    from dataclasses import asdict

    from edgekd import terminal
    from edgekd.measure.bench import how_to
    from edgekd.measure.sustained import measure_sustained
    from edgekd.report import over_time
    from edgekd.store import write_atomic

    how = how_to(artifact, profile, threads, board=board)
    found = measure_sustained(
        how.subject,
        seconds,
        num_threads=how.protocol.num_threads,
        cores=how.protocol.cores,
        run=how.run,
    )
    kind = found.kind(how.kind)
    where = {"device": how.device, "kind": kind, "notes": list(how.notes)}
    if json_:
        summary = {"first_ms": found.first_ms, "last_ms": found.last_ms}
        terminal.emit_json({"file": artifact.name, **where, **summary, **asdict(found)})
    else:
        typer.echo(f"{kind}: on {how.device}, in {found.backend}")
        for note in how.notes:
            typer.echo(note)
        typer.echo(over_time.said(found))
        for name, value in over_time.facts(found):
            typer.echo(f"{name}: {value}")
    if output is not None:
        write_atomic(output, over_time.page(found, artifact.name, how.device, kind, how.notes))
        typer.echo(f"plot: {output}", err=True)
