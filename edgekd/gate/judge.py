"""One function a question: the drop of a metric, slices, negative flips, size, latency, memory, int8.

Each gives a `Check` in plain words. What cannot be answered (no measurement,
noise, other hardware, too few samples) is INCONCLUSIVE and blocks a release as
a FAIL does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from edgekd.config import GateConfig
from edgekd.errors import UsageError
from edgekd.gate import statistics, timing
from edgekd.gate.evidence import Evidence
from edgekd.gate.slices import Slice
from edgekd.measurements import Measurement
from edgekd.types import Check, Inventory, Status, Verdict

MIN_PROCESSES = 3


def judge_drop(shown: Evidence, policy: GateConfig, target: str, assumed_drop: float = 0.0) -> Check:
    """Is the candidate no worse than the teacher by more than the margin?

    PASS: the upper bound of the drop is below the margin. FAIL: the lower bound is at or above it, or the
    drop seen is, on as many samples as would have let a lossless candidate pass. INCONCLUSIVE otherwise, with
    the samples that would decide.

    Args:
        shown: what the samples show about the policy's margin.
        policy: the metric and how its margin is told.
        target: what the check is of.
        assumed_drop: the true drop that samples are counted for, as `shown.drop`.
    """
    scale, unit = drop_scale(policy)
    reason = {
        Status.PASS: "shown to be below the margin",
        Status.FAIL: "not below the margin, and more samples would not help",
        Status.INCONCLUSIVE: _samples_to_decide(shown, policy, assumed_drop),
    }[shown.status]
    if shown.status is Status.FAIL and shown.shown_inferior:
        reason = "shown to be at or above the margin"
    detail = f"{policy.metric} drop {_drop_text(shown, policy)}: {reason}; {_evidence_text(shown, policy)}"
    return Check(policy.metric, target, scale * shown.drop, scale * shown.margin, unit, shown.status, detail)


def judge_slice(found: Slice, policy: GateConfig, target: str, num_mandatory: int) -> Check:
    """The check of a mandatory slice.

    Args:
        found: the slice, judged.
        policy: the metric and how its margin is told.
        target: what the check is of.
        num_mandatory: slices among which the level of a FAIL is shared.
    """
    scale, unit = slice_scale(policy)
    name = f"{found.column} = {found.value}"
    if found.evidence is None:
        detail = f"{name}: {found.reason}: nothing is shown"
        return replace(
            inconclusive("slice", target, None, scale * found.asked.margin, unit, detail),
            slice=(found.column, found.value),
        )
    shown = found.evidence
    reason = {
        Status.PASS: "shown to be below its margin",
        Status.FAIL: f"shown to be at or above its margin (level {policy.alpha:g} / {num_mandatory} slices)",
        Status.INCONCLUSIVE: found.reason or _samples_to_decide(shown, policy, 0.0),
    }[found.status]
    low, high = (scale * end for end in shown.interval)
    detail = (
        f"{name}: {policy.metric} drop {scale * shown.drop:.4g} {unit}".rstrip()
        + f", {100 * (1 - 2 * policy.alpha):g}% interval {low:.4g} to {high:.4g}, "
        f"margin {scale * shown.margin:g}: {reason}; {_evidence_text(shown, policy)}"
    )
    return Check(
        "slice",
        target,
        scale * shown.drop,
        scale * shown.margin,
        unit,
        found.status,
        detail,
        (found.column, found.value),
    )


def drop_scale(policy: GateConfig) -> tuple[float, str]:
    """By what a drop is multiplied where it is shown, and its unit."""
    if policy.max_relative_drop is not None:
        return 100.0, "%"
    return slice_scale(policy)


def slice_scale(policy: GateConfig) -> tuple[float, str]:
    """As `drop_scale`, of slices, whose margins are never relative."""
    return (100.0, "pp") if policy.judged.unit == "percent" else (1.0, "")


def _drop_text(shown: Evidence, policy: GateConfig) -> str:
    scale, unit = drop_scale(policy)
    digits = ".2f" if unit else ".4g"
    drop, low, high = (format(scale * x, digits) for x in (shown.drop, *shown.interval))
    unit = {"%": " % of the teacher's"}.get(unit, f" {unit}" if unit else "")
    level = 100 * (1 - 2 * policy.alpha)
    return f"{drop}{unit}, {level:g}% interval {low} to {high}{unit}, margin {scale * shown.margin:g}{unit}"


def _evidence_text(shown: Evidence, policy: GateConfig) -> str:
    if shown.counts is None:
        what = "clusters" if policy.cluster else "queries" if policy.query else "samples"
        return f"n = {shown.units} {what}, bootstrap"
    b, c, n = shown.counts
    return (
        f"b = {b} lost, c = {c} won, n = {n} samples; "
        f"McNemar p = {statistics.mcnemar_exact_p(b, c):.2g} (shown, not decided by)"
    )


def judge_negative_flips(b: int, n: int, policy: GateConfig, target: str) -> Check:
    """Are the b of n samples rare enough that the teacher has right and the candidate wrong?

    By Clopper-Pearson bounds of b / n: PASS if the upper one is below the limit,
    FAIL if the lower one is not, else INCONCLUSIVE.

    Raises:
        DataError: the counts are not those of a paired table.
    """
    limit = policy.max_negative_flip_rate
    upper = statistics.clopper_pearson_upper(b, n, policy.alpha)
    lower = statistics.clopper_pearson_lower(b, n, policy.alpha)
    status = Status.INCONCLUSIVE
    if limit is None:
        status = Status.NOT_APPLICABLE
    elif upper < limit:
        status = Status.PASS
    elif lower >= limit:
        status = Status.FAIL
    detail = (
        f"{b} of {n} samples went from right to wrong ({b / n:.3%}); one-sided "
        f"{100 * (1 - policy.alpha):.6g}% bounds {lower:.3%} and {upper:.3%}; "
        + ("no limit set" if limit is None else f"limit {limit:.3%}")
    )
    return Check("negative_flips", target, b / n, limit, "fraction", status, detail)


def judge_size(size_bytes: int, limit: int | None, target: str) -> Check:
    """Do all files together take no more bytes than the target allows?"""
    return _judge_bytes("size", size_bytes, limit, target)


def judge_memory(measurement: Measurement | None, limit_bytes: int | None, target: str) -> Check:
    """Does a process that only runs the file stay within the target's memory? Measured there only."""
    observed = None if measurement is None else measurement.peak_memory_bytes
    if limit_bytes is not None:
        obstacle = _wrong_hardware(measurement)
        if obstacle:
            return inconclusive("memory", target, observed, limit_bytes, "bytes", obstacle)
    return _judge_bytes("memory", observed, limit_bytes, target)


