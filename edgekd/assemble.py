"""From the results of the stages to a run's folder: artifacts, predictions, timings, report.

Reads the store, trains and measures nothing, imports no torch: a finished run is
assembled again in a second.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import gate, judgement_log, stage_facts
from edgekd import timings as timings_of
from edgekd.config import GateConfig, Target
from edgekd.emissions import evaluation_of
from edgekd.figures import with_figures
from edgekd.gallery import with_gallery
from edgekd.judgement import logged
from edgekd.metric_values import metric_values
from edgekd.nodes import BOTH, TEST_SCORES, Emission, Node, Plan
from edgekd.report import schema
from edgekd.report.files import REPORTS
from edgekd.rooflines import with_rooflines
from edgekd.stages import judged
from edgekd.stages.context import Context
from edgekd.store import Entry, deflated_size, no_space_is_clear, sha256_file
from edgekd.types import ACCURACY, Predictions

NETWORK_STAGES = ("network", "file", "ensemble", "distill", "prune", "quantize")
FOLDERS = ("artifacts", "predictions", "measurements")


@dataclass(frozen=True)
class Assembly:
    """What the parts of a report are made from."""

    context: Context
    folder: Path
    host: Mapping[str, Any]
    versions: Mapping[str, str]
    baseline: Predictions
    baseline_label: str

    @property
    def plan(self) -> Plan:
        """The run's plan."""
        return self.context.plan


def assemble(
    context: Context, folder: Path, host: Mapping[str, Any], versions: Mapping[str, str]
) -> schema.Report:
    """Builds, judges and returns the report of a finished run; its files are in `folder` afterwards.

    Args:
        context: with the results of every node of the plan.
        folder: the workdir.
        host: the computer of the run, for the record.
        versions: of the libraries that the run had.
    """
    label = "teacher" if context.plan.recipe.teacher is not None else "student"
    baseline = replace(_predictions(context, context.entries[label]), columns=context.columns)
    new = folder / ".assembling"
    shutil.rmtree(new, ignore_errors=True)
    with no_space_is_clear(folder):
        for name in (*FOLDERS, "predictions/stages", "predictions/files"):
            (new / name).mkdir(parents=True)
        report = _assemble(Assembly(context, new, host, versions, baseline, label))
    # An old report goes before its files do: a kill in between leaves no verdict beside other files.
    for name in REPORTS:
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
        (new / name).rename(folder / name)
    (new / judgement_log.FILE).replace(folder / judgement_log.FILE)
    new.rmdir()
    return report


def _assemble(made: Assembly) -> schema.Report:
    context, folder, policy = made.context, made.folder, made.plan.recipe.gate
    stages = [_stage(made, node) for node in _in_the_chain(made.plan)]
    report = _report(made, stages, *_artifacts(made))
    report = with_figures(report, folder, policy)
    report = with_rooflines(report, folder, made.plan.targets)
    report = with_gallery(report, folder, context.task, made.plan.recipe.report.gallery)
    return logged(report, folder, policy, context.store.root)


