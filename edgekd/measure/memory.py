"""Peak memory of a file: the high-water mark of a fresh process that only loads and runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.devices.events import RunJob
from edgekd.devices.local import run_agent
from edgekd.errors import MeasurementError

_NUM_RUNS = 5


def peak_memory_bytes(
    model: Mapping[str, Any], *, seed: int = 0, time_limit_s: float = 300.0, run: RunJob = run_agent
) -> int:
    """Largest resident size of the process, interpreter and runtime included, in bytes.

    Args:
        model: the model of an agent's job (see `edgekd.devices.agent`).
        seed: of random inputs, where the model names none.
        time_limit_s: for the process.
        run: does the agent's jobs, here or on a device.

    Raises:
        MeasurementError: the file does not run.
    """
    job = {"mode": "memory", "model": dict(model), "num_runs": _NUM_RUNS, "seed": seed}
    events = run(job, time_limit_s=time_limit_s)
    found = next((event for event in events if event["event"] == "memory"), None)
    if found is None:
        raise MeasurementError(f"{model['id']}: the agent said nothing of its memory")
    return int(found["peak_memory_bytes"])