def judge_latency(measurement: Measurement | None, limit_ms_p90: float | None, target: str) -> Check:
    """Is the 90th percentile of latency within the budget? Measured on the target only.

    By the bootstrap interval of p90 (90%, processes resampled, then runs): PASS if
    all of it is below the limit, FAIL if all of it is above, else INCONCLUSIVE.

    Raises:
        UsageError: the limit is not a positive number.
    """
    observed = measurement.p90_ms if measurement is not None and _has_latencies(measurement) else None
    if limit_ms_p90 is None:
        return Check("latency", target, observed, None, "ms", Status.NOT_APPLICABLE, "no latency budget set")
    if not 0 < limit_ms_p90 < math.inf:
        raise UsageError(f"latency budget {limit_ms_p90!r} of target {target} is not a positive number")
    obstacle = obstacle_of(measurement)
    if measurement is not None and observed is not None:
        obstacle = "; ".join(filter(None, (obstacle, timing.noisy(measurement))))
    if measurement is None or obstacle:
        return inconclusive("latency", target, observed, limit_ms_p90, "ms", obstacle)
    low, high = timing.quantile_interval(measurement, 0.9)
    status = place(low, high, limit_ms_p90)
    detail = (
        f"p90 {measurement.p90_ms:.4g} ms, 90% interval {low:.4g} to {high:.4g} ms, budget "
        f"{limit_ms_p90:g} ms; {len(measurement.latency_ms)} runs on {measurement.device}"
    )
    if status is Status.INCONCLUSIVE:
        detail += "; the budget lies inside the interval: more runs, or a quieter device, would decide"
    return Check("latency", target, measurement.p90_ms, limit_ms_p90, "ms", status, detail)


