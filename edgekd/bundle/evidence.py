"""What a report says, made anew from what it rests on: predictions, timings, files, recipe, targets, log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import gate, judgement_log
from edgekd.config import GateConfig, Recipe, Target, build
from edgekd.errors import EvidenceError
from edgekd.figures import with_figures
from edgekd.judgement import counted, judged, past_judgements, policy_on
from edgekd.metric_values import metric_values
from edgekd.report.schema import (
    ArtifactRecord,
    FileRecord,
    MeasurementRecord,
    MetricValue,
    PredictionsFile,
    Report,
)
from edgekd.rooflines import with_rooflines
from edgekd.stored import read_measurement, read_predictions, read_teacher
from edgekd.types import Predictions

# Other processors and library versions round the last digits otherwise.
_CLOSE = 1e-6


def check_evidence(report: Report, folder: Path, targets: Sequence[Target]) -> Report:
    """The report judged again from its folder, all of it that can be made anew being the same.

    What only the run itself saw is taken as it is: parameters, seconds, parity, operators, memory, speed-ups,
    robust accuracy, latency tables, sensitivity, and the wording of checks.

    Raises:
        EvidenceError: naming the first key that does not follow from what lies in the folder.
        DataError: what the report rests on is missing or changed.
    """
    recipe = build(Recipe, report.recipe.config, "report.json: recipe")
    log = past_judgements(report, folder)
    entered = judgement_log.judgement_of(report, recipe.gate)
    if not log or not log[-1].is_same(entered):
        raise EvidenceError(f"{judgement_log.FILE}: its last judgement is not the one of report.json")
    again = _remade(report, folder, recipe, targets)
    again = judged(counted(again, log), folder, recipe.gate)
    if difference := _difference(_plain(report), _plain(again), ""):
        raise EvidenceError(f"report.json: {difference}")
    return again


def _remade(report: Report, folder: Path, recipe: Recipe, targets: Sequence[Target]) -> Report:
    shipped = [a.target for a in report.artifacts if a.role == "target"]
    if shipped != [t.name for t in targets] or tuple(shipped) != recipe.targets:
        raise EvidenceError(
            f"report.json: files for {shipped}, where the recipe asks for {[*recipe.targets]}"
        )
    baseline = read_teacher(report, folder)
    test = report.data.splits.test.model_copy(update={"n": len(baseline.labels)})
    splits = report.data.splits.model_copy(update={"test": test})
    report = report.model_copy(
        update={
            "gate": {
                "policy": recipe.gate.model_dump(mode="json"),
                "budgets": {t.name: t.budgets.model_dump(mode="json") for t in targets},
                "targets": {t.name: t.gate.model_dump(mode="json", exclude_defaults=True) for t in targets},
            },
            "data": report.data.model_copy(update={"splits": splits}),
            "teacher": report.teacher.model_copy(
                update={"metrics": metric_values(baseline, None, recipe.gate)}
            ),
        }
    )
    stages = [
        s.model_copy(update={"metrics": _metrics(s.predictions, folder, baseline, report, recipe.gate)})
        for s in report.stages
    ]
    artifacts = [_artifact(a, folder, baseline, report, recipe) for a in report.artifacts]
    measurements = [_measurement(m, folder) for m in report.measurements]
    report = report.model_copy(
        update={
            "stages": tuple(stages),
            "artifacts": tuple(artifacts),
            "measurements": tuple(measurements),
        }
    )
    return with_rooflines(with_figures(report, folder, recipe.gate), folder, targets)


def _metrics(
    stored: PredictionsFile | None, folder: Path, baseline: Predictions, report: Report, policy: GateConfig
) -> tuple[MetricValue, ...]:
    if stored is None:
        raise EvidenceError("report.json: a stage or file has no stored predictions")
    own = report.teacher.predictions
    if own is not None and (stored.path, stored.sha256) == (own.path, own.sha256):
        return metric_values(baseline, None, policy)
    return metric_values(read_predictions(stored, folder), baseline, policy)


def _artifact(
    a: ArtifactRecord, folder: Path, baseline: Predictions, report: Report, recipe: Recipe
) -> ArtifactRecord:
    if a.predictions is None:
        raise EvidenceError(f"report.json: {a.id} has no stored predictions")
    found = read_predictions(a.predictions, folder)
    files = tuple(_file(f, folder) for f in a.files)
    more: dict[str, Any] = {"files": files, "size_bytes": sum(f.size_bytes for f in files)}
    if a.role == "target":
        policy = policy_on(report, recipe.gate, str(a.target))
        seen = gate.compare(baseline, found, None, recipe.gate.alpha)
        more |= {
            "required": a.target in recipe.required_targets,
            "metrics": metric_values(found, baseline, recipe.gate, policy),
            "agreement": seen.agreement,
            "negative_flip_rate": seen.negative_flip_rate,
            "kl_divergence": seen.kl_divergence,
        }
    else:
        more["metrics"] = metric_values(found, baseline, recipe.gate)
    return a.model_copy(update=more)


def _file(file: FileRecord, folder: Path) -> FileRecord:
    return file.model_copy(update={"size_bytes": (folder / file.path).stat().st_size})


def _measurement(m: MeasurementRecord, folder: Path) -> MeasurementRecord:
    timed = read_measurement(m, folder)
    values = timed.latency_ms
    return m.model_copy(
        update={
            "num_runs": len(values),
            "num_processes": len(np.unique(timed.process)),
            "median_ms": float(np.median(values)),
            "p90_ms": float(np.percentile(values, 90)),
            "p99_ms": float(np.percentile(values, 99)) if len(values) >= 1000 else None,
            "process_medians_ms": tuple(timed.process_medians_ms),
        }
    )


def _plain(report: Report) -> dict[str, Any]:
    """What is compared: all but the wording of checks, in which digits are rounded."""
    found = report.model_dump(mode="json")
    for check in found["verdict"]["checks"]:
        check.pop("detail")
    for artifact in found["artifacts"]:
        for one in artifact["slices"]:
            one.pop("reason")
    return found


def _difference(said: Any, seen: Any, where: str) -> str:
    """The first key in which two documents differ, both values named; empty where none does."""
    if isinstance(said, Mapping) and isinstance(seen, Mapping):
        keys = sorted(said.keys() | seen.keys())
        parts = ((said.get(k), seen.get(k), f"{where}.{k}" if where else k) for k in keys)
    elif isinstance(said, list) and isinstance(seen, list):
        if len(said) != len(seen):
            return f"{where} has {len(said)} entries, the evidence {len(seen)}"
        parts = ((a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(said, seen, strict=True)))
    else:
        numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (said, seen))
        alike = math.isclose(said, seen, rel_tol=_CLOSE, abs_tol=1e-12) if numbers else said == seen
        return "" if alike else f"{where} is {said!r}, the evidence says {seen!r}"
    return next((found for a, b, at in parts if (found := _difference(a, b, at))), "")
