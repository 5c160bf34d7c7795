"""Jobs on a device: the agent and what it needs go there, its events and outputs come back, nothing stays.

A link that breaks is opened again and the job that it broke begun anew; jobs that were done stay done.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, cast

import numpy as np

from edgekd.config import Target
from edgekd.devices import package
from edgekd.devices.agent import SILENCE_S
from edgekd.devices.events import Event, Events, named, printable
from edgekd.devices.known import Device
from edgekd.devices.link import Link, LinkError
from edgekd.devices.local import kind_there
from edgekd.errors import MeasurementError
from edgekd.measurements import Kind
from edgekd.runtimes import RUNTIMES
from edgekd.store import sha256_file

LINKS: Mapping[str, str] = {
    "adb": "edgekd.devices.adb:AdbLink",
    "local": "edgekd.devices.process:LocalLink",
    "qemu": "edgekd.devices.qemu:QemuLink",
    "ssh": "edgekd.devices.ssh:SshLink",
}
# By then an agent whose link fell silent has ended: two at once would disturb each other's clocks.
_TRIES, _PAUSE_S = 3, 1.2 * SILENCE_S
_TIDY_S = 60.0
_MOST_HEADER, _MOST_OUTPUTS = 4096, 2**16  # bytes before the scores; scores of one sample
_NPY = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '<f4', 'fortran_order': False, 'shape': \(([0-9]{1,10}), ([0-9]{1,10})\), \} *\n"
)
# Keys of a job that name files which the agent reads.
READ = ("path", "inputs", "input")


class Board:
    """A device, open for jobs. Use it as a context: what was copied there is removed at the end.

    Args:
        name: of the device, for messages.
        device: the way to it.
        say: told what could not be removed, at the end.
    """

    def __init__(self, name: str, device: Device, say: Callable[[str], None] = lambda text: None) -> None:
        self.name, self.device, self._say = name, device, say
        self._link: Link | None = None
        self._folders: list[str] = []  # the last is in use
        self._there: dict[str, str] = {}  # sha256 -> name in the folder
        self._called: dict[str, str] = {}  # name in the folder -> name here
        self._ended = True  # whether the last agent ended by itself
        self.left = ""  # what could not be removed, at the end

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was measured is not lost because it cannot be tidied up after.
        try:
            self._tidy(self._open(), self._folders)
            self._folders = []
        except MeasurementError as problem:
            self.left = f"{self.name}: {', '.join(self._folders)} may be left there: {problem.message}"
            self._say(self.left)
        finally:
            self._drop()

    def run(self, job: Mapping[str, Any], *, time_limit_s: float = 600.0) -> tuple[Event, ...]:
        """Does a job as `local.run_agent` does, with files of this computer.

        Raises:
            MeasurementError: the job failed, the device sent what is none of its answers, or the link broke
                time and again.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                return self._run(self._open(), job, time_limit_s)
            except LinkError as error:
                self._drop()
                if attempt == _TRIES:
                    raise MeasurementError(
                        f"{named(job)} on {self.name}: the link broke {_TRIES} times: {error.message}",
                        hint=f"files may be left there in {', '.join(self._folders)}",
                    ) from None
                time.sleep(_PAUSE_S)
            except MeasurementError:
                if not self._ended:
                    self._drop()  # its agent removes the folder
                raise
        raise AssertionError("every try returns or raises")

    def machine(self) -> Event:
        """What the device is, and the versions of the runtimes that it has; None where it has not."""
        found = self.run({"mode": "machine", "runtimes": list(RUNTIMES)}, time_limit_s=_TIDY_S)
        told = next((event for event in found if event["event"] == "machine"), None)
        if told is None:
            raise MeasurementError(f"{self.name}: the agent did not say what it is")
        return told

    def kind(self, machine: Event, target: Target | None) -> Kind:
        """What a time taken there is; without a target, that of a device is its own."""
        if target is not None:
            return kind_there(self.device.is_emulator, machine, target)
        if self.device.is_emulator:
            return "emulated"
        return "host" if self.device.scheme == "local" else "measured"

    def _open(self) -> Link:
        if self._link is None:
            module, _, kind = LINKS[self.device.scheme].partition(":")
            link = cast(Callable[[Device], Link], getattr(import_module(module), kind))(self.device)
            self._link, old = link, list(self._folders)
            # A folder of its own for each link: an agent that lost its own removes what it leaves behind.
            self._folders.append(f"edgekd-{secrets.token_hex(8)}")
            try:
                _command(link, ["mkdir", "-m", "700", "--", self._path(link)])
                self._tidy(link, old)
            except BaseException:
                self._drop()
                raise
        return self._link

    def _tidy(self, link: Link, folders: Sequence[str]) -> None:
        if not folders:
            return
        command = ["rm", "-rf", "--", *(f"{link.folder}/{name}" for name in folders)]
        try:
            _command(link, command)
        except LinkError:
            raise
        except MeasurementError:
            _command(link, command)  # an agent that lost its link removed the folder at the same time

    def _drop(self) -> None:
        link, self._link, self._there = self._link, None, {}
        if link is not None:
            link.close()

    def _path(self, link: Link) -> str:
        return f"{link.folder}/{self._folders[-1]}"

    def _run(self, link: Link, job: Mapping[str, Any], time_limit_s: float) -> tuple[Event, ...]:
        with TemporaryDirectory() as place:
            here = Path(place)
            files: dict[str, str] = {}
            outputs = job.get("outputs")
            asked = self._there_of(link, {**job, "outputs": "scores.npy"} if outputs else job, files)
            (here / "agent.pyz").write_bytes(package.archive())
            agent = self._put(link, here / "agent.pyz", "agent.pyz")
            (here / "job.json").write_text(json.dumps({**asked, "files": files}), encoding="utf-8")
            link.push(here / "job.json", f"{self._path(link)}/job.json")
            events = Events(job)
            self._ended = False
            code = link.run(self._agent(link, agent), events.feed, events.feed_noise, time_limit_s)
            self._ended = True
            try:
                found = events.ended(code)
            except MeasurementError as error:
                for name, own in self._called.items():  # files have other names there
                    error.message = error.message.replace(name, own)
                raise
            if outputs is not None:
                self._fetch(link, found, here / "scores.npy", Path(outputs), job)
                # Samples are of use once only, and a board's disk is small.
                _command(link, ["rm", "-f", "--", f"{self._path(link)}/{asked['inputs']}"])
                self._there = {
                    digest: name for digest, name in self._there.items() if name != asked["inputs"]
                }
        return found

    def _agent(self, link: Link, agent: str) -> list[str]:
        folder, device = self._path(link), self.device
        variables = dict(device.environment)
        if device.packages is not None:
            variables["PYTHONPATH"] = device.packages
        setting = (
            ["env", *(f"{name}={value}" for name, value in sorted(variables.items()))] if variables else []
        )
        options = ["--follow-stdin", "--leave-nothing"]
        return [*setting, device.python, f"{folder}/{agent}", *options, f"{folder}/job.json"]

    def _there_of(self, link: Link, job: Any, files: dict[str, str]) -> Any:
        """The job with names of files there, which are copied where they are not there yet."""
        if isinstance(job, list | tuple):
            return [self._there_of(link, each, files) for each in job]
        if not isinstance(job, Mapping):
            return job
        found = {}
        for key, value in job.items():
            if key in READ and value is not None:
                digest = sha256_file(Path(value))
                found[key] = self._put(link, Path(value), f"{digest[:16]}{Path(value).suffix}", digest)
                files[found[key]] = digest
            else:
                found[key] = self._there_of(link, value, files)
        return found

    def _put(self, link: Link, source: Path, name: str, digest: str | None = None) -> str:
        digest = digest or sha256_file(source)
        if digest not in self._there:
            link.push(source, f"{self._path(link)}/{name}")
            self._there[digest] = name
            self._called[name] = source.name
        return self._there[digest]

    def _fetch(
        self, link: Link, events: tuple[Event, ...], came: Path, to: Path, job: Mapping[str, Any]
    ) -> None:
        """The scores, which must be what the agent says that it wrote: a row for each sample, and no more."""
        told = next((event for event in events if event["event"] == "scores"), None)
        if told is None:
            raise MeasurementError(f"{named(job)} on {self.name}: the agent wrote no scores")
        where = f"{named(job)} on {self.name}"
        num_samples = len(np.load(job["inputs"], mmap_mode="r", allow_pickle=False))
        shape = told["shape"]
        if not _is_shape(shape, num_samples):
            raise MeasurementError(
                f"{where}: scores of shape {str(shape)[:60]} are none of {num_samples} samples"
            )
        link.pull(f"{self._path(link)}/scores.npy", came, _MOST_HEADER + 4 * shape[0] * shape[1])
        if (digest := hashlib.sha256(came.read_bytes()).hexdigest()) != told["sha256"]:
            raise MeasurementError(
                f"{where}: scores with sha256 {digest[:16]}..., the agent wrote {told['sha256'][:16]}..."
            )
        if not _holds(came, tuple(shape)):
            raise MeasurementError(f"{where}: its scores are no .npy file of float32 of shape {shape}")
        to.write_bytes(came.read_bytes())