def judge_int8_beats_float(int8: Measurement | None, float_: Measurement | None, target: str) -> Check:
    """Is the int8 file faster than the float file on the target itself?

    By the bootstrap interval (90%) of the ratio of medians, int8 over float, taken within each
    process, its median over processes: PASS below 1, FAIL above 1, else INCONCLUSIVE. Both run
    in turns in the same processes, so a slow spell of the machine meets both: what counts is how
    much their ratio varies between processes. Where that is more than 15%, nothing is decided
    unless the process nearest to 1 is further from it than the ratios are from each other.
    """
    name, unit = "int8_beats_float", "ratio"
    for measurement in (int8, float_):
        if measurement is not None and measurement.kind != "measured":
            detail = f"measured on hardware that is not the target ({measurement.kind}: {measurement.device})"
            return Check(name, target, None, 1.0, unit, Status.NOT_APPLICABLE, detail)
    obstacles = [
        f"{which} file: {obstacle}"
        for which, m in (("int8", int8), ("float", float_))
        if (obstacle := _wrong_hardware(m) or _too_little(m) or timing.disturbed(m.conditions if m else ()))
    ]
    if int8 is None or float_ is None or obstacles:
        return inconclusive(name, target, None, 1.0, unit, "; ".join(obstacles))
    if setting(int8) != setting(float_):
        detail = f"not comparable: int8 ran on {setting(int8)}, float on {setting(float_)}"
        return inconclusive(name, target, None, 1.0, unit, detail)
    if not np.array_equal(np.unique(int8.process), np.unique(float_.process)):
        detail = "not comparable: the files were not timed in the same processes"
        return inconclusive(name, target, None, 1.0, unit, detail)
    pairs = zip(int8.process_medians_ms, float_.process_medians_ms, strict=True)
    ratios = [one / other for one, other in pairs]
    room = 1 + timing.variation(ratios)
    if (detail := timing.unstable("ratios", ratios)) and min(ratios) / room < 1 < max(ratios) * room:
        return inconclusive(name, target, None, 1.0, unit, detail)
    over, under = ((m.latency_ms, m.process) for m in (int8, float_))
    replicates = statistics.bootstrap_ratio_of_medians(over, under, np.random.default_rng(timing.SEED))
    low, high = statistics.percentile_interval(replicates, timing.ALPHA)
    ratio = statistics.ratio_of_medians(over, under)
    status = place(low, high, 1.0)
    advice = {
        Status.PASS: "int8 is faster",
        Status.FAIL: "int8 is slower than float on this target: ship the float file there",
    }.get(status, "too close to tell: more runs would decide")
    detail = f"int8 takes {ratio:.3f} of the float time, 90% interval {low:.3f} to {high:.3f}; {advice}"
    return Check(name, target, ratio, 1.0, unit, status, detail)


def judge_int8_share(inventory: Inventory | None, minimum: float, scheme: str, target: str) -> Check:
    """Do enough computing operators of an int8 file really run in int8?"""
    name, unit = "int8_share", "fraction"
    if scheme != "static_wi8_ai8":
        observed = None if inventory is None else inventory.int8_share
        detail = f"scheme {scheme} does not ask for int8 operators"
        return Check(name, target, observed, None, unit, Status.NOT_APPLICABLE, detail)
    if inventory is None or inventory.int8_ops + inventory.float_ops <= 0:
        return inconclusive(name, target, None, minimum, unit, "no computing operator was found in the file")
    share = inventory.int8_share
    status = Status.PASS if share >= minimum else Status.FAIL
    detail = (
        f"{inventory.int8_ops} computing operators run in int8, {inventory.float_ops} in float; "
        f"at least {minimum:.1%} must be int8"
    )
    return Check(name, target, share, minimum, unit, status, detail)


def conclude(checks: Iterable[Check], required_targets: Iterable[str], metric: str = "accuracy") -> Verdict:
    """The overall verdict, over the checks of required targets only.

    Any FAIL: FAIL. Else any INCONCLUSIVE: INCONCLUSIVE. A required target whose
    metric was not judged gets an INCONCLUSIVE check that says so, and a PASS
    with a value that is not a number becomes INCONCLUSIVE. Else PASS.

    Raises:
        UsageError: no target is required, so that nothing would be judged.
    """
    required = tuple(dict.fromkeys(required_targets))
    if not required:
        raise UsageError("no required target: nothing would be judged", hint="name at least one")
    seen = [_without_nan(check) for check in checks]
    for target in required:
        answers = [
            k for k in seen if (k.name, k.target) == (metric, target) and k.status != Status.NOT_APPLICABLE
        ]
        if not answers:
            detail = f"{metric} was not judged for this required target"
            seen.append(inconclusive(metric, target, None, None, "pp", detail))
    statuses = {check.status for check in seen if check.target in required}
    worst = next((s for s in (Status.FAIL, Status.INCONCLUSIVE) if s in statuses), Status.PASS)
    return Verdict(worst, tuple(seen))


