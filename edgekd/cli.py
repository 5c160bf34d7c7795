"""The command line: parse, call one function, print, exit code.

Nothing heavy is imported here: `edgekd --help` has to be there at once, and the
release half (bench, gate, report) must work where torch is not installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd import cli_bench, cli_devices, cli_release
from edgekd.cli_release import Json

app = typer.Typer(
    help="Distil, prune, quantize and export a model for edge devices; measure the file; judge it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
EXTRAS = {
    "compress": (
        *("torch", "nncf", "torch_pruning", "litert_torch", "onnx", "lightning_fabric", "safetensors", "PIL"),
        *("sklearn", "onnxscript"),
    ),
    "signing": ("cryptography", "securesystemslib"),
}
store_app = typer.Typer(help="Finished stages on disk.", no_args_is_help=True)
app.add_typer(store_app, name="store")
app.add_typer(cli_devices.app, name="devices")

MaxDrop = Annotated[float | None, typer.Option("--max-drop", help="Margin, in percentage points.")]


def _print_version(asked: bool) -> None:
    if asked:
        from edgekd.nodes import library_version

        typer.echo(f"edgekd {library_version('edgekd')}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """What holds for every command: the help stands above."""


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe by name or path.")],
    targets: Annotated[str | None, typer.Option(help="Targets in place of the recipe's: a,b,c.")] = None,
    workdir: Annotated[
        Path | None, typer.Option(help="Default: runs/<recipe>, or runs/<recipe>-smoke.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Stop after this stage; nothing is judged.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override: key=value.")] = None,
    max_drop: MaxDrop = None,
    log_to: Annotated[
        list[str] | None, typer.Option(help="tensorboard or mlflow, beside the workdir's logs/*.csv.")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="TARGET=NAME: judge and time its file on a device of `edgekd devices`."),
    ] = None,
    json_: Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Run the whole chain of a recipe; exit code 0 PASS, 1 FAIL, 3 INCONCLUSIVE."""
    from edgekd import config, pipeline
    from edgekd.devices import places

    overrides = dict(config.parse_override(text) for text in set_ or ())
    names = None if targets is None else [name.strip() for name in targets.split(",")]
    devices = places.parse(device or ())
    if dry_run:
        _print_plan(pipeline.plan_of(recipe, overrides, names, max_drop, devices), json_)
        return
    report = pipeline.compress(
        recipe,
        targets=names,
        workdir=workdir,
        overrides=overrides,
        max_drop_pp=max_drop,
        until=until,
        log_to=log_to or (),
        devices=devices,
        show=not json_,
    )
    if report is not None:
        _show_report(
            report,
            workdir or pipeline.default_workdir(report.recipe.name, report.recipe.config["smoke"]),
            json_,
        )


def _print_plan(planned: Any, json_: bool) -> None:
    from edgekd import pipeline, terminal

    plan, store = planned
    rows = pipeline.describe(plan, store)
    if json_:
        terminal.emit_json(
            [
                {"id": n.label, "stage": n.stage, "targets": n.targets, "cached": c, "seconds": s, "bytes": b}
                for n, c, s, b in rows
            ]
        )
    else:
        terminal.show_plan(rows, pipeline.free_bytes(store.root))


def _show_report(report: Any, folder: Path, json_: bool) -> None:
    from edgekd import terminal_report
    from edgekd.report.schema import dumps

    if json_:
        sys.stdout.write(dumps(report))
    else:
        terminal_report.show_report(report, folder)
    raise typer.Exit(report.verdict.exit_code)


app.command()(cli_bench.bench)
app.command()(cli_release.gate)
app.command()(cli_release.bundle)
app.command()(cli_release.verify)
app.command()(cli_release.compare)


@app.command()
def profile(
    target: Annotated[str, typer.Option(help="Whose runtime, format and scheme.")],
    recipe: Annotated[
        str | None, typer.Option(help="Measure what its student holds; else what small networks hold.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the table here too, for prune.latency_tables elsewhere.")
    ] = None,
    json_: Json = False,
) -> None:
    """Measure what layers cost in a target's runtime, width by width; goes on where it was stopped."""
    from rich.console import Console

    from edgekd import config, terminal
    from edgekd.devices.local import local_kind
    from edgekd.errors import UsageError
    from edgekd.latency import profile as profiling
    from edgekd.pipeline import resolve
    from edgekd.progress import Display
    from edgekd.store import Store

    if output is not None and output.is_dir():
        raise UsageError(
            f"--output {output} is a folder", hint="name a file: it is written when all is measured"
        )
    store = Store(Store.default_root())
    if recipe is None:
        chosen, layers = config.load_target(target), tuple(profiling.common_layers())
    else:
        found, (chosen,) = resolve(recipe, {}, {}, None, [target])
        layers = profiling.student_layers(found)
    with Display(Console(quiet=json_)) as display:
        table = profiling.profile(chosen, layers, store, display)
    path, kind = output or profiling.path_of(table.clock, store), local_kind(chosen)
    if output is not None:
        table.save(output)
    if json_:
        terminal.emit_json({"table": str(path), "kind": kind, "steps": profiling.steps(table, layers)})
    else:
        terminal.show_steps(profiling.steps(table, layers), kind, path)