def _is_shape(shape: list[Any], num_samples: int) -> bool:
    whole = len(shape) == 2 and all(type(n) is int for n in shape)
    if not whole or shape[0] != num_samples or not 0 < shape[1] <= _MOST_OUTPUTS:
        return False
    return bool(shape[0] * shape[1] <= 2**30)


def _holds(path: Path, shape: tuple[int, int]) -> bool:
    """Whether a file is what `np.save` makes of float32 values of a shape, by its header and its size.

    numpy's own parser takes far more, and fails with errors of many types.
    """
    with path.open("rb") as file:
        head = file.read(_MOST_HEADER)
    end = len(_NPY) + 2 + int.from_bytes(head[len(_NPY) : len(_NPY) + 2], "little")
    found = _HEADER.fullmatch(head[len(_NPY) + 2 : end])
    if not head.startswith(_NPY) or found is None or (int(found[1]), int(found[2])) != shape:
        return False
    return path.stat().st_size == end + 4 * shape[0] * shape[1]


def _command(link: Link, command: list[str]) -> None:
    said = bytearray()

    def keep(block: bytes) -> None:
        said.extend(block[: 300 - len(said)])

    code = link.run(command, lambda block: None, keep, _TIDY_S)
    if code != 0:
        words = printable(" ".join(said.decode(errors="replace").split()))
        raise MeasurementError(f"{command[0]} on the device: code {code}: {words}")