def _samples_to_decide(shown: Evidence, policy: GateConfig, assumed_drop: float) -> str:
    what = "clusters" if policy.cluster else "queries" if policy.query else "samples"
    scale, unit = drop_scale(policy)
    lossless = f"{math.ceil(shown.needed_lossless):,}"
    text = f"too few {what} to tell: about {lossless} decide if nothing was lost (90% power)"
    if assumed_drop > 0:
        needed = shown.needed_at(assumed_drop)
        assumed = f"{scale * assumed_drop:g} {unit}".rstrip()
        many = f"about {math.ceil(needed):,}" if math.isfinite(needed) else f"no number of {what}"
        text += f", {many} if {assumed} were lost"
    if math.isfinite(seen := shown.needed_at(shown.drop)):
        return f"{text}, about {math.ceil(seen):,} if the drop seen is the true one"
    return f"{text}; at the drop seen no number of {what} would pass, and {lossless} would fail"


def _judge_bytes(name: str, observed: int | None, limit: int | None, target: str) -> Check:
    if limit is None:
        return Check(name, target, observed, None, "bytes", Status.NOT_APPLICABLE, f"no {name} budget set")
    if not 0 < limit < math.inf:
        raise UsageError(f"{name} budget {limit!r} of target {target} is not a positive number")
    if observed is None or not 0 < observed < math.inf:
        detail = f"{observed!r} bytes is no measured {name}"
        return inconclusive(name, target, observed, limit, "bytes", detail)
    status = Status.PASS if observed <= limit else Status.FAIL
    return Check(name, target, observed, limit, "bytes", status, f"{observed:,} of {limit:,} bytes allowed")


def obstacle_of(measurement: Measurement | None) -> str:
    """Why a latency cannot be judged by these figures, or nothing."""
    return _wrong_hardware(measurement) or _unsound(measurement)


def _wrong_hardware(measurement: Measurement | None) -> str:
    """Why this is no measurement on the target, or nothing."""
    if measurement is None:
        return "not measured"
    if measurement.kind == "measured":
        return ""
    known = {"host": "another computer standing in", "emulated": "an emulator"}
    stand_in = known.get(measurement.kind, "unknown")
    return (
        f"kind {measurement.kind} ({stand_in}: {measurement.device}) is not a measurement on the target "
        "and never satisfies its budget"
    )


def _unsound(measurement: Measurement | None) -> str:
    """Why these latencies cannot be judged by, or nothing."""
    if measurement is None or (lack := _too_little(measurement)):
        return lack if measurement is not None else "not measured"
    return timing.unsteady(measurement)


def _too_little(measurement: Measurement | None) -> str:
    """Why there are too few latencies to judge by, or nothing."""
    if measurement is None or not _has_latencies(measurement):
        return "latencies are missing, not finite or not positive"
    runs, medians = len(measurement.latency_ms), measurement.process_medians_ms
    protocol = measurement.protocol
    if runs < protocol.min_runs:
        return f"only {runs} timed runs, the protocol asks for {protocol.min_runs}"
    processes = max(MIN_PROCESSES, protocol.num_processes)
    if len(medians) < processes:
        return f"only {len(medians)} fresh processes, {processes} are needed to see how they vary"
    return ""


def _has_latencies(measurement: Measurement) -> bool:
    values = measurement.latency_ms
    sound = len(values) > 0 and len(values) == len(measurement.process)
    return sound and bool(np.all(np.isfinite(values) & (values > 0)))


def setting(measurement: Measurement) -> str:
    """Where and how it ran: what must be equal before two measurements are compared."""
    return (
        f"{measurement.device}, {measurement.runtime} {measurement.runtime_version}, "
        f"{measurement.delegate}, {measurement.protocol.num_threads} threads"
        + (f", {measurement.gpu}" if measurement.gpu else "")
        + (f", cores {', '.join(map(str, cores))}" if (cores := cores_of(measurement)) else "")
    )


def cores_of(measurement: Measurement) -> list[int]:
    """What its processes could use; nothing where nobody looked."""
    return sorted({core for conditions in measurement.conditions for core in conditions.cores})


def place(low: float, high: float, limit: float) -> Status:
    """PASS where a whole interval lies below a limit, FAIL where it lies above."""
    if high < limit:
        return Status.PASS
    return Status.FAIL if low > limit else Status.INCONCLUSIVE


def inconclusive(
    name: str, target: str, observed: float | None, limit: float | None, unit: str, detail: str
) -> Check:
    """A check that blocks a release because nothing is shown."""
    return Check(name, target, observed, limit, unit, Status.INCONCLUSIVE, detail)


def _without_nan(check: Check) -> Check:
    nan = any(x is not None and math.isnan(x) for x in (check.observed, check.limit))
    if check.status is Status.FAIL or not nan:
        return check
    return replace(check, status=Status.INCONCLUSIVE, detail=f"{check.detail}; a value is not a number")
