"""Whether two reports were timed on one computer: latencies of different ones say nothing of a file."""

from __future__ import annotations

from collections.abc import Mapping

from edgekd.report.schema import Report

MEMORY_TOLERANCE = 0.02  # of one computer's memory: what a kernel keeps for itself changes with its version
HOST = ("cpu", "isa", "cores", "usable_cores", "features")  # what makes it another computer to a runtime


Machine = Mapping[str, object]


def machine_of(report: Report, target: str) -> Machine:
    """What the files for a target were timed on: its device, or the run's own computer."""
    timed_on = next((m.device for m in report.measurements if m.target == target), "")
    return report.devices.get(timed_on, report.host)


def host_differences(old: Machine, new: Machine) -> dict[str, tuple[object, object]]:
    """What makes one computer another than a second: both values by name."""
    pairs = {key.replace("_", " "): (old.get(key), new.get(key)) for key in HOST}
    found: dict[str, tuple[object, object]] = {k: both for k, both in pairs.items() if both[0] != both[1]}
    memory = old.get("memory_bytes"), new.get("memory_bytes")
    return found if _alike(*memory) else {**found, "memory in bytes": memory}


def _alike(old: object, new: object) -> bool:
    if isinstance(old, int | float) and isinstance(new, int | float):
        return abs(new - old) <= MEMORY_TOLERANCE * max(abs(old), abs(new))
    return old == new
