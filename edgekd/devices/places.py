"""Where a target's file is judged: on which device, and what that device is, as part of a run's plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from edgekd.config import Target
from edgekd.devices import known
from edgekd.devices.board import Board
from edgekd.devices.events import Event, RunJob
from edgekd.devices.local import kind_there
from edgekd.devices.works import try_runtime
from edgekd.errors import MeasurementError, UsageError, nearest
from edgekd.measurements import Kind

# Of what a device says of itself: what makes a file's figures there those of another device. Not its
# address, nor how warm it is.
_TELLING = (
    *("cpu", "isa", "features", "cores", "usable_cores", "memory_bytes", "os", "kernel", "python"),
    *("all_features", "board", "runtimes"),
)

Place = dict[str, Any]
"""A device in a plan, JSON-able: `name`, `emulated`, `machine` (what it says of itself), `gpu`, settings."""


def parse(texts: Sequence[str]) -> dict[str, str]:
    """TARGET=NAME of the command line: the name of a device for each target.

    Raises:
        UsageError: not of that form, or a target twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        target, equals, name = text.partition("=")
        if not (target and equals and name):
            raise UsageError(f"--device {text}: not TARGET=NAME", hint="--device raspberry-pi-5=my-board")
        if target in found:
            raise UsageError(f"--device: two devices for target {target}", hint="name one")
        found[target] = name
    return found


def ask(
    devices: Mapping[str, str], targets: Sequence[Target], say: Callable[[str], None]
) -> dict[str, Place]:
    """What each target's device is, asked before anything is trained.

    Args:
        devices: target -> name of a device.
        targets: of the run.
        say: told what could not be removed from a device.

    Raises:
        UsageError: no such device, or a device for no target of the run.
        MeasurementError: it cannot be reached, or its target's runtime or delegate does not work there.
    """
    names = [target.name for target in targets]
    if stray := next((target for target in devices if target not in names), None):
        hint = nearest(stray, names, f"targets: {', '.join(names)}")
        raise UsageError(f"a device is given for {stray!r}, but this run has no such target", hint=hint)
    found: dict[str, Place] = {}
    for name in dict.fromkeys(devices.values()):
        device = known.device(name)
        if device.benchmark_model is not None:
            raise UsageError(
                f"device {name} has no Python, and benchmark_model gives no outputs to judge by",
                hint="edgekd bench FILE --device measures there",
            )
        own = [target for target in targets if devices.get(target.name) == name]
        with Board(name, device, say) as board:
            machine = board.machine()
            for target in own:
                found[target.name] = {
                    "name": name,
                    "emulated": device.is_emulator,
                    "machine": _stable(machine),
                    "gpu": _tried(board, machine, target),
                    **_settings(device),
                }
    return found


def _tried(board: Board, machine: Event, target: Target) -> str | None:
    """The GPU that runs files of the target there; None where none does, or no driver names it."""
    runtime = target.runtime
    if machine["runtimes"].get(runtime.name) is None:
        raise MeasurementError(
            f"target {target.name}: device {board.name} has no {runtime.name}",
            hint=f"install it there for {board.device.python}; edgekd devices check {board.name}",
        )
    tried = try_runtime(board, runtime.name, runtime.delegate)
    if tried.trouble:
        raise MeasurementError(
            f"target {target.name}: {runtime.name} with delegate {runtime.delegate!r} does not work on "
            f"device {board.name}: {tried.trouble}",
            hint="nothing was trained; without --device the target is judged on this computer's processor",
        )
    return tried.gpu


def _settings(device: known.Device) -> dict[str, Any]:
    """How the agent runs there: with other packages or variables another runtime or GPU may answer."""
    return {
        "python": device.python,
        "packages": device.packages,
        "environment": dict(sorted(device.environment.items())),
    }


def kind_of(place: Place, target: Target) -> Kind:
    """What a time taken there is."""
    return kind_there(place["emulated"], place["machine"], target)


@contextmanager
def opened(place: Place, say: Callable[[str], None]) -> Iterator[RunJob]:
    """The device, open for jobs; `say` is told what could not be removed there.

    Raises:
        MeasurementError: it cannot be reached, or is another one than when the plan was made.
    """
    device = known.device(place["name"])
    with Board(place["name"], device, say) as board:
        machine, settings = _stable(board.machine()), _settings(device)
        changed = [key for key, value in machine.items() if value != place["machine"][key]]
        changed += [f"setting {key}" for key, value in settings.items() if value != place[key]]
        if changed:
            raise MeasurementError(
                f"device {place['name']} is no longer what it was when this run began: other "
                f"{', '.join(changed)}",
                hint="run the same command again",
            )
        yield board.run


def _stable(machine: Event) -> dict[str, Any]:
    return {key: machine.get(key) for key in _TELLING}
