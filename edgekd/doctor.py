"""What works on this computer. A runtime counts when it has run a model, not when it can be imported."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from edgekd.devices.machine import host_info
from edgekd.errors import EdgeKDError
from edgekd.runtimes import RUNTIMES, probe

EXTRAS = {
    "compress": ("torch", "lightning-fabric", "nncf", "torch-pruning", "onnx", "onnxscript", "litert-torch"),
    "signing": ("cryptography", "securesystemslib"),
    "parquet": ("pyarrow",),
}


@dataclass(frozen=True)
class Finding:
    """One line of the examination. `needed`: without it edgekd does not do its basic work."""

    name: str
    ok: bool
    needed: bool
    detail: str


def examine() -> list[Finding]:
    """Python, processor, runtimes, extras, compiler."""
    return [*_machine(), *_runtimes(), *_extras(), _compiler()]


def _machine() -> Iterator[Finding]:
    right = sys.version_info[:2] == (3, 11)
    yield Finding("python", right, True, f"{platform.python_version()}" + ("" if right else ", needs 3.11"))
    host = host_info()
    features = ", ".join(host["features"]) or "none of those that matter"
    yield Finding("processor", True, False, f"{host['cpu']}, {host['usable_cores']} cores; {features}")
    vnni = host["isa"] != "x86_64" or any("vnni" in name for name in host["features"])
    detail = "int8 dot products" if vnni else "no VNNI: int8 files may be no faster than float here"
    yield Finding("int8 kernels", vnni, False, detail)


def _runtimes() -> Iterator[Finding]:
    for name in RUNTIMES:
        try:
            yield Finding(f"runtime {name}", True, False, f"{probe(name)}, ran a model")
        except (EdgeKDError, ImportError) as error:
            yield Finding(f"runtime {name}", False, name != "tflite_runtime", str(error))


def _extras() -> Iterator[Finding]:
    for extra, names in EXTRAS.items():
        absent = []
        for name in names:
            try:
                importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                absent.append(name)
        detail = "all there" if not absent else f"{', '.join(absent)}: pip install 'edgekd[{extra}]'"
        yield Finding(f"extra [{extra}]", not absent, False, detail)


def _compiler() -> Finding:
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    detail = "found" if found else "none: NNCF builds an extension on first use; apt-get install g++"
    return Finding("C++ compiler", found is not None, False, detail)
