"""The plan of a run: every stage, what it depends on, and the key its result is stored under.

Keys are computed before anything runs, from configs, data fingerprints and library
versions, so a finished run is recognised without torch, and `--dry-run` can tell what is
cached. Stages form a tree: targets that want the same thing share one node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd import demands, lessons, models, processes, tasks, teachers
from edgekd.config import (
    CalibrationPolicy,
    DistillConfig,
    ModelConfig,
    Recipe,
    Target,
    TeacherConfig,
)
from edgekd.devices.places import Place
from edgekd.emissions import emit
from edgekd.errors import UsageError
from edgekd.latency import given
from edgekd.latency.profile import clock_here
from edgekd.latency.table import Clock
from edgekd.nodes import BYTES_PER_WEIGHT, STATIC, Builder, Plan
from edgekd.sources import hashes_of, source_of
from edgekd.store import Store, hash_of
from edgekd.types import ACCURACY
from edgekd.user_code import check_call


def make_plan(
    recipe: Recipe,
    targets: tuple[Target, ...],
    policy: CalibrationPolicy,
    store: Store,
    host: Mapping[str, Any],
    objects: Mapping[str, str] | None = None,
    places: Mapping[str, Place] | None = None,
) -> Plan:
    """Works out every node of a run.

    Args:
        recipe: the chain.
        targets: profiles to emit for.
        policy: calibration policy.
        store: remembers the hashes of source files.
        host: what identifies this computer for measurements.
        objects: role (teacher, student, task) -> fingerprint of objects passed in Python.
        places: target -> the device that its file is judged on; this computer for the others.
    """
    demands.check_losses(recipe)
    builder = Builder(recipe.seed, store, _watched(recipe, store))
    objects = objects or {}
    data = builder.add("data", "data", _data_config(recipe, store, objects), {})
    if (columns := recipe.task.columns) is not None:
        # Nothing is made from them but the verdict: whoever slices otherwise trains nothing anew.
        file = _columns_sha256(recipe, store)
        builder.add("columns", "columns", {"names": list(columns.names), "file": file}, {"data": data})
    teacher = None if recipe.teacher is None else _teacher(builder, recipe.teacher, data, objects)
    student = _student(builder, recipe, data, teacher, objects)
    calibration = builder.add(
        "calibration", "calibration", {"policy": policy.model_dump(), "smoke": recipe.smoke}, {"data": data}
    )
    prune = recipe.prune
    whose = (
        given.clocks(prune, targets, store, host) if prune is not None and prune.goal == "latency_ms" else {}
    )
    networks = {
        target.name: _pruned(builder, recipe, target, data, teacher, student, whose.get(target.name))
        for target in targets
    }
    emissions = {
        target.name: emit(
            builder,
            recipe,
            target,
            data,
            teacher,
            networks[target.name],
            calibration,
            places.get(target.name) if places else None,
            host,
            _clocks(recipe, [t for t in targets if networks[t.name] == networks[target.name]], host),
        )
        for target in targets
    }
    return Plan(recipe, targets, policy, tuple(builder.nodes.values()), emissions)


def _watched(recipe: Recipe, store: Store) -> dict[str, Any] | None:
    """What stages go by on val, if not by accuracy."""
    if recipe.gate.judged == ACCURACY:
        return None
    query = recipe.gate.query
    columns = None if query is None else _columns_sha256(recipe, store)
    return {"metric": recipe.gate.metric, "query": query, "columns": columns}


def _columns_sha256(recipe: Recipe, store: Store) -> str | None:
    """Of a file with columns of the samples; of a task's own columns the data tell."""
    columns = recipe.task.columns
    if columns is None or columns.file is None:
        return None
    return str(source_of("task.columns.file", columns.file, store)["sha256"])


def _clocks(recipe: Recipe, targets: Sequence[Target], host: Mapping[str, Any]) -> list[Clock]:
    """Those that layers in float are weighed by, of all targets that one quantized network serves.

    A delegate that files are judged without here (`emissions.stand_in`) has no clock here.
    """
    if recipe.quantize is None or not recipe.quantize.chooses_floats:
        return []
    timed = [t for t in targets if t.artifact.scheme == STATIC and not t.runtime.on_gpu]
    found = {clock.label: clock for clock in (clock_here(target, host) for target in timed)}
    return [found[label] for label in sorted(found)]


def _data_config(recipe: Recipe, store: Store, objects: Mapping[str, str]) -> dict[str, Any]:
    said = recipe.task.model_dump(exclude=tasks.BESIDE)
    if recipe.task.kind == "object":
        return {"object": objects["task"], "task": said}
    fingerprint = tasks.fingerprint(recipe.task, hash_file=store.hash_file)
    return {"task": said, "fingerprint": fingerprint}


def _model_config(
    role: str, config: ModelConfig, checkpoint: str | None, store: Store, fingerprint: str | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"model": config.model_dump(), "role": role}
    if (option := models.SOURCES.get(config.kind)) is not None and option in config.options:
        source = source_of(f"{role}.model.{option}", str(config.options[option]), store)
        found["model"][option], found["source_sha256"] = source["path"], source["sha256"]
    if config.kind == "object":
        found["object"] = fingerprint
    else:
        models.check(config)
    if ":" in config.kind:
        found["source"] = hashes_of(config.kind, "model", config.options, store)
    if checkpoint is not None:
        path = tasks.expand_path(checkpoint, f"{role}.checkpoint")
        if not path.is_file():
            raise UsageError(f"{role}.checkpoint = {checkpoint!r}: no such file")
        found["checkpoint"], found["checkpoint_sha256"] = str(path), store.hash_file(path)
    return found


