"""What a computer or board is, as its kernel tells it.

This file travels to boards with the agent: only the standard library, nothing newer than Python 3.10.
"""

from __future__ import annotations

import os
import platform
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

# Extensions that change which int8 and half-precision kernels a runtime picks.
TELLING = (
    "avx2",
    "f16c",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)


# Bits of the words that Linux gives each process of aarch64 (AT_HWCAP, AT_HWCAP2), by its names in cpuinfo.
_AUXV_HWCAP, _AUXV_HWCAP2 = 16, 26
_HWCAP = {"asimd": 1, "asimdhp": 10, "asimdrdm": 12, "asimddp": 20, "sve": 22, "asimdfhm": 23}
_HWCAP2 = {"i8mm": 13, "bf16": 14}


def host_info(proc: Path = Path("/proc")) -> dict[str, Any]:
    """What this computer is, without the name of it or of its user."""
    found = features(proc)
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        system = platform.system()
    return {
        "cpu": _cpu_model(proc),
        "isa": platform.machine(),
        "features": [name for name in TELLING if name in found],
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": system,
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
    }


def identity(proc: Path = Path("/proc")) -> dict[str, Any]:
    """What tells whether a target's profile is of this computer."""
    model = android() or read(proc / "device-tree" / "model").strip("\0\n ")
    return {
        "isa": platform.machine(),
        "all_features": sorted(features(proc)),
        "denied_features": sorted(denied(proc)),
        "board": model,
    }


def android(system: Path = Path("/system")) -> str:
    """`Android` and the phone's model, or nothing: elsewhere, or where the phone does not say."""
    properties = read(system / "build.prop")  # apps may not read it, and have ANDROID_ROOT
    if not properties and "ANDROID_ROOT" not in os.environ:
        return ""
    try:
        command = ["getprop", "ro.product.model"]
        said = subprocess.run(command, capture_output=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = b""
    lines = properties.splitlines()
    written = next((line.partition("=")[2] for line in lines if line.startswith("ro.product.model=")), "")
    model = said.decode("utf-8", errors="replace").strip() or written.strip()
    return f"Android {model}" if model else ""


def read(path: Path) -> str:
    """A file of the kernel's, or nothing where it has none, or does not give it."""
    return read_bytes(path).decode("utf-8", errors="replace")


def read_bytes(path: Path) -> bytes:
    """As `read`, as it is."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _cpuinfo(proc: Path) -> list[tuple[str, str]]:
    pairs = (line.partition(":") for line in read(proc / "cpuinfo").splitlines())
    return [(key.strip(), value.strip()) for key, _, value in pairs]


def features(proc: Path) -> set[str]:
    """Features that every core has (big and little cores may differ), without what is denied."""
    return _claimed(proc) - denied(proc)


def denied(proc: Path) -> set[str]:
    """Features that cpuinfo claims, and the kernel tells its processes are not there: one of them is wrong.

    Where an emulator brings a cpuinfo of another processor, what believes it dies by an illegal instruction.
    """
    words = {}
    if platform.machine() == "aarch64":
        content = read_bytes(proc / "self" / "auxv")
        words = dict(struct.iter_unpack("QQ", content[: len(content) // 16 * 16]))
    if _AUXV_HWCAP not in words:
        return set()
    known = ((_HWCAP, words[_AUXV_HWCAP]), (_HWCAP2, words.get(_AUXV_HWCAP2, 0)))
    absent = {name for bits, word in known for name, bit in bits.items() if not word >> bit & 1}
    return _claimed(proc) & absent


def _claimed(proc: Path) -> set[str]:
    cores = [set(value.split()) for key, value in _cpuinfo(proc) if key in ("flags", "Features")]
    return set.intersection(*cores) if cores else set()


def _cpu_model(proc: Path) -> str:
    board = identity(proc)["board"]
    pairs = _cpuinfo(proc)
    names = [value for key, value in pairs if key == "model name"]
    # Arm's kernel gives no names: 0x41 is Arm, 0xd0b its Cortex-A76.
    ids = [f"{key[4:]} {value}" for key, value in pairs if key in ("CPU implementer", "CPU part")]
    return board or (names[0] if names else " ".join([platform.machine(), *dict.fromkeys(ids)]))


def peak_memory_bytes() -> int:
    """This process's largest resident size.

    Not getrusage's, where /proc tells: Linux carries the size of the process
    that started this one into it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def clocks(sys_folder: Path = Path("/sys")) -> dict[str, Any]:
    """Governors, clock rates in kHz and temperatures in degrees, where the kernel tells them; each once.

    A rate of 0 is none: a processor that runs has one.
    """
    cores = sorted((sys_folder / "devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    zones = sorted((sys_folder / "class/thermal").glob("thermal_zone[0-9]*/temp"))
    heat = [read(zone).strip() for zone in zones]
    rates = [read(core / "scaling_cur_freq").strip() for core in cores]
    return {
        "governors": sorted({read(core / "scaling_governor").strip() for core in cores} - {""}),
        "clock_khz": [int(rate) for rate in rates if rate.isdecimal() and int(rate)],
        "temperature_c": [int(text) / 1000 for text in heat if text.lstrip("-").isdecimal()],
    }
