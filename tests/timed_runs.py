"""Measurements made by hand, for the gate."""

from dataclasses import replace

import numpy as np

from edgekd.measurements import Measurement, Protocol


def measured(latency_ms=None, process=None, **changes):
    """120 runs in 4 processes around 1 ms, or the runs told."""
    if latency_ms is None:
        latency_ms = 1 + 0.05 * np.random.default_rng(11).random(120)
    values = np.asarray(latency_ms, np.float64)
    groups = np.arange(len(values)) % 4 if process is None else np.asarray(process)
    base = Measurement(
        artifact_id="a",
        device="board-7",
        runtime="litert",
        runtime_version="2.3",
        delegate="xnnpack",
        kind="measured",
        protocol=Protocol(10, 100, 1.0, 4, 1),
        latency_ms=values,
        process=groups,
        first_ms=(3.0,) * 4,
        init_ms=(9.0,) * 4,
        peak_memory_bytes=5_000_000,
    )
    return replace(base, **changes)