def _report(
    made: Assembly,
    stages: list[schema.StageRecord],
    artifacts: list[schema.ArtifactRecord],
    measurements: list[schema.MeasurementRecord],
) -> schema.Report:
    plan, entries = made.plan, made.context.entries
    data, teacher = entries["data"].result, entries[made.baseline_label].result
    floats = tuple(a.id for a in artifacts if a.role == "teacher_float")
    sizes = [a.size_bytes for a in artifacts if a.id in floats]
    return schema.Report(
        recipe=schema.RecipeRecord.model_validate(plan.recipe.model_dump(mode="json")),
        seed=plan.recipe.seed,
        versions=dict(made.versions),
        host=dict(made.host),
        devices={place["name"]: place["machine"] for place in timings_of.places(plan)},
        data=_data(data, entries),
        class_names=tuple(data["class_names"]),
        teacher=schema.TeacherRecord(
            params=teacher["params"],
            macs=teacher["macs"],
            metrics=_metrics(made, made.baseline),
            size_bytes=min(sizes) if sizes else _weights_size(made),
            artifact_ids=floats,
            not_exported=_not_exported(made),
            predictions=_store_predictions(made, f"stages/{made.baseline_label}", made.baseline),
            members=_members(made),
        ),
        stages=tuple(stages),
        artifacts=tuple(artifacts),
        measurements=tuple(measurements),
        gate={
            "policy": plan.recipe.gate.model_dump(mode="json"),
            "budgets": {t.name: t.budgets.model_dump(mode="json") for t in plan.targets},
            "targets": {t.name: t.gate.model_dump(mode="json", exclude_defaults=True) for t in plan.targets},
        },
        judgements=0,  # counted when it is judged
        # Judged next, from what is written here; until then nothing may read as a pass.
        verdict=schema.VerdictRecord(status="INCONCLUSIVE", exit_code=3, checks=()),
    )


def _members(made: Assembly) -> tuple[schema.MemberRecord, ...]:
    """What the teacher is made of, where that is several."""
    node = made.plan.node(made.baseline_label)
    if node.stage != "ensemble":
        return ()
    labels = [label for role, label in node.parents.items() if role != "data"]
    weights = made.context.entries[node.label].result["weights"] or [None] * len(labels)
    found, policy = [], made.plan.recipe.gate
    for label, weight in zip(labels, weights, strict=True):
        entry = made.context.entries[label]
        alone = replace(_predictions(made.context, entry), columns=made.baseline.columns)
        record = schema.MemberRecord(
            id=label,
            accuracy=gate.figure(alone, ACCURACY),
            value=gate.figure(alone, policy.judged, policy.query),
            weight=weight,
            seconds=entry.seconds,
        )
        found.append(record)
    return tuple(found)


def _weights_size(made: Assembly) -> int:
    """Bytes of a baseline without a float file of its own: its weights, or the file that it came from."""
    params = made.context.entries[made.baseline_label].result["params"]
    if params is not None:
        return 4 * int(params)
    if (own := made.context.entries[made.baseline_label].result.get("size_bytes")) is not None:
        return int(own)
    return min(_size(made.context.entries[e.student_float]) for e in made.plan.emissions.values())


def _not_exported(made: Assembly) -> str | None:
    """Why the teacher has no float file in some format, or None."""
    kept = {t.artifact.format for t in made.plan.targets if not made.plan.emissions[t.name].teacher_float}
    if kept and made.plan.recipe.teacher is not None:
        what = "looks at another modality" if made.plan.recipe.teacher.modality else "is no network"
        return f"a teacher that {what} is not written as {', '.join(sorted(kept))}"
    labels = dict.fromkeys(e.teacher_float for e in made.plan.emissions.values() if e.teacher_float)
    reasons = [made.context.entries[label].result.get("absent") for label in labels]
    return "; ".join(reason for reason in reasons if reason is not None) or None


def _data(data: Mapping[str, Any], entries: Mapping[str, Entry]) -> schema.Data:
    notes = dict(data["notes"])
    duplicates = notes.get("duplicates", {})
    calibration = entries["calibration"].result
    return schema.Data(
        splits=schema.Splits(
            **{
                name: schema.SplitRecord(**split, duplicates=duplicates.get(name, 0))
                for name, split in data["splits"].items()
            }
        ),
        calibration=schema.Calibration(**{**calibration, "ids": tuple(calibration["ids"])}),
        notes=notes,
    )


def _predictions(context: Context, entry: Entry) -> Predictions:
    return judged.predictions("test", np.load(entry.file(TEST_SCORES), allow_pickle=False), context)


