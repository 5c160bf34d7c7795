"""A device reached by ADB, through the real `adb` client."""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from edgekd.devices.known import Device
from edgekd.devices.link import LinkError, Sink
from edgekd.devices.process import run_streamed
from edgekd.errors import MeasurementError, UsageError

_COPY_S, _CONNECT_S = 600.0, 30.0
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
            # A server may hold a link that broke, and answer that all is well.
            with contextlib.suppress(MeasurementError):  # of one that it does not hold it says so
                self._client(["disconnect", self._serial], _CONNECT_S)
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
        # Where the device is gone the client says 0: only the device itself can tell how a command ended.
        mark = f"edgekd-{secrets.token_hex(8)}"
        line = f"{shlex.join(command)}; echo {mark} $? >&2"
        said = bytearray()

        def keep(block: bytes) -> None:
            said.extend(block)
            del said[: -len(mark) - 200]
            noise(block.partition(mark.encode())[0])

        run_streamed(
            [self._adb, "-s", self._serial, "shell", "-T", line], out, keep, time_limit_s, self._name
        )
        found = re.search(rf"{mark} (\d+)", said.decode(errors="replace"))
        if found is None:
            words = " ".join(said.decode(errors="replace").split())[-300:]
            raise LinkError(f"{self._name}: the link broke: {words or 'the device is gone'}")
        return int(found[1])

    def push(self, source: Path, to: str) -> None:
        """As `Link.push`."""
        self._client(["-s", self._serial, "push", str(source), to], _COPY_S)

    def pull(self, source: str, to: Path, most_bytes: int) -> None:
        """As `Link.pull`: as a stream, so that it is one file, and no larger than it may be."""
        with to.open("wb") as file:

            def keep(block: bytes) -> None:
                if file.tell() + len(block) > most_bytes:
                    raise MeasurementError(
                        f"{self._name}: {source} is larger than the {most_bytes:,} bytes expected"
                    )
                file.write(block)

            said = bytearray()
            code = self.run(["cat", "--", source], keep, lambda block: said.extend(block[:1000]), _COPY_S)
        if code != 0:
            words = " ".join(said[:300].decode(errors="replace").split())
            raise MeasurementError(f"{self._name}: {source} cannot be read: {words}")

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
        words = said.lower().lstrip()
        # A command on the device may use such words too, but does not begin as the client does.
        if code != 0 and words.startswith(("adb", "error")) and any(word in words for word in _GONE):
            raise LinkError(f"{self._name}: {' '.join(said.split())[:300]}")
