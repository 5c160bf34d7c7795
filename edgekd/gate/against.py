"""What a file costs beside the file of a baseline report: bytes, median and p90 of latency.

Accuracy is never judged so: its baseline is the frozen teacher, or losses too small to be seen would add up
from release to release. That the teacher is still the same is judged here too.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit

from edgekd.errors import DataError, UsageError
from edgekd.gate import statistics, timing
from edgekd.gate.judge import inconclusive, obstacle_of, place, setting
from edgekd.gate.pairing import Pair
from edgekd.measurements import Measurement
from edgekd.types import Check, Status


def judge_same_teacher(pair: Pair, target: str) -> Check:
    """Does the baseline report's teacher say the same of every sample as this one's?

    Args:
        pair: this report's teacher and, as the candidate, the baseline report's.
        target: what the check is of.
    """
    differ = pair.teacher.answers != pair.candidate.answers
    if pair.teacher.vectors is not None and pair.candidate.vectors is not None:
        differ |= (pair.teacher.vectors != pair.candidate.vectors).any(axis=1)
    others = int(np.sum(differ))
    if not others:
        detail = f"the same answers on all {len(pair):,} samples"
        return Check("same_teacher", target, 0, 0, "samples", Status.PASS, detail)
    detail = (
        f"the baseline report's teacher gives other answers on {others:,} of {len(pair):,} samples: drops of "
        "the two reports are from different teachers"
    )
    return inconclusive("same_teacher", target, others, 0, "samples", detail)


def judge_size_ratio(size_bytes: int, baseline_bytes: int | None, limit: float, target: str) -> Check:
    """Do all files together take at most so many times the baseline report's bytes?"""
    if not baseline_bytes:
        detail = "the baseline report has no file for this target"
        return inconclusive("size_ratio", target, None, limit, "ratio", detail)
    ratio = size_bytes / baseline_bytes
    status = Status.PASS if ratio <= limit else Status.FAIL
    detail = (
        f"{size_bytes:,} bytes, {baseline_bytes:,} in the baseline report: {ratio:.3f}, at most {limit:g}"
    )
    return Check("size_ratio", target, ratio, limit, "ratio", status, detail)


def judge_latency_ratio(
    new: Measurement | None, baseline: Measurement | None, limit: float, target: str, *, other_host: str = ""
) -> tuple[Check, Check]:
    """Are median and p90 below so many times the baseline report's? Measured on the target only.

    By an interval (90%) of the ratio: PASS if all of it is below the limit, FAIL if all of it is above, else
    INCONCLUSIVE. The two were not timed in turns, so that a machine that became slower between them reads as
    a slower file. The interval is `ratio_interval`: three processes that are only resampled vary too little,
    and one in nine files just at the limit would pass instead of one in twenty.

    Args:
        new: of this report.
        baseline: of the baseline report.
        limit: on new over baseline.
        target: what the checks are of.
        other_host: in what the computers of the two reports differ; empty where they do not.

    Raises:
        DataError: latencies that are not positive.
        UsageError: the limit is not a positive number.
    """
    name = "latency_ratio"
    if not limit > 0:
        raise UsageError(f"{name} {limit!r} of target {target} is not a positive number")
    obstacles = [
        f"{which}: {obstacle}"
        for which, found in (("this report", new), ("the baseline report", baseline))
        if (obstacle := obstacle_of(found))
    ]
    if other_host:
        obstacles.append(f"not comparable: another computer ({other_host})")
    if new is not None and baseline is not None and not obstacles:
        ways = [f"{setting(m)}, {m.protocol.warmup_runs} warm-up runs" for m in (new, baseline)]
        if ways[0] != ways[1]:
            obstacles = [f"not comparable: here on {ways[0]}, in the baseline report on {ways[1]}"]
    checks = []
    for what, quantile in (("median", 0.5), ("p90", 0.9)):
        if new is None or baseline is None or obstacles:
            text = "; ".join(obstacles)
            checks.append(inconclusive(f"{name}_{what}", target, None, limit, "ratio", text))
            continue
        low, high = ratio_interval(new, baseline, quantile)
        now, then = (float(np.quantile(m.latency_ms, quantile)) for m in (new, baseline))
        status = place(low, high, limit)
        detail = (
            f"{what} {now:.4g} ms, {then:.4g} ms in the baseline report: {now / then:.3f}, 90% interval "
            f"{low:.3f} to {high:.3f}, limit {limit:g}"
        )
        if status is Status.INCONCLUSIVE:
            detail += "; the limit lies inside the interval: more runs, or a quieter device, would decide"
        checks.append(Check(f"{name}_{what}", target, now / then, limit, "ratio", status, detail))
    return checks[0], checks[1]


def ratio_interval(new: Measurement, old: Measurement, quantile: float) -> tuple[float, float]:
    """A quantile of latency, new over old, of two that were not timed in turns: its interval, 90%.

    The wider of two: of the bootstrap, processes resampled and then runs, of each side by itself, and Welch's
    t-interval of the processes' logarithms, which a side of one process has none of.

    Raises:
        DataError: latencies are missing, not finite or not positive.
    """
    drawn = [
        statistics.bootstrap_quantile(
            m.latency_ms, m.process, quantile, np.random.default_rng(timing.SEED + i)
        )
        for i, m in enumerate((new, old))
    ]
    for m in (new, old):
        if m.latency_ms.min() <= 0:
            raise DataError(f"latencies of {m.artifact_id!r} are not positive")
    low, high = statistics.percentile_interval(drawn[0] / drawn[1], timing.ALPHA)
    logs = [
        np.log([np.quantile(m.latency_ms[m.process == p], quantile) for p in np.unique(m.process)])
        for m in (new, old)
    ]
    if min(map(len, logs)) < 2:
        return low, high
    apart = float(np.mean(logs[0]) - np.mean(logs[1]))
    shares = [float(np.var(x, ddof=1)) / len(x) for x in logs]
    if sum(shares) == 0:  # every process took exactly as long
        return low, high
    freedom = sum(shares) ** 2 / sum(v**2 / (len(x) - 1) for v, x in zip(shares, logs, strict=True))
    reach = float(stdtrit(freedom, 1 - timing.ALPHA)) * math.sqrt(sum(shares))
    return min(low, math.exp(apart - reach)), max(high, math.exp(apart + reach))
