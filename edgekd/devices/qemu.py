"""An arm64 tree of this computer as a device: its Python under qemu, with neither root nor a server."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgekd.devices.known import Device
from edgekd.devices.link import Sink
from edgekd.devices.process import LocalLink, run_streamed
from edgekd.errors import MeasurementError, UsageError

QEMU = "qemu-aarch64"
_PATHS = ("/usr/local/bin", "/usr/bin", "/bin")


class QemuLink(LocalLink):
    """Processes of the tree. Files that the tree lacks are this computer's, and so is the folder for jobs."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._device = device
        self._prefix = guest(device)

    def run(self, command: Sequence[str], out: Sink, noise: Sink, time_limit_s: float) -> int:
        """As `Link.run`: the agent under qemu; what makes and removes its folder is this computer's own."""
        words = list(command)
        if self._device.python in words:
            at = words.index(self._device.python)
            words = [*clean(words[1:at]), *self._prefix, *words[at + 1 :]]
        return run_streamed(words, out, noise, time_limit_s, self._device.via)


def clean(variables: Sequence[str]) -> list[str]:
    """The beginning of a command that has these variables and no others: ours are none of the board's.

    And no bytecode is written: folders that the tree lacks are made on this computer, next to its own Python.
    """
    return [found("env"), "-i", "PYTHONDONTWRITEBYTECODE=1", *variables]


def guest(device: Device, options: Sequence[str] = ()) -> list[str]:
    """The beginning of a command that runs the tree's Python under qemu.

    Args:
        device: one with a tree.
        options: further ones of qemu's.

    Raises:
        UsageError: there is no qemu, no such tree, or it says nothing of a processor.
    """
    if device.scheme != "qemu" or device.cpu is None:
        raise UsageError(f"{device.via}: no tree of this computer under qemu", hint="--via qemu:///FOLDER")
    root = Path(device.via.removeprefix("qemu://"))
    if not root.is_dir():
        raise UsageError(f"{device.via}: {root}: no such folder")
    # Runtimes choose their kernels by it: this computer's would be of another kind of processor.
    cpuinfo = root / "proc/cpuinfo"
    if not cpuinfo.is_file() or "CPU part" not in cpuinfo.read_text(encoding="utf-8", errors="replace"):
        raise UsageError(
            f"{cpuinfo}: not there, or tells of no Arm processor",
            hint=f"copy one of a board with a {device.cpu}: it stands for the kernel's /proc/cpuinfo",
        )
    program = found(QEMU, "apt-get install qemu-user")
    python = _python(root, device.python)
    return [program, "-cpu", device.cpu, "-L", str(root), *options, "-0", python, f"{root}{python}"]


def qemu_version() -> str:
    """Of the qemu that is installed, such as 7.2.22.

    Raises:
        UsageError: there is none.
        MeasurementError: it does not say.
    """
    said = subprocess.run(
        [found(QEMU, "apt-get install qemu-user"), "--version"], capture_output=True, text=True, check=False
    ).stdout
    told = re.match(r"qemu-\w+ version (\d+(?:\.\d+)+)", said)
    if told is None:
        raise MeasurementError(f"{QEMU} --version says no version: {said[:100]!r}")
    return told[1]


def found(program: str, hint: str = "") -> str:
    """A program's path.

    Raises:
        UsageError: it is not installed.
    """
    path = shutil.which(program)
    if path is None:
        raise UsageError(f"{program} is not installed", hint=hint)
    return path


def _python(root: Path, name: str) -> str:
    """The interpreter's path in the tree. Links there point from the tree's own root."""
    paths = [name] if name.startswith("/") else [f"{folder}/{name}" for folder in _PATHS]
    for path in paths:
        file = root / path.lstrip("/")
        for _ in range(8):
            if not file.is_symlink():
                break
            to = file.readlink()
            file = root / str(to).lstrip("/") if to.is_absolute() else file.parent / to
        if file.is_file():
            return "/" + str(file.relative_to(root))
    raise UsageError(f"{root}: no {' or '.join(paths)} in it", hint="--python names the interpreter there")
