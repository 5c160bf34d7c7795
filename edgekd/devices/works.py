"""Whether a device's runtimes work: one counts when it has run a model there, not when it can be imported."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd import runtimes
from edgekd.devices.board import Board
from edgekd.errors import MeasurementError


@dataclass(frozen=True)
class Tried:
    """What became of a runtime's model: `trouble` is empty where it computed; `gpu` is what ran it."""

    trouble: str
    gpu: str | None = None


def try_runtime(board: Board, runtime: str, delegate: str = "cpu") -> Tried:
    """Runs a small model in a runtime of a device, in a process of its own.

    Args:
        board: the device.
        runtime: a name of `runtimes.RUNTIMES`.
        delegate: that must take the model.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
        fed, given = Path(place) / "inputs.npy", Path(place) / "scores.npy"
        np.save(fed, runtimes.PROBE_INPUT, allow_pickle=False)
        model = {
            "id": f"{runtime}'s probe",
            "path": str(runtimes.probe_file(runtime)),
            "runtime": runtime,
            "delegate": delegate,
            "num_threads": 1,
        }
        job = {"mode": "predict", "model": model, "batch_size": 1, "inputs": str(fed), "outputs": str(given)}
        try:
            events = board.run(job, time_limit_s=60.0)
        except MeasurementError as error:
            return Tried(error.message)
        gpu = next((event.get("gpu") for event in events if event["event"] == "session"), None)
        return Tried(runtimes.probe_trouble(np.load(given, allow_pickle=False)), gpu)