@app.command()
def snippet(
    file: Annotated[Path, typer.Argument(help="An ONNX or TFLite file that `edgekd run` exported.")],
    language: Annotated[str, typer.Option(help="kotlin or cpp.")],
) -> None:
    """Print how an app feeds a file: preparation, call and answer, with the file's own constants."""
    from edgekd import snippets

    typer.echo(snippets.snippet(file, language), nl=False)


@app.command()
def report(workdir: Annotated[Path, typer.Argument(help="The folder of a finished run.")]) -> None:
    """Write report.json, .md, .html and .junit.xml of a finished run again."""
    from edgekd.pipeline import rebuild

    _show_report(rebuild(workdir), workdir, json_=False)


@app.command()
def targets(name: Annotated[str | None, typer.Argument(help="Show this one.")] = None) -> None:
    """List target profiles, or show one with the meaning of each field."""
    from edgekd import terminal

    terminal.show_configs("target", name)


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Show this one.")] = None) -> None:
    """List recipes, or show one with the meaning of each field."""
    from edgekd import terminal

    terminal.show_configs("recipe", name)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Make a starter project: recipe, task module, README."""
    from edgekd import starter

    for path in starter.create(folder):
        typer.echo(f"wrote {path}")
    typer.echo(f"next: cd {folder} && edgekd run recipe.toml")


@app.command()
def doctor(json_: Json = False) -> None:
    """Check this computer: versions, runtimes that really work, CPU features, missing extras."""
    from edgekd import doctor as check
    from edgekd import terminal

    found = check.examine()
    if json_:
        terminal.emit_json([vars(finding) for finding in found])
    else:
        terminal.show_findings(found)
    raise typer.Exit(0 if all(f.ok or not f.needed for f in found) else 4)


@app.command()
def schema(
    kind: Annotated[
        str, typer.Argument(help="recipe, target, calibration, policy, report, a kind of task or of loss.")
    ],
) -> None:
    """Print the JSON Schema of a config file or of the report, for editors."""
    from edgekd import terminal

    terminal.emit_json(terminal.schema_of(kind))


@store_app.command("list")
def store_list() -> None:
    """List finished stages, those used longest ago first."""
    from edgekd import terminal
    from edgekd.store import Store

    terminal.show_store(Store(Store.default_root()))


@store_app.command("gc")
def store_gc(
    max_size: Annotated[str, typer.Option(help="What may stay: 5GB, 500MB, 0.")] = "5GB",
) -> None:
    """Remove the stages used longest ago until the rest fits."""
    from edgekd import terminal
    from edgekd.store import Store, parse_size

    entries, freed = Store(Store.default_root()).gc(parse_size(max_size))
    typer.echo(f"removed {entries} entries, {terminal.size_text(freed)}")


def main() -> None:
    """Entry point: turns errors that a user can mend into one line and an exit code."""
    from edgekd import processes
    from edgekd.errors import EdgeKDError

    try:
        app()
    except EdgeKDError as error:
        if processes.rank() == 0:  # of several that train together the first says it
            typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.secho("interrupted; the same command goes on from here", err=True)
        sys.exit(130)
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        extra = next((extra for extra, modules in EXTRAS.items() if name in modules), None)
        if extra is None:
            _fault()
        typer.secho(f"error: {name} is not installed (pip install 'edgekd[{extra}]')", fg="red", err=True)
        sys.exit(2)
    except OSError as error:
        import errno

        if error.errno != errno.ENOSPC:
            _fault()
        typer.secho(f"error: {error.filename or 'disk'}: no space left on the device", fg="red", err=True)
        sys.exit(2)
    except Exception:
        _fault()


def _fault() -> None:
    """A fault of edgekd itself: the traceback, and a code of its own, since Python's 1 would read as FAIL."""
    import traceback

    traceback.print_exc()
    sys.exit(70)