def _store_predictions(made: Assembly, label: str, found: Predictions) -> schema.PredictionsFile:
    path = made.folder / "predictions" / f"{label}.npz"
    if not path.exists():
        arrays: dict[str, Any] = {name: column.texts for name, column in found.columns.items()}
        arrays |= {"sample_ids": found.sample_ids, "labels": found.labels, "scores": found.scores}
        if found.vectors is not None:
            arrays["vectors"] = found.vectors
        np.savez_compressed(path, **arrays)
    return schema.PredictionsFile(path=f"predictions/{label}.npz", sha256=sha256_file(path))


def _metrics(
    made: Assembly, found: Predictions, own: GateConfig | None = None
) -> tuple[schema.MetricValue, ...]:
    """As the recipe judges; `own` is what a target's file is held to."""
    baseline = None if found is made.baseline else made.baseline
    return metric_values(found, baseline, made.plan.recipe.gate, own)


def _stage(made: Assembly, node: Node) -> schema.StageRecord:
    entry = made.context.entries[node.label]
    found = made.baseline if node.label == made.baseline_label else _predictions(made.context, entry)
    return schema.StageRecord(
        id=node.label,
        parent_id=_parent(made, node),
        name=_name(node),
        targets=node.targets,
        params=entry.result["params"],
        macs=entry.result["macs"],
        metrics=_metrics(made, found),
        robust_accuracy=entry.result.get("robust_accuracy"),
        head_accuracy=entry.result.get("head_accuracy", {}),
        predicted_latency=stage_facts.predicted(made.plan, node, entry.result.get("predicted_latency")),
        removed_blocks=tuple(entry.result.get("removed_blocks", ())),
        nonzero_weights=entry.result.get("nonzero_weights"),
        sensitivity=stage_facts.sensitivity(made.context, node),
        float_layers=tuple(entry.result.get("float_layers", ())),
        float_costs_ms=entry.result.get("float_costs_ms", {}),
        seconds=entry.seconds,
        predictions=_store_predictions(made, f"stages/{node.label}", found),
    )


def _in_the_chain(plan: Plan) -> list[Node]:
    """Networks and files that come one from the other; what an ensemble is made of is none of them."""
    members = {
        label
        for node in plan.nodes
        if node.stage == "ensemble" and not node.label.startswith(BOTH)
        for role, label in node.parents.items()
        if role != "data"
    }
    chain = [node for node in plan.nodes if node.stage in NETWORK_STAGES and node.label not in members]
    return [node for node in chain if not node.label.startswith(BOTH)]


def _parent(made: Assembly, node: Node) -> str | None:
    """What a stage hangs under: the network that it changed, or, of a new one, who taught it."""
    if node.label == made.baseline_label:
        return None
    if (network := node.parents.get("network")) is not None:
        return network
    outputs = node.parents.get("outputs")
    taught_by = node.parents.get("teacher") if outputs is None else made.plan.node(outputs).parents["teacher"]
    return taught_by or made.baseline_label


def _name(node: Node) -> str:
    if node.stage in ("network", "file", "ensemble") or node.label.startswith("assistant-"):
        return node.label
    return node.stage


def _artifacts(
    made: Assembly,
) -> tuple[list[schema.ArtifactRecord], list[schema.MeasurementRecord]]:
    """Targets first, in the recipe's order; then the float references measured beside them."""
    artifacts: list[schema.ArtifactRecord] = []
    references: dict[str, schema.ArtifactRecord] = {}
    measurements: list[schema.MeasurementRecord] = []
    read: dict[str, dict[str, dict[str, Any]]] = {}  # targets of one convention share a measure stage
    for target in made.plan.targets:
        emission = made.plan.emissions[target.name]
        if emission.measure not in read:
            read[emission.measure] = timings_of.read(made.context.entries[emission.measure])
        timings = read[emission.measure]
        for role in ("teacher_float", "student_float"):
            label = getattr(emission, role)
            if label in (None, emission.export) or label in references:
                continue
            if made.context.entries[label].result.get("absent") is None:
                references[label] = _reference(made, label, role)
        artifacts.append(_artifact(made, target, emission, timings))
        # A target may ship what is another target's reference: here it is its own file.
        names = {**{label: label for label in references}, emission.export: target.name}
        measurements += [
            timings_of.record(found, target, names[label], made.plan.node(emission.measure), made.folder)
            for label, found in timings.items()
            if label in names
        ]
    return [*artifacts, *references.values()], measurements


