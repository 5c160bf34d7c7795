"""A report judged from itself: stored predictions and raw timings in, verdict out.

The run and `edgekd gate` both come through here, so a verdict can always be made again
from the report's folder alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edgekd import gate, judgement_log
from edgekd.config import BudgetConfig, GateConfig, PolicyGate, TargetGateConfig, build
from edgekd.errors import DataError, UsageError, nearest
from edgekd.gate.slices import LABEL
from edgekd.measure.parity import complaint_of
from edgekd.measurements import Measurement
from edgekd.metric_names import metric_named
from edgekd.metric_values import check_metric, margin_of, with_a_like
from edgekd.report.hosts import host_differences, machine_of
from edgekd.report.schema import (
    ArtifactRecord,
    CheckRecord,
    DeviceOutputs,
    MetricValue,
    PredictionsFile,
    Report,
    SliceRecord,
    StoredFile,
    VerdictRecord,
)
from edgekd.store import sha256_file, write_atomic
from edgekd.stored import read_measurement, read_predictions, read_teacher, unchanged
from edgekd.types import SAMPLE, Check, Column, Inventory, Metric, Parity, Predictions, Status, Verdict


@dataclass(frozen=True)
class Against:
    """A baseline report, whose files the new ones may not be much larger or slower than."""

    report: Report
    folder: Path


def logged(report: Report, folder: Path, policy: GateConfig, store: Path) -> Report:
    """The report judged for the first time: entered in the store's log, a copy of it left in the folder.

    Args:
        report: not judged yet.
        folder: its predictions and timings lie here.
        policy: of the recipe.
        store: the store's root.
    """
    test, entered = report.data.splits.test.sha256, judgement_log.judgement_of(report, policy)
    log = judgement_log.enter(store, test, entered)
    path = folder / judgement_log.FILE
    write_atomic(path, judgement_log.dumps(test, judgement_log.begun(log)))
    beside = StoredFile(path=judgement_log.FILE, sha256=sha256_file(path))
    report = judged(counted(report, log).model_copy(update={"judgement_log": beside}), folder, policy)
    judgement_log.settle(store, test, replace(entered, status=report.verdict.status))
    return report


def counted(report: Report, log: Sequence[judgement_log.Judgement]) -> Report:
    """The report as the last judgement of a log."""
    return report.model_copy(
        update={"judgements": len(log), "judgements_not_passed": judgement_log.not_passed(log)}
    )


def past_judgements(report: Report, folder: Path) -> tuple[judgement_log.Judgement, ...]:
    """The log that lies beside a report; of one without, nothing.

    Raises:
        DataError: it is missing, changed or damaged.
    """
    if report.judgement_log is None:
        return ()
    path = unchanged(folder, report.judgement_log.path, report.judgement_log.sha256)
    *before, last = judgement_log.parse(path.read_bytes(), report.data.splits.test.sha256, str(path))
    return (*before, replace(last, status=report.verdict.status))


def judged(report: Report, folder: Path, policy: GateConfig, against: Against | None = None) -> Report:
    """The report with the verdict of a policy, from what lies in its folder."""
    verdict, slices = judge(report, folder, policy, against)
    checks = tuple(CheckRecord(**vars(check)) for check in verdict.checks)
    record = VerdictRecord.model_validate(
        {"status": verdict.status.value, "exit_code": verdict.exit_code, "checks": checks}
    )
    artifacts = tuple(
        a.model_copy(update={"slices": tuple(slices.get(a.id, ())), "metrics": _metrics(a, report, policy)})
        for a in report.artifacts
    )
    return report.model_copy(update={"verdict": record, "artifacts": artifacts})


def _metrics(artifact: ArtifactRecord, report: Report, policy: GateConfig) -> tuple[MetricValue, ...]:
    """With the margin that the file is judged by; a metric that is not judged has none."""
    if artifact.role != "target":
        return artifact.metrics
    own = policy_on(report, policy, str(artifact.target))
    return tuple(
        m.model_copy(update={"margin": margin_of(own, metric_named(m.name))}) for m in artifact.metrics
    )


def with_intervals(report: Report, folder: Path, policy: GateConfig) -> Report:
    """The report with the intervals of its drops at the level of another policy, by its clusters."""
    baseline = read_teacher(report, folder)
    own = report.gate.get("policy")
    query = policy.query or (str(own["query"]) if isinstance(own, Mapping) and own.get("query") else None)

    def at_level(metrics: tuple[MetricValue, ...], stored: PredictionsFile | None) -> tuple[MetricValue, ...]:
        if stored is None or all(m.drop is None for m in metrics):
            return metrics
        candidate = read_predictions(stored, folder)
        return tuple(
            m
            if m.drop is None
            else m.model_copy(update={"drop_interval": interval(metric_named(m.name), candidate)})
            for m in metrics
        )

    def interval(metric: Metric, candidate: Predictions) -> tuple[float, float] | None:
        if metric.name == "auc" and policy.cluster is not None:  # no method tells
            return None
        asked = query if gate.is_ranked(metric) else None
        return gate.drop_of(baseline, candidate, metric, policy.alpha, None, asked, policy.cluster).interval

    changed = {
        name: tuple(
            one.model_copy(update={"metrics": at_level(one.metrics, one.predictions)})
            for one in getattr(report, name)
        )
        for name in ("stages", "artifacts")
    }
    return report.model_copy(update=changed)


def policy_on(report: Report, policy: GateConfig, target: str) -> GateConfig:
    """What judges a target's file: the policy, what the target's profile says in its place, the level left.

    Raises:
        UsageError: the two do not go together.
    """
    stored = report.gate.get("targets", {})
    if not isinstance(stored, Mapping):
        raise UsageError("report: gate.targets is no table of targets")
    asked = stored.get(target, {})
    if not isinstance(asked, Mapping):
        raise UsageError(f"report: gate.targets.{target} is no table")
    own = build(TargetGateConfig, asked, f"report gate.targets.{target}")
    try:
        return policy.on(own).spent(max(report.judgements, 1))
    except ValidationError as error:
        raise UsageError(f"target {target}: gate: {error.errors()[0]['msg']}") from None


def judge(
    report: Report, folder: Path, policy: GateConfig, against: Against | None = None
) -> tuple[Verdict, dict[str, list[SliceRecord]]]:
    """The verdict on every target of a report under a policy, and the slices of each artifact by its id.

    Args:
        report: whose files are judged.
        folder: what its paths are relative to.
        policy: of the gate; targets may have keys of their own.
        against: a baseline report, for the policy's ratios.

    Raises:
        DataError: predictions or timings that are missing, changed or do not pair up.
        UsageError: what the policy asks cannot be asked of these predictions.
    """
    baseline = read_teacher(report, folder)
    # What a sample is, is a slice too.
    of_label = {LABEL: Column(baseline.labels, report.class_names)}
    baseline = replace(baseline, columns={**baseline.columns, **of_label})
    checks: list[Check] = []
    slices: dict[str, list[SliceRecord]] = {}
    for artifact in report.artifacts:
        if artifact.role == "target":
            if artifact.predictions is None:
                raise DataError(f"report: the file for {artifact.target} has no stored predictions")
            own, target = policy_on(report, policy, str(artifact.target)), str(artifact.target)
            for file in artifact.files:
                if (folder / file.path).exists():  # a report may be sent without what ships
                    unchanged(folder, file.path, file.sha256)
            pair = gate.pair(baseline, read_predictions(artifact.predictions, folder))
            judged = gate.judge_predictions(pair, own, target)
            slices[artifact.id] = [slice_record(one, own) for one in judged.slices]
            checks += [*judged.checks, *_judge_file(artifact, report, folder, own)]
            if against is not None and isinstance(policy, PolicyGate):
                checks += _judge_against(artifact, baseline, report, folder, policy, against)
    required = [str(a.target) for a in report.artifacts if a.required]
    return gate.conclude(checks, required, policy.metric), slices


def slice_record(found: gate.Slice, policy: GateConfig) -> SliceRecord:
    """A slice as reports have it."""
    scale, shown = gate.slice_scale(policy)[0], found.evidence
    return SliceRecord(
        column=found.column,
        value=found.value,
        n=found.n,
        drop=None if shown is None else scale * shown.drop,
        interval=None if shown is None else (scale * shown.interval[0], scale * shown.interval[1]),
        margin=scale * found.asked.margin,
        mandatory=found.asked.mandatory,
        status=found.status,
        alarm=found.alarm,
        reason=found.reason,
    )


def plan(
    policy: GateConfig,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    columns: Mapping[str, Column],
    *,
    smoke: bool = False,
) -> float | None:
    """Chance that all mandatory slices of a lossless file pass; before anything is trained.

    Args:
        policy: of one target.
        labels: (N,), of the test split.
        class_names: of the labels.
        columns: of the test split, by name.
        smoke: whether only a sliver of the samples is there, on which nothing passes anyhow.

    Raises:
        UsageError: the policy asks for what the task does not have, or nothing could pass by it.
    """
    columns = {LABEL: Column(labels, tuple(class_names)), **columns}
    named = (*(("slices", c) for c in policy.slices), ("cluster", policy.cluster), ("query", policy.query))
    for key, column in named:
        if column is not None and column not in columns and (key, column) != ("query", SAMPLE):
            raise UsageError(
                f"gate.{key}: the task names no column {column!r}",
                hint=nearest(
                    column, columns, f"columns: {', '.join(columns)}; [task.columns] names further ones"
                ),
            )
    check_metric(policy, labels, class_names, "test")
    for name, asked in policy.slices.items():
        if not smoke and (unknown := [v for v in asked.values if v not in columns[name].values]):
            known = columns[name].values
            hint = nearest(unknown[0], known, f"values: {', '.join(known[:10])}")
            raise UsageError(f"gate.slices.{name}.values: no sample is {unknown[0]!r}", hint=hint)
    if smoke:
        return None
    if policy.cluster is not None:
        clusters = columns[policy.cluster].codes
        if gate.is_nearest(policy.judged) and policy.query is not None:
            clusters = clusters[with_a_like(policy, columns[policy.query].codes, clusters)]
        _check_clusters(policy, columns, clusters)
    return gate.joint_power({name: _counts(columns[name]) for name in policy.slices}, policy)


def _check_clusters(policy: GateConfig, columns: Mapping[str, Column], clusters: NDArray[np.int64]) -> None:
    """Joint power is not known of clusters; whether there is any is."""
    if few := gate.too_few_clusters(clusters):
        raise UsageError(f"gate.cluster = {policy.cluster!r}: {few}", hint="more of them in the test split")
    for name, asked in policy.slices.items():
        for code, value in enumerate(columns[name].values):
            of = columns[name].codes == code
            few = gate.too_few_clusters(clusters[of])
            if asked.mandatory and of.any() and (few or of.sum() < asked.min_slice_n):
                raise UsageError(
                    f"gate.slices: {name} = {value} can never pass: "
                    + (few or f"{of.sum():,} samples, min_slice_n is {asked.min_slice_n:,}"),
                    hint="more samples, fewer mandatory slices, or mandatory = false",
                )


def _counts(column: Column) -> dict[str, int]:
    counts = np.bincount(column.codes, minlength=len(column.values)).tolist()
    return dict(zip(column.values, counts, strict=True))


def _judge_file(artifact: ArtifactRecord, report: Report, folder: Path, policy: GateConfig) -> list[Check]:
    """What the file itself is held to."""
    target = str(artifact.target)
    budgets = _budgets(report.gate, target)
    found = _measurements(report, target, folder)
    own = found.get(artifact.id)
    # The same network in float; where the teacher itself is compressed, that is the teacher's file.
    floats = [a.id for role in ("student_float", "teacher_float") for a in report.artifacts if a.role == role]
    reference = next((found[name] for name in floats if name in found), None)
    checks = [
        gate.judge_size(artifact.size_bytes, budgets.size_bytes, target),
        gate.judge_latency(own, budgets.latency_ms_p90, target),
        gate.judge_memory(own, budgets.peak_memory_bytes, target),
        gate.judge_int8_share(_inventory(artifact), policy.min_int8_share, artifact.scheme, target),
    ]
    if artifact.outputs_from is not None:
        checks.append(_judge_device(artifact, artifact.outputs_from))
    if "wi8" in artifact.scheme and not artifact.scheme.startswith("weight_only"):  # they save no time
        faster = gate.judge_int8_beats_float(own, reference, target)
        if not policy.int8_beats_float:
            detail = f"not asked for by the policy; {faster.detail}"
            faster = replace(faster, status=Status.NOT_APPLICABLE, detail=detail)
        checks.append(faster)
    return checks


def _judge_device(artifact: ArtifactRecord, outputs: DeviceOutputs) -> Check:
    """Does the device compute what the same file computes on this computer?"""
    p = outputs.parity
    found = Parity(**{name: getattr(p, name) for name in type(p).model_fields})
    half = outputs.delegate == "gpu" and artifact.format == "tflite"  # LiteRT's, unless asked for float32
    scheme = "fp16" if half and artifact.scheme == "fp32" else artifact.scheme
    complaint = complaint_of(found, scheme, outputs.output_range)
    unit, observed = ("steps", p.mean_steps) if p.mean_steps is not None else ("", p.max_abs)
    same = f"same class on {p.argmax_agreement:.2%} of {p.num_samples:,} samples"
    said = f"on {outputs.device}, in {outputs.backend}, beside this computer's outputs of the same file: "
    said += complaint or f"largest difference {p.max_abs:.3g}, {same}"
    status = Status.FAIL if complaint else Status.PASS
    return Check("device_parity", str(artifact.target), observed, None, unit, status, said)


def _judge_against(
    artifact: ArtifactRecord,
    teacher: Predictions,
    report: Report,
    folder: Path,
    policy: PolicyGate,
    against: Against,
) -> list[Check]:
    """What a file is held to beside the baseline report's file for the same target."""
    target, old = str(artifact.target), against.report
    checks = []
    if old.data.splits.test.sha256 == report.data.splits.test.sha256:
        teacher_then = replace(read_teacher(old, against.folder), columns={})  # named otherwise, perhaps
        pair = gate.pair(teacher, teacher_then)
        checks.append(gate.judge_same_teacher(pair, target))
    else:
        detail = (
            "the baseline report was judged on another test split: its teacher cannot be told to be the same"
        )
        checks.append(Check("same_teacher", target, None, 0, "samples", Status.INCONCLUSIVE, detail))
    before = next((a for a in old.artifacts if a.role == "target" and a.target == target), None)
    if policy.max_size_ratio is not None:
        size = None if before is None else before.size_bytes
        checks.append(gate.judge_size_ratio(artifact.size_bytes, size, policy.max_size_ratio, target))
    if policy.max_latency_ratio is not None:
        own = _measurements(report, target, folder).get(artifact.id)
        then = None if before is None else _measurements(old, target, against.folder).get(before.id)
        differs = ", ".join(host_differences(machine_of(old, target), machine_of(report, target)))
        checks += gate.judge_latency_ratio(own, then, policy.max_latency_ratio, target, other_host=differs)
    return checks


def _measurements(report: Report, target: str, folder: Path) -> dict[str, Measurement]:
    records = [m for m in report.measurements if m.target == target]
    return {m.artifact_id: read_measurement(m, folder) for m in records}


def _budgets(stored: Mapping[str, Any], target: str) -> BudgetConfig:
    budgets = stored.get("budgets")
    if not isinstance(budgets, Mapping) or target not in budgets:
        raise DataError(f"report: gate.budgets has no entry for target {target!r}")
    return build(BudgetConfig, budgets[target], f"report gate.budgets.{target}")


def _inventory(artifact: ArtifactRecord) -> Inventory | None:
    record = artifact.inventory
    if record is None:
        return None
    if odd := next((name for name in record.ops if "/" not in name), None):
        raise DataError(f"report: inventory of {artifact.id}: {odd!r} is not of the form TYPE/dtype")
    # One by one they are not judged, and a report may claim any number of them.
    return Inventory((), record.int8_ops, record.float_ops)
