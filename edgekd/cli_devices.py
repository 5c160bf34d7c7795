"""Devices on the command line: named once, asked what they are, measured on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli_release import Json

app = typer.Typer(help="Boards and phones that files are measured on.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Of a device that was added.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What you call it.")],
    via: Annotated[
        str,
        typer.Option(help="ssh://user@host[:port], adb://SERIAL, adb://host:port, qemu:///FOLDER, or local."),
    ],
    python: Annotated[
        str | None,
        typer.Option(
            help="The interpreter there, 3.10 or later, with numpy; left out: python3, or this one."
        ),
    ] = None,
    packages: Annotated[str | None, typer.Option(help="A folder there with numpy and runtimes.")] = None,
    folder: Annotated[str | None, typer.Option(help="Where it may write; left out: /tmp.")] = None,
    identity: Annotated[Path | None, typer.Option(help="File of the SSH key; left out: your own.")] = None,
    known_hosts: Annotated[Path | None, typer.Option(help="File of SSH host keys; left out: yours.")] = None,
    accept_new: Annotated[
        bool, typer.Option("--accept-new", help="Write its host key, unseen till now, to --known-hosts.")
    ] = False,
    benchmark_model: Annotated[
        str | None, typer.Option(help="On Android without Python: where Google's benchmark_model lies there.")
    ] = None,
    emulated: Annotated[
        bool, typer.Option("--emulated", help="It is an emulator: its times are none.")
    ] = False,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE: a variable of the agent's.")] = None,
    cpu: Annotated[
        str | None, typer.Option(help="With qemu:///FOLDER: the processor that qemu is, cortex-a76.")
    ] = None,
) -> None:
    """Name a device, and try whether it can be reached."""
    from edgekd.config import build
    from edgekd.devices import known
    from edgekd.terminal import console

    device = build(
        known.Device,
        {
            "via": via,
            "python": python or (sys.executable if via == "local" else "python3"),
            "packages": packages,
            "folder": folder,
            "identity": str(identity.expanduser().resolve()) if identity else None,
            "known_hosts": str(known_hosts.expanduser().resolve()) if known_hosts else None,
            "benchmark_model": benchmark_model,
            "emulated": emulated,
            "environment": known.variables(env or ()),
            "cpu": cpu,
        },
        f"device {name}",
    )
    if accept_new:
        from edgekd.devices import ssh

        console.print(f"host key {ssh.accept(device)}")
    known.add(name, device)
    check(name)


@app.command("list")
def list_(json_: Json = False) -> None:
    """The devices that were added."""
    from edgekd.devices import known
    from edgekd.terminal import console, emit_json, empty_table

    found = known.devices()
    if json_:
        emit_json({name: device.model_dump() for name, device in found.items()})
        return
    table = empty_table("", ("device", "via", "python", "emulated"))
    for name, device in found.items():
        table.add_row(name, device.via, device.python, "yes" if device.is_emulator else "")
    console.print(table)


@app.command()
def check(name: Name, json_: Json = False) -> None:
    """Reach a device and tell what it is: processor, memory, runtimes, governor, temperature."""
    from edgekd.devices import android, known
    from edgekd.devices.board import Board
    from edgekd.devices.works import try_runtime
    from edgekd.terminal import emit_json, show_machine

    device = known.device(name)
    if device.benchmark_model is not None:
        found = android.machine_of(device)
    else:
        with Board(name, device) as board:
            found = board.machine()
            there = [runtime for runtime, version in found["runtimes"].items() if version]
            found["trouble"] = {runtime: try_runtime(board, runtime).trouble for runtime in there}
    if json_:
        emit_json({key: value for key, value in found.items() if key != "event"})
    else:
        show_machine(name, found)


@app.command()
def remove(name: Name) -> None:
    """Forget a device."""
    from edgekd.devices import known

    known.remove(name)
