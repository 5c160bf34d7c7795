"""Whether two reports were taken on the same computer: latencies of different ones say nothing of a file."""

from __future__ import annotations

from edgekd.report.schema import Report

MEMORY_TOLERANCE = 0.02  # of one computer's memory: what a kernel keeps for itself changes with its version
HOST = ("cpu", "isa", "cores", "usable_cores", "features")  # what makes it another computer to a runtime


def host_differences(old: Report, new: Report) -> dict[str, tuple[object, object]]:
    """What makes the host of one report another computer than that of the other: both values by name."""
    pairs = {key.replace("_", " "): (old.host.get(key), new.host.get(key)) for key in HOST}
    found: dict[str, tuple[object, object]] = {k: both for k, both in pairs.items() if both[0] != both[1]}
    memory = old.host.get("memory_bytes"), new.host.get("memory_bytes")
    return found if _alike(*memory) else {**found, "memory in bytes": memory}


def _alike(old: object, new: object) -> bool:
    if isinstance(old, int | float) and isinstance(new, int | float):
        return abs(new - old) <= MEMORY_TOLERANCE * max(abs(old), abs(new))
    return old == new
