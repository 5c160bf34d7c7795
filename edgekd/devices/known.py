"""Devices that the user has named: where they are, and how the agent runs there."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from edgekd.config import Strict, build
from edgekd.errors import UsageError, nearest
from edgekd.store import write_atomic

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # never an option of ssh or adb
_CPU = re.compile(r"[a-z0-9][a-z0-9._-]*(,[a-z0-9._=-]+)*")  # as `qemu-aarch64 -cpu help` names them
_WAYS = "give ssh://user@host[:port], adb://SERIAL, adb://host:port, qemu:///FOLDER, or local"


class Device(Strict):
    """A device by the way to it."""

    via: str = Field(
        description="ssh://user@host[:port], adb://SERIAL, adb://host:port, qemu:///FOLDER with an arm64 "
        "tree on this computer, or local"
    )
    python: str = Field(
        default="python3", description="the interpreter on the device, 3.10 or later, with numpy"
    )
    packages: str | None = Field(
        default=None, description="a folder on the device that holds numpy and runtimes"
    )
    environment: Mapping[str, str] = Field(default_factory=dict, description="variables for the agent")
    folder: str | None = Field(
        default=None, description="where it may write; left out: /tmp, on Android /data/local/tmp"
    )
    identity: str | None = Field(
        default=None, description="file of the SSH key; left out: the agent's and yours"
    )
    known_hosts: str | None = Field(default=None, description="file of SSH host keys; left out: yours")
    benchmark_model: str | None = Field(
        default=None,
        description="path on an Android device of Google's benchmark_model, in place of a Python",
    )
    emulated: bool = Field(default=False, description="whether it is an emulator: its times are none")
    cpu: str | None = Field(
        default=None, description="the processor that qemu is told to be, such as cortex-a76; with qemu:///"
    )

    @field_validator("via")
    @classmethod
    def _reachable(cls, via: str) -> str:
        if via != "local":
            parts = urlsplit(via)
            if parts.scheme == "qemu":
                if parts.netloc or not parts.path.startswith("/") or parts.query or parts.fragment:
                    raise ValueError("give qemu:///FOLDER, with the folder's whole path")
                return via
            try:
                _ = parts.port
            except ValueError:
                raise ValueError("its port is no number up to 65535") from None
            if parts.scheme not in ("ssh", "adb") or parts.path or parts.query or parts.fragment:
                raise ValueError(_WAYS)
            if parts.password is not None:
                # Not as the value that pydantic would show.
                raise UsageError("via: no password stands there", hint="a key does: ssh-keygen, ssh-copy-id")
            names = [parts.hostname or ""] + ([parts.username] if parts.username is not None else [])
            if not all(_HOST.fullmatch(name) or _is_address(name) for name in names):
                raise ValueError("its host or user is no name")
            if parts.scheme == "adb" and parts.username is not None:
                raise ValueError("ADB has no users")
        return via

    @field_validator("environment")
    @classmethod
    def _named(cls, environment: Mapping[str, str]) -> Mapping[str, str]:
        if wrong := next((name for name in environment if not _VARIABLE.fullmatch(name)), None):
            raise ValueError(f"{wrong!r} is no name of a variable")
        return environment

    @field_validator("folder", "benchmark_model")
    @classmethod
    def _absolute(cls, folder: str | None) -> str | None:
        if folder is not None and not folder.startswith("/"):
            raise ValueError("a path from the root: /...")
        return folder

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.benchmark_model is not None and self.scheme != "adb":
            raise ValueError("benchmark_model is for devices over ADB; others have a Python")
        if (self.scheme == "qemu") != (self.cpu is not None):
            raise ValueError("cpu and qemu:/// go together: --cpu cortex-a76")
        if self.cpu is not None and not _CPU.fullmatch(self.cpu):
            raise ValueError(f"cpu = {self.cpu!r} is no processor of qemu's: qemu-aarch64 -cpu help")
        return self

    @property
    def is_emulator(self) -> bool:
        """Whether its times are none."""
        return self.emulated or self.scheme == "qemu" or self.via.startswith("adb://emulator-")

    @property
    def scheme(self) -> Literal["local", "ssh", "adb", "qemu"]:
        """How it is reached."""
        return "local" if self.via == "local" else urlsplit(self.via).scheme  # type: ignore[return-value]


def _is_address(name: str) -> bool:
    """Of IPv6, which stands in brackets."""
    try:
        return ipaddress.ip_address(name).version == 6
    except ValueError:
        return False


def variables(texts: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE of the command line.

    Raises:
        UsageError: not of that form.
    """
    pairs = [text.partition("=") for text in texts]
    if wrong := next((name for name, equals, _ in pairs if not equals), None):
        raise UsageError(f"--env {wrong}: not NAME=VALUE", hint="--env VK_ICD_FILENAMES=/etc/vulkan/icd.json")
    return {name: value for name, _, value in pairs}


def file_of() -> Path:
    """The file that devices are kept in: EDGEKD_DEVICES, or the user's own."""
    if named := os.environ.get("EDGEKD_DEVICES"):
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "edgekd" / "devices.json"


def devices() -> dict[str, Device]:
    """All that were added, by name.

    Raises:
        UsageError: their file is damaged.
    """
    path = file_of()
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        items = sorted(found.items())
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: no list of devices: {error}") from None
    return {name: build(Device, device, f"{path}: {name}") for name, device in items}


def device(name: str) -> Device:
    """One of them; `local` is always there.

    Raises:
        UsageError: no such device.
    """
    found = devices()
    if name == "local" and name not in found:
        return Device(via="local", python=sys.executable)
    if name not in found:
        hint = nearest(name, found, f"edgekd devices add {name} --via ...")
        raise UsageError(f"no device {name!r}", hint=hint)
    return found[name]


def add(name: str, new: Device) -> None:
    """Keeps a device under a name, in place of one that had it.

    Raises:
        UsageError: no name for a device.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a device", hint="small letters, digits, - and _")
    found = {**devices(), name: new}
    path = file_of()
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {n: d.model_dump(exclude_defaults=True) for n, d in sorted(found.items())}
    write_atomic(path, json.dumps(kept, indent=1) + "\n")


def remove(name: str) -> None:
    """Forgets a device.

    Raises:
        UsageError: no such device.
    """
    device(name)
    kept = {n: d.model_dump(exclude_defaults=True) for n, d in devices().items() if n != name}
    write_atomic(file_of(), json.dumps(kept, indent=1) + "\n")