def _artifact(
    made: Assembly, target: Target, emission: Emission, timings: Mapping[str, Mapping[str, Any]]
) -> schema.ArtifactRecord:
    entries = made.context.entries
    found = _predictions(made.context, entries[emission.evaluate])
    policy = made.plan.recipe.gate.on(target.gate)
    comparison = gate.compare(made.baseline, found, None, policy.alpha)
    own = timings[emission.export]
    teacher = student = None
    if timings_of.kind_of(own, made.plan.node(emission.measure), target) != "emulated":  # times of nothing
        teacher = timings.get(emission.teacher_float) if emission.teacher_float else None
        student = timings.get(emission.student_float) if emission.student_float != emission.export else None
    size = _size(entries[emission.export])
    teacher_size = None
    if emission.teacher_float and entries[emission.teacher_float].result.get("absent") is None:
        teacher_size = _size(entries[emission.teacher_float])
    node = made.plan.node(emission.export)
    return _record(
        made,
        emission.export,
        name=target.name,
        stage_id=node.parents["model"],
        target=target.name,
        required=target.name in made.plan.recipe.required_targets,
        role="target",
        metrics=_metrics(made, found, policy),
        head_accuracy=entries[emission.evaluate].result.get("head_accuracy", {}),
        agreement=comparison.agreement,
        negative_flip_rate=comparison.negative_flip_rate,
        kl_divergence=comparison.kl_divergence,
        speedup_over_teacher=timings_of.ratio(teacher, own, policy.alpha, made.context.seed),
        speedup_over_float=timings_of.ratio(student, own, policy.alpha, made.context.seed),
        size_ratio_to_teacher=teacher_size / size if teacher_size else None,
        predictions=_store_predictions(made, f"files/{target.name}", found),
        outputs_from=stage_facts.outputs_from(made.context, emission),
    )


def _reference(made: Assembly, label: str, role: str) -> schema.ArtifactRecord:
    entry = made.context.entries[evaluation_of(label)]
    found = _predictions(made.context, entry)
    return _record(
        made,
        label,
        name=label,
        stage_id=made.plan.node(label).parents["model"],
        target=None,
        required=False,
        role=role,
        metrics=_metrics(made, found),
        agreement=None,
        negative_flip_rate=None,
        speedup_over_teacher=None,
        speedup_over_float=None,
        size_ratio_to_teacher=None,
        predictions=_store_predictions(made, f"files/{label}", found),
    )


def _record(made: Assembly, label: str, *, name: str, **rest: Any) -> schema.ArtifactRecord:
    """An artifact's record, its file copied into the run's folder."""
    entry = made.context.entries[label]
    result, files = entry.result, list[schema.FileRecord]()
    for file in result["files"]:
        called = (
            Path(file["name"]).suffix if not files else f".{file['name']}"
        )  # the model, what goes with it
        path = f"artifacts/{name}{called}"
        shutil.copyfile(entry.file(file["name"]), made.folder / path)
        sizes = {"size_bytes": file["size_bytes"], "deflated_bytes": deflated_size(made.folder / path)}
        files.append(schema.FileRecord(path=path, sha256=file["sha256"], **sizes))
    parity = result["parity"]
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in result["input_spec"].items()}
    return schema.ArtifactRecord(
        id=name,
        format=result["format"],
        scheme=result["scheme"],
        files=tuple(files),
        size_bytes=_size(entry),
        parity=stage_facts.parity(parity) if parity else None,
        inventory=schema.InventoryRecord(**result["inventory"]),
        input_spec=schema.InputSpecRecord.model_validate(tuples),
        **rest,
    )


def _size(entry: Entry) -> int:
    return sum(int(f["size_bytes"]) for f in entry.result["files"])
