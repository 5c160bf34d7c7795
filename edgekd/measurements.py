"""Timed runs as values: how they were taken, under what conditions, and what they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["measured", "host", "emulated"]


@dataclass(frozen=True)
class Protocol:
    """How latency is measured. Every number is a minimum, but for the warm-up runs.

    Attributes:
        warmup_runs: runs before the first timed one, in each process.
        min_runs: timed runs in all.
        min_seconds: timed seconds in all.
        num_processes: fresh processes the runs are spread over.
        num_threads: threads the runtime may use.
        cooldown_s: pause before each process but the first.
        cores: that the processes keep to; none: whatever they are given.
    """

    warmup_runs: int
    min_runs: int
    min_seconds: float
    num_processes: int
    num_threads: int
    cooldown_s: float = 0.0
    cores: tuple[int, ...] = ()

    def strict(self) -> Protocol:
        """As long as MLPerf asks for, where it is not longer anyhow: 1,024 runs and 60 seconds."""
        return replace(self, min_runs=max(self.min_runs, 1024), min_seconds=max(self.min_seconds, 60.0))


@dataclass(frozen=True)
class Conditions:
    """What might have slowed the timed runs of one process from outside; None where its kernel does not tell.

    Attributes:
        cores: that the process could use.
        throttled_ms: for how long quotas held its cgroups.
        hot_events: how often a processor slowed itself for heat.
        firmware: what a board's firmware said of power and heat, before or after.
        clock_khz: of the fastest core, before and after.
        temperature_c: of the hottest zone, before and after.
    """

    cores: tuple[int, ...]
    throttled_ms: float | None
    hot_events: int | None
    firmware: tuple[str, ...]
    clock_khz: tuple[int, int] | None
    temperature_c: tuple[float, float] | None


@dataclass(frozen=True)
class Measurement:
    """Raw latencies of one artifact in one runtime, with what else the run showed.

    Attributes:
        latency_ms: timed runs, warm-up and first inference excluded, in order.
        process: for each run, the index of the fresh process it ran in.
        first_ms: first inference of each process, milliseconds.
        init_ms: loading the file and making the session, each process, milliseconds.
        peak_memory_bytes: high-water mark of a fresh process that only ran this file.
        conditions: of each process; empty where nobody looked.
        kind: `measured` on the target itself, `host` another computer standing in, `emulated`.
        operators_delegated: operators that the backend took, of `operators_total` that the runtime's graph
            has, in `partitions` parts; None where the runtime has no delegates, or does not tell.
        gpu: as its driver names it; None where none ran the file, or no driver tells.
    """

    artifact_id: str
    device: str
    runtime: str
    runtime_version: str
    delegate: str
    kind: Kind
    protocol: Protocol
    latency_ms: NDArray[np.float64]
    process: NDArray[np.int64]
    first_ms: tuple[float, ...]
    init_ms: tuple[float, ...]
    peak_memory_bytes: int
    conditions: tuple[Conditions, ...] = ()
    operators_delegated: int | None = None
    operators_total: int | None = None
    partitions: int | None = None
    gpu: str | None = None

    @property
    def median_ms(self) -> float:
        """Median of the timed runs."""
        return float(np.median(self.latency_ms))

    @property
    def p90_ms(self) -> float:
        """90th percentile of the timed runs."""
        return float(np.percentile(self.latency_ms, 90))

    @property
    def p95_ms(self) -> float:
        """95th percentile of the timed runs."""
        return float(np.percentile(self.latency_ms, 95))

    @property
    def p99_ms(self) -> float | None:
        """99th percentile; None below 1,000 runs, where it means little."""
        return float(np.percentile(self.latency_ms, 99)) if len(self.latency_ms) >= 1000 else None

    @property
    def process_medians_ms(self) -> tuple[float, ...]:
        """Median of each fresh process: their spread tells a noisy machine."""
        return tuple(float(np.median(self.latency_ms[self.process == p])) for p in np.unique(self.process))


def conditions_text(conditions: Sequence[Conditions]) -> str:
    """`cores 0, 1; held by quotas for 0 ms; 50 to 61 °C; 2,400 to 1,500 MHz`: only what the kernel told."""
    found = []
    if cores := sorted({core for each in conditions for core in each.cores}):
        found.append(f"core{'s' if len(cores) > 1 else ''} {', '.join(map(str, cores))}")
    if held := [each.throttled_ms for each in conditions if each.throttled_ms is not None]:
        found.append(f"held by quotas for {sum(held):,.0f} ms")
    if hot := sum(each.hot_events or 0 for each in conditions):
        found.append(f"slowed for heat {hot} times")
    found += sorted({flag for each in conditions for flag in each.firmware})
    if heat := [value for each in conditions for value in each.temperature_c or ()]:
        found.append(f"{min(heat):.0f} to {max(heat):.0f} °C")
    if clocks := [each.clock_khz for each in conditions if each.clock_khz is not None]:
        # The first before, the lowest after: a clock that fell shows.
        found.append(f"{clocks[0][0] / 1e3:,.0f} to {min(after for _, after in clocks) / 1e3:,.0f} MHz")
    return "; ".join(found)
