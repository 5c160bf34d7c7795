"""Timed runs: how sure a quantile is, and whether the device was steady enough to say anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekd.gate import statistics
from edgekd.measurements import Conditions, Measurement

MAX_PROCESS_VARIATION = 0.15
MAX_P95_OVER_MEDIAN = 1.5
MIN_CLOCK = 0.9  # of the clock before, after the timed runs
# One-sided level of the bootstrap bounds of latency; accuracy takes its own from the policy.
ALPHA = 0.05
SEED = 0


def quantile_interval(measurement: Measurement, quantile: float) -> tuple[float, float]:
    """90% bootstrap interval of a quantile of latency, milliseconds: processes resampled, then runs."""
    rng = np.random.default_rng(SEED)
    replicates = statistics.bootstrap_quantile(measurement.latency_ms, measurement.process, quantile, rng)
    return statistics.percentile_interval(replicates, ALPHA)


def unsteady(measurement: Measurement) -> str:
    """Why the device was not steady enough while it was timed, every reason; nothing where it was."""
    reasons = (disturbed(measurement.conditions), unstable("medians", measurement.process_medians_ms))
    return "; ".join(filter(None, reasons))


def unstable(what: str, of_processes: Sequence[float]) -> str:
    """Why figures of fresh processes differ too much from each other, or nothing."""
    found = variation(of_processes)
    if found <= MAX_PROCESS_VARIATION:
        return ""
    return f"unstable: {what} of processes vary by {found:.0%}, more than {MAX_PROCESS_VARIATION:.0%}"


def variation(of_processes: Sequence[float]) -> float:
    """Largest less smallest figure, as a share of their median."""
    return (max(of_processes) - min(of_processes)) / float(np.median(of_processes))


def noisy(measurement: Measurement) -> str:
    """Why the runs differ too much from each other to hold a quantile against a budget, or nothing."""
    ratio = measurement.p95_ms / measurement.median_ms
    if ratio <= MAX_P95_OVER_MEDIAN:
        return ""
    return (
        f"noisy: the 95th percentile is {ratio:.2f} times the median, more than {MAX_P95_OVER_MEDIAN:g}: "
        "something held the runs up"
    )


def disturbed(conditions: Sequence[Conditions]) -> str:
    """What slowed timed runs from outside, as the kernel told, or nothing."""
    found = []
    if held_ms := sum(c.throttled_ms or 0 for c in conditions):
        found.append(f"a CPU quota of its cgroup held it for {held_ms:,.0f} ms")
    if hot := sum(c.hot_events or 0 for c in conditions):
        found.append(f"the processor slowed itself for heat {hot} times")
    if firmware := sorted({flag for c in conditions for flag in c.firmware}):
        found.append(f"the board's firmware told of {', '.join(firmware)}")
    falls = [c.clock_khz for c in conditions if c.clock_khz and c.clock_khz[1] < MIN_CLOCK * c.clock_khz[0]]
    if falls:
        before, after = min(falls, key=lambda pair: pair[1] / pair[0])
        found.append(f"its clock fell from {before / 1e3:,.0f} to {after / 1e3:,.0f} MHz")
    return f"throttled while it was timed: {', '.join(found)}" if found else ""
