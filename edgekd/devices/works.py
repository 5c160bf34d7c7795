"""Whether a device's runtimes work: one counts when it has run a model there, not when it can be imported."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from edgekd import runtimes
from edgekd.devices.board import Board
from edgekd.errors import MeasurementError


def trouble(board: Board, runtime: str, delegate: str = "cpu") -> str:
    """What is wrong with a runtime of a device, in a process of its own; nothing where it computes.

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
            board.run(job, time_limit_s=60.0)
        except MeasurementError as error:
            return error.message
        return runtimes.probe_trouble(np.load(given, allow_pickle=False))
