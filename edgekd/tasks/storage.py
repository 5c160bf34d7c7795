"""A task as a folder: one .npy an array, mapped into memory when read, and task.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import DataError, StoreError
from edgekd.types import VECTOR, InputSpec, Metric, Split, Task

FORMAT = 2


def save(task: Task, folder: Path) -> None:
    """Write `task` below `folder`, which is made where it is missing.

    Raises:
        DataError: the task's notes hold something that JSON cannot give back as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    notes = dict(task.notes)
    try:
        exact = json.loads(json.dumps(notes, allow_nan=False)) == notes
    except (TypeError, ValueError):
        exact = False
    if not exact:
        raise DataError(
            f"the notes of task {task.name!r} do not survive JSON",
            hint="use text, numbers, lists and objects with text keys",
        )
    head = {
        "format": FORMAT,
        "name": task.name,
        "metrics": [asdict(metric) for metric in task.metrics],
        "input_spec": asdict(task.input_spec),
        "class_names": list(task.class_names),
        "notes": notes,
        "splits": [
            {"name": s.name, "labelled": s.labels is not None, "columns": list(s.columns)}
            for s in task.splits.values()
        ],
        "modalities": {name: asdict(spec) for name, spec in task.modalities.items()},
        "heads": {name: list(classes) for name, classes in task.heads.items()},
        "table": task.table,
        "files": dict(task.files),
        "vector": task.vector,
    }
    for name, split in task.splits.items():
        np.save(folder / f"{name}.ids.npy", np.asarray(split.ids), allow_pickle=False)
        np.save(folder / f"{name}.inputs.npy", np.ascontiguousarray(split.inputs), allow_pickle=False)
        if split.labels is not None:
            np.save(folder / f"{name}.labels.npy", np.asarray(split.labels), allow_pickle=False)
        for question, labels in split.head_labels.items():
            np.save(folder / f"{name}.labels-{question}.npy", np.asarray(labels), allow_pickle=False)
        for modality, inputs in split.modalities.items():
            path = folder / f"{name}.inputs-{modality}.npy"
            np.save(path, np.ascontiguousarray(inputs), allow_pickle=False)
        for number, texts in enumerate(split.columns.values()):  # whose names may be no file's
            np.save(folder / f"{name}.column-{number}.npy", np.asarray(texts), allow_pickle=False)
    (folder / "task.json").write_text(json.dumps(head, indent=1, allow_nan=False), encoding="utf-8")


def load(folder: Path) -> Task:
    """The task that `save` wrote there, value for value. Its arrays are read-only memory maps.

    Raises:
        StoreError: something is missing or is not what `save` writes.
    """
    try:
        head = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        if head["format"] != FORMAT:
            raise ValueError(f"format {head['format']}, this version reads {FORMAT}")
        heads = (*head["heads"], *((VECTOR,) if head.get("vector") else ()))
        return Task(
            name=head["name"],
            splits={s["name"]: _load_split(folder, s, head["modalities"], heads) for s in head["splits"]},
            metrics=tuple(Metric(**metric) for metric in head["metrics"]),
            input_spec=_input_spec(head["input_spec"]),
            class_names=tuple(head["class_names"]),
            notes=head["notes"],
            modalities={name: _input_spec(spec) for name, spec in head["modalities"].items()},
            heads={name: tuple(classes) for name, classes in head["heads"].items()},
            table=head.get("table"),  # earlier versions knew of none
            files=head.get("files", {}),
            vector=head.get("vector", 0),
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise StoreError(
            f"{folder}: not a stored task: {error}", hint="delete the folder; the task is then read anew"
        ) from None


def _load_split(
    folder: Path, said: Mapping[str, Any], modalities: Iterable[str], heads: Iterable[str]
) -> Split:
    name, labelled = said["name"], said["labelled"]
    ids, inputs = _array(folder / f"{name}.ids.npy"), _array(folder / f"{name}.inputs.npy")
    labels = _array(folder / f"{name}.labels.npy") if labelled else None
    others = {modality: _array(folder / f"{name}.inputs-{modality}.npy") for modality in modalities}
    of_heads = {head: _array(folder / f"{name}.labels-{head}.npy") for head in heads if labelled}
    # A split that was stored by an earlier version has no columns.
    columns = {
        column: _array(folder / f"{name}.column-{number}.npy")
        for number, column in enumerate(said.get("columns", ()))
    }
    arrays = (inputs, labels, *others.values(), *of_heads.values(), *columns.values())
    if any(len(array) != len(ids) for array in arrays if array is not None):
        raise ValueError(f"the arrays of split {name!r} differ in length")
    return Split(name, ids, inputs, labels, others, of_heads, columns)


def _array(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _input_spec(data: dict[str, Any]) -> InputSpec:
    tuples = {key: tuple(data[key]) for key in ("shape", "raw_range", "mean", "std")}
    return InputSpec(**{**data, **tuples})
