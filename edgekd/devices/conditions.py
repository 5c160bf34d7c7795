"""What may slow timed runs from outside, as the kernel tells it: quotas, heat, clocks, cores.

This file travels to boards with the agent: only the standard library, nothing newer than Python 3.10.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgekd.devices.machine import clocks, read

# Of a Raspberry Pi's firmware, while it lasts.
_FIRMWARE = Path("devices/platform/soc/soc:firmware/get_throttled")
_FLAGS = ("undervoltage", "clock capped", "throttled", "soft temperature limit")


def snapshot(proc: Path = Path("/proc"), sys_folder: Path = Path("/sys")) -> dict[str, Any]:
    """Counters and gauges at this moment; None where the kernel does not tell.

    `throttled_ms` and `hot_events` only ever grow. `clock_khz` is the fastest core's, `temperature_c` the
    hottest zone's.
    """
    now = clocks(sys_folder)
    return {
        "throttled_ms": throttled_ms(proc),
        "hot_events": _hot_events(sys_folder),
        "firmware": _firmware(sys_folder),
        "clock_khz": max(now["clock_khz"], default=None),
        "temperature_c": max(now["temperature_c"], default=None),
    }


def pin(cores: list[int]) -> list[int]:
    """Keeps this process on some cores, where any are named, and reads back which it may use."""
    if cores:
        os.sched_setaffinity(0, cores)
    return sorted(os.sched_getaffinity(0))


def throttled_ms(proc: Path = Path("/proc")) -> float | None:
    """For how long quotas have held processes of this one's cgroups, of either version, up to the root."""
    found = [_held_ms(read(path)) for path in _cpu_stats(proc)]
    told = [value for value in found if value is not None]
    return sum(told) if told else None


def _cpu_stats(proc: Path) -> list[Path]:
    paths = {}
    for line in read(proc / "self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "" or "cpu" in controllers.split(","):
            paths["cgroup" if controllers else "cgroup2"] = path
    found = []
    for line in read(proc / "self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        own, kind = before.split(), after.split()
        if len(own) < 5 or len(kind) < 3 or kind[0] not in paths:
            continue
        if kind[0] == "cgroup" and "cpu" not in kind[2].split(","):
            continue
        root, mounted = own[3], Path(own[4])
        path = paths[kind[0]]
        inside = path[len(root) :] if path.startswith(root) else ""
        here = mounted / inside.strip("/")
        while True:
            found.append(here / "cpu.stat")
            if here in (mounted, here.parent):
                break
            here = here.parent
    return found


def _held_ms(text: str) -> float | None:
    pairs = (line.split() for line in text.splitlines())
    values = {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
    if "throttled_usec" in values:  # version 2
        return int(values["throttled_usec"]) / 1e3
    return int(values["throttled_time"]) / 1e6 if "throttled_time" in values else None


def _hot_events(sys_folder: Path) -> int | None:
    counters = (sys_folder / "devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    found = [read(path).strip() for path in counters]
    told = [int(text) for text in found if text.isdecimal()]
    return sum(told) if told else None


def _firmware(sys_folder: Path) -> list[str]:
    try:
        flags = int(read(sys_folder / _FIRMWARE).strip() or "0", 16)
    except ValueError:
        return []
    return [name for bit, name in enumerate(_FLAGS) if flags >> bit & 1]
