"""This computer as a device like any other: for a Python of its own, with a runtime that ours cannot have."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from edgekd.devices.known import Device
from edgekd.devices.link import HEARTBEAT_S, Sink
from edgekd.errors import MeasurementError

_BLOCK, _GRACE_S = 1 << 16, 5.0


class LocalLink:
    """Processes of this computer."""

    def __init__(self, device: Device) -> None:
        self.folder = device.folder or tempfile.gettempdir()

    def run(self, command: Sequence[str], out: Sink, noise: Sink, time_limit_s: float) -> int:
        """As `Link.run`."""
        return run_streamed(command, out, noise, time_limit_s, "this computer")

    def push(self, source: Path, to: str) -> None:
        """As `Link.push`."""
        with _told():
            shutil.copyfile(source, to)

    def pull(self, source: str, to: Path, most_bytes: int) -> None:
        """As `Link.pull`."""
        with _told():
            if (size := Path(source).stat().st_size) > most_bytes:
                raise MeasurementError(f"{source}: {size:,} bytes, where {most_bytes:,} are expected")
            shutil.copyfile(source, to)

    def close(self) -> None:
        """As `Link.close`: there is nothing to give up."""


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MeasurementError(f"this computer: {error.strerror}: {error.filename}") from None


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _beat(stdin: IO[bytes] | None, over: threading.Event) -> None:
    assert stdin is not None  # a pipe
    with contextlib.suppress(OSError, ValueError):
        while not over.wait(HEARTBEAT_S):
            os.write(stdin.fileno(), b".")


def run_streamed(command: Sequence[str], out: Sink, noise: Sink, time_limit_s: float, where: str) -> int:
    """A process of this computer, its stdin held open, its output handed on as it comes.

    Raises:
        MeasurementError: it took longer than `time_limit_s`, and was ended; or there is no such program.
    """
    wrong: list[BaseException] = []
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise MeasurementError(f"{where}: {command[0]}: {error.strerror}") from None

    def drain(stream: IO[bytes], sink: Sink) -> None:
        try:
            while block := os.read(stream.fileno(), _BLOCK):
                sink(block)
        except BaseException as error:
            wrong.append(error)
            _kill(process)

    with process:
        assert process.stdout is not None and process.stderr is not None  # pipes
        pairs = ((process.stdout, out), (process.stderr, noise))
        threads = [threading.Thread(target=drain, args=pair, daemon=True) for pair in pairs]
        over = threading.Event()
        threading.Thread(target=_beat, args=(process.stdin, over), daemon=True).start()
        for thread in threads:
            thread.start()
        try:
            code = process.wait(time_limit_s)
        except subprocess.TimeoutExpired:
            raise MeasurementError(
                f"{where}: not finished within {time_limit_s:g} s; the process was ended"
            ) from None
        finally:
            over.set()
            _kill(process)
            for thread in threads:
                thread.join(_GRACE_S)  # who inherited the pipe may hold it open
    if wrong:
        raise wrong[0]
    return code