def _teacher(
    builder: Builder,
    config: TeacherConfig,
    data: str,
    objects: Mapping[str, str],
    label: str = "teacher",
) -> str:
    if config.members:
        members = {
            f"member{i}": _teacher(
                builder,
                member.model_copy(update={"modality": config.modality}),
                data,
                objects,
                f"{label}-{i}",
            )
            for i, member in enumerate(config.members, start=1)
        }
        weighed = {"combine": config.combine, "weights": config.weights, "modality": config.modality}
        return builder.add(label, "ensemble", weighed, {"data": data, **members})
    said: dict[str, Any] = {"role": label, "outputs": config.outputs, "modality": config.modality}
    if config.function is not None:
        name = config.function.kind
        if config.function.fit:
            check_call(name, "teacher", {**config.function.options, "seed": 0}, given=2)
        else:
            check_call(name, "teacher", config.function.options, given=1)
        for named in config.function.files:
            source_of("teacher.function.files", named, builder.store)
        options = {**config.function.options, "files": list(config.function.files)}
        read = hashes_of(name, "teacher", options, builder.store)
        said |= {"function": config.function.model_dump(), "source": read}
        return builder.add(label, "file", said, {"data": data})
    model = config.model
    if config.file is not None:
        file = source_of("teacher.file", config.file, builder.store)
        kind = teachers.kind_of(Path(file["path"]))
        if kind not in teachers.NETWORKS:
            return builder.add(label, "file", {**said, **file}, {"data": data})
        model = ModelConfig.model_validate({"kind": kind, models.SOURCES[kind]: file["path"]})
    assert model is not None  # the recipe was checked
    found = _model_config(label, model, config.checkpoint, builder.store, objects.get(label))
    found["train"] = config.train.model_dump() if config.train else None
    return builder.add(label, "network", {**found, **said}, {"data": data})


def _student(
    builder: Builder,
    recipe: Recipe,
    data: str,
    teacher: str | None,
    objects: Mapping[str, str],
) -> str:
    """The label of the network (or ONNX file) that is compressed."""
    student = recipe.student
    if student is None:
        assert teacher is not None  # the recipe was checked
        if builder.nodes[teacher].stage != "network":
            raise UsageError("a teacher that is no network cannot be compressed", hint="give [student]")
        return teacher
    if student.onnx is not None:
        file = {
            **source_of("student.onnx", student.onnx, builder.store),
            "role": "student",
            "outputs": "logits",
        }
        return builder.add("student", "file", file, {"data": data})
    assert student.model is not None
    config = _model_config(
        "student", student.model, student.checkpoint, builder.store, objects.get("student")
    )
    if recipe.distill is None:
        return builder.add("student", "network", {**config, "train": None}, {"data": data})
    for i, assistant in enumerate(recipe.assistants, start=1):
        between = _model_config(f"assistant-{i}", assistant.model, None, builder.store, None)
        teacher = _distilled(builder, f"assistant-{i}", between, assistant.distill, data, teacher)
    return _distilled(builder, "student", config, recipe.distill, data, teacher)


def _distilled(
    builder: Builder,
    label: str,
    network: dict[str, Any],
    config: DistillConfig,
    data: str,
    teacher: str | None,
) -> str:
    told = lessons.told(builder, config, data, teacher)
    said = {**network, "train": None, "distill": config.model_dump(), **lessons.own_losses(builder, config)}
    return builder.add(label, "distill", said, {"data": data, **told})


def _pruned(
    builder: Builder,
    recipe: Recipe,
    target: Target,
    data: str,
    teacher: str | None,
    student: str,
    whose: given.Whose | None,
) -> str:
    if recipe.prune is None:
        return student
    # A table counts by what it holds, wherever it lies.
    settings = recipe.prune.model_dump(exclude={"latency_tables", "stand_in"})
    config: dict[str, Any] = {"prune": settings, **lessons.own_losses(builder, recipe.prune)}
    if whose is not None:
        config["clock"] = whose.clock.model_dump()
        if whose.table_sha256 is not None:
            config["table_sha256"] = whose.table_sha256
        if processes.count() > 1:
            raise UsageError(
                'prune.goal = "latency_ms" is for one process: what trains together would disturb the clock, '
                "and might choose other widths",
                hint="run this recipe in one process",
            )
        identity = hash_of([config["clock"], whose.table_sha256] if whose.table_sha256 else config["clock"])
        label = f"prune-{target.runtime.name}-{identity[:6]}"
    elif recipe.prune.goal == "nonzero_weights":
        label = "prune"
    else:
        emission = target.artifact
        width = BYTES_PER_WEIGHT[emission.scheme] if recipe.prune.goal == "size_bytes" else 4
        config |= {"channel_multiple": emission.channel_multiple, "bytes_per_weight": width}
        label = f"prune-{emission.channel_multiple}" + (
            f"-{width}" if recipe.prune.goal == "size_bytes" else ""
        )
    told = lessons.told(builder, recipe.prune, data, teacher)
    return builder.add(label, "prune", config, {"data": data, **told, "network": student})
