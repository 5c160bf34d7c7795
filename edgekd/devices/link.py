"""What every transport offers, and the error of one that broke."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from edgekd.errors import MeasurementError

Sink = Callable[[bytes], None]
HEARTBEAT_S = 2.0  # several times within `agent.SILENCE_S`


class LinkError(MeasurementError):
    """The way to a device broke; what was asked may be asked again."""


class Link(Protocol):
    """An open way to a device. Paths on the device are texts."""

    folder: str  # where anybody may write

    def run(self, command: Sequence[str], out: Sink, noise: Sink, time_limit_s: float) -> int:
        """Runs a command, its stdin held open and fed a byte every HEARTBEAT_S, and gives its exit code.

        What `out` raises ends the command.

        Raises:
            LinkError: the link broke.
            MeasurementError: it took longer than `time_limit_s`, and was ended.
        """

    def push(self, source: Path, to: str) -> None:
        """Copies a file to the device."""

    def pull(self, source: str, to: Path, most_bytes: int) -> None:
        """Copies a file from the device; a larger one is refused."""

    def close(self) -> None:
        """Gives the link up."""
