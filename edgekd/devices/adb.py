"""A device reached by ADB, through the real `adb` client."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from edgekd.devices.known import Device
from edgekd.devices.link import LinkError, Sink
from edgekd.errors import MeasurementError, UsageError

_BLOCK, _COPY_S, _CONNECT_S = 1 << 16, 600.0, 30.0
# In the client's words: what went with the device rather than with the command.
_GONE = (
    "device offline",
    "no devices",
    "not found",
    "closed",
    "failed to connect",
    "connection reset",
    "protocol fault",
)


class AdbLink:
    """A device that the ADB server knows."""

    def __init__(self, device: Device) -> None:
        found = shutil.which("adb")
        if found is None:
            raise UsageError("devices over ADB need the adb client", hint="apt-get install adb")
        self._adb, self._name, self.folder = found, device.via, device.folder or "/data/local/tmp"
        parts = urlsplit(device.via)
        self._serial = parts.netloc
        if parts.port is not None:
            said = self._client(["connect", self._serial], _CONNECT_S)
            if "connected to" not in said:  # adb's exit code is 0 either way
                raise LinkError(f"{self._name}: {said.strip()[:300]}")
        state = self._client(["-s", self._serial, "get-state"], _CONNECT_S).strip()
        if state != "device":
            raise MeasurementError(
                f"{self._name}: it is {state or 'not there'}",
                hint="adb devices; allow debugging on the device",
            )

    def run(self, command: Sequence[str], out: Sink, noise: Sink, time_limit_s: float) -> int:
        """As `Link.run`. Where the client ends, so does the shell on the device, and the agent with it."""
        arguments = [self._adb, "-s", self._serial, "shell", "-T", shlex.join(command)]
        said = bytearray()
        wrong: list[BaseException] = []
        with subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:

            def drain(stream: object, sink: Sink) -> None:
                try:
                    while block := stream.read1(_BLOCK):  # type: ignore[attr-defined]
                        sink(block)
                except BaseException as error:
                    wrong.append(error)
                    process.kill()

            def keep(block: bytes) -> None:
                said.extend(block[-1000:])
                noise(block)

            threads = [
                threading.Thread(target=drain, args=pair, daemon=True)
                for pair in ((process.stdout, out), (process.stderr, keep))
            ]
            for thread in threads:
                thread.start()
            end, late = time.monotonic() + time_limit_s, False
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                late = True
            finally:
                process.kill()
                for thread in threads:
                    thread.join()
        if wrong:
            raise wrong[0]
        if late:
            raise MeasurementError(
                f"{self._name}: not finished within {time_limit_s:g} s; the process was ended"
            )
        self._check_there(process.returncode, said.decode(errors="replace"))
        return process.returncode

    def push(self, source: Path, to: str) -> None:
        """As `Link.push`."""
        self._client(["-s", self._serial, "push", str(source), to], _COPY_S)

    def pull(self, source: str, to: Path, most_bytes: int) -> None:
        """As `Link.pull`."""
        size = self._client(
            ["-s", self._serial, "shell", "-T", shlex.join(["stat", "-c", "%s", source])], _COPY_S
        )
        if not size.strip().isdecimal() or int(size) > most_bytes:
            raise MeasurementError(
                f"{self._name}: {source} is larger than the {most_bytes:,} bytes expected, or nobody knows"
            )
        self._client(["-s", self._serial, "pull", source, str(to)], _COPY_S)

    def close(self) -> None:
        """As `Link.close`; the server keeps the device."""

    def _client(self, arguments: Sequence[str], limit_s: float) -> str:
        try:
            done = subprocess.run(
                [self._adb, *arguments],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LinkError(f"{self._name}: adb {arguments[0]} did not answer for {limit_s:g} s") from None
        said = (done.stdout + done.stderr).decode(errors="replace")
        self._check_there(done.returncode, said)
        if done.returncode != 0:
            raise MeasurementError(f"{self._name}: adb: {' '.join(said.split())[:300]}")
        return done.stdout.decode(errors="replace")

    def _check_there(self, code: int, said: str) -> None:
        if (
            code != 0
            and any(word in said.lower() for word in _GONE)
            and said.lower().lstrip().startswith(("adb", "error"))
        ):
            raise LinkError(f"{self._name}: {' '.join(said.split())[:300]}")
