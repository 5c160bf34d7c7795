"""What is refused before anything is trained: leaks, wrong labels, values that are no numbers.

A sample of test that stands in train makes every later verdict worthless, and
no later stage could see it; so splits are compared by id and by content on
every run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekd.columns import of_samples
from edgekd.errors import DataError, UsageError
from edgekd.metric_names import metric_named
from edgekd.tasks.common import apportion, sample_hashes
from edgekd.types import VECTOR, Split, Task

# Who keeps a sample that two splits share: the judge first, the student's own data last.
PRIORITY = ("test", "val", "train", "unlabelled")
REQUIRED = ("train", "val", "test")
_SHOWN = 5


def check(task: Task, on_overlap: Literal["error", "drop_from_train"] = "error") -> Task:
    """`task` itself where nothing is wrong with it, with counts added to its notes.

    Notes: `absent_classes` names, for each split that lacks some, the first of them;
    `duplicates` counts, for each split, the samples that repeat an earlier one of the
    same split; `dropped` counts samples taken out because another split holds them too.

    Args:
        task: any task.
        on_overlap: `drop_from_train` mends an overlap: a sample also in test
            leaves val and train, one also in val leaves train, and one in any
            of these leaves unlabelled.

    Raises:
        DataError: a metric that is not known; the input spec is impossible; a split is
            missing, empty or misshapen; ids repeat; a label is out of range; an input is
            NaN or infinite; splits overlap.
    """
    _check_head(task)
    for name in (*task.heads, *task.modalities):
        if not re.fullmatch(r"[a-z0-9_]+", name) or name == VECTOR:
            raise DataError(
                f"task {task.name!r} has a head or modality called {name!r}",
                hint=f"use small letters, digits and _, and not {VECTOR!r}",
            )
    for name in REQUIRED:
        if name not in task.splits:
            raise DataError(f"task {task.name!r} has no split {name!r}")
    for name, split in task.splits.items():
        if name not in PRIORITY or split.name != name:
            raise DataError(
                f"task {task.name!r} has a split {name!r} (called {split.name!r})",
                hint=f"splits are {', '.join(PRIORITY)}",
            )
        if set(split.modalities) != set(task.modalities):
            raise DataError(
                f"split {name!r} of task {task.name!r} has the modalities {sorted(split.modalities)}, "
                f"the task says {sorted(task.modalities)}",
                hint="every split has each of them",
            )
        _check_arrays(task, split)
        _check_labels(task, split)
        _check_heads(task, split)
        _check_columns(split)
        _check_values(split)
        _check_ids(split)
    for modality in task.modalities:
        seen = task.seen_as(modality)
        _check_head(seen)
        for split in seen.splits.values():
            _check_arrays(seen, split)
            _check_values(split)
    task = _without_overlap(task, on_overlap)
    duplicates = {n: len(s) - len(set(sample_hashes(s.inputs))) for n, s in task.splits.items()}
    notes = {key: value for key, value in task.notes.items() if key != "absent_classes"}
    if absent := _absent_classes(task):
        notes["absent_classes"] = absent
    return replace(task, notes={**notes, "duplicates": duplicates})


def _absent_classes(task: Task) -> dict[str, list[str]]:
    """Split -> classes that none of its samples is of, five at most; of splits without labels nothing."""
    found = {}
    for name, split in task.splits.items():
        if split.labels is not None:
            gone = np.setdiff1d(np.arange(task.num_classes), split.labels)
            if len(gone):
                found[name] = [task.class_names[i] for i in gone[:_SHOWN]]
    return found


def _check_head(task: Task) -> None:
    spec = task.input_spec
    for metric in task.metrics:
        try:
            known = metric_named(metric.name)
        except UsageError as error:
            raise DataError(f"task {task.name!r}: {error.message}", hint=error.hint) from None
        if metric != known:
            raise DataError(f"task {task.name!r} has the metric {metric}, which is {known}")
    if not task.metrics:
        raise DataError(f"task {task.name!r} has no metrics", hint="metrics=(ACCURACY,), or what suits it")
    if task.vector < 0:
        raise DataError(f"task {task.name!r} has vector = {task.vector}", hint="its width, or 0")
    if len(task.class_names) < 2:
        raise DataError(f"task {task.name!r} has {len(task.class_names)} classes, two are needed at least")
    if len(spec.shape) != {"NCHW": 3, "NC": 1}[spec.layout] or min(spec.shape) < 1:
        raise DataError(
            f"input_spec of task {task.name!r}: shape {spec.shape} is not of layout {spec.layout}"
        )
    if spec.of_ids:
        if spec.mean or spec.std or spec.scale != 1 or spec.layout != "NC":
            raise DataError(
                f"input_spec of task {task.name!r}: ids (int32) are fed as they are",
                hint='layout "NC", scale 1, mean and std ()',
            )
        return
    for key, values in (("mean", spec.mean), ("std", spec.std)):
        if len(values) != spec.shape[0]:
            raise DataError(
                f"input_spec of task {task.name!r}: {key} has {len(values)} values,"
                f" one for each of {spec.shape[0]} channels is needed"
            )
    numbers = np.array([*spec.mean, *spec.std, spec.scale])
    if not np.isfinite(numbers).all() or not spec.scale or not all(spec.std):
        raise DataError(
            f"input_spec of task {task.name!r}: mean, std and scale must be finite, the last two not 0"
        )


def _check_arrays(task: Task, split: Split) -> None:
    spec = task.input_spec
    if not len(split):
        raise DataError(f"split {split.name!r} of task {task.name!r} is empty")
    wanted = (len(split), *spec.shape)
    if split.inputs.shape != wanted or split.inputs.dtype != np.dtype(spec.raw_dtype):
        raise DataError(
            f"split {split.name!r}: inputs are {split.inputs.dtype} {split.inputs.shape},"
            f" the input spec says {spec.raw_dtype} {wanted}"
        )
    low, high = spec.raw_range
    if spec.of_ids and (low < 0 or split.inputs.min() < low or split.inputs.max() > high):
        raise DataError(
            f"split {split.name!r}: ids from {split.inputs.min()} to {split.inputs.max()},"
            f" the input spec says {low:g} to {high:g}, from 0 up"
        )


def _check_labels(task: Task, split: Split) -> None:
    if split.labels is None:
        if split.name in ("train", "unlabelled"):
            return
        raise DataError(f"split {split.name!r} has no labels", hint="it is what networks are judged on")
    if split.labels.shape != (len(split),) or split.labels.dtype != np.int64:
        raise DataError(
            f"split {split.name!r}: labels are {split.labels.dtype} {split.labels.shape},"
            f" expected int64 ({len(split)},)"
        )
    wrong = np.flatnonzero((split.labels < 0) | (split.labels >= task.num_classes))
    if len(wrong):
        at = wrong[0]
        raise DataError(
            f"split {split.name!r}, sample {str(split.ids[at])!r}: label {split.labels[at]} is outside"
            f" 0..{task.num_classes - 1} ({len(wrong)} such labels)"
        )


def _check_heads(task: Task, split: Split) -> None:
    """Every head has labels wherever the samples have some."""
    if split.labels is None:
        if split.head_labels:
            raise DataError(
                f"split {split.name!r} has labels of the heads {sorted(split.head_labels)} "
                "and none of its classes",
                hint="give both, or neither",
            )
        return
    heads = {head for head in task.parts if head}
    if set(split.head_labels) != heads:
        raise DataError(
            f"split {split.name!r} has labels of the heads {sorted(split.head_labels)}, "
            f"task {task.name!r} has {sorted(heads)}"
        )
    if task.vector:
        same = split.head_labels[VECTOR]
        if same.shape != (len(split),) or same.dtype != np.int64 or same.min(initial=0) < 0:
            raise DataError(
                f"split {split.name!r}: head_labels[{VECTOR!r}] is {same.dtype} {same.shape}, expected "
                f"int64 ({len(split)},), from 0 up: equal for samples that are the same thing"
            )
    for head, names in task.heads.items():
        if len(names) < 2:
            raise DataError(f"head {head!r} of task {task.name!r} has {len(names)} classes, two are needed")
        own = replace(split, name=f"{split.name} of head {head}", labels=split.head_labels[head])
        _check_labels(replace(task, class_names=names), own)


def _check_columns(split: Split) -> None:
    where = f"split {split.name!r}"
    for name, values in split.columns.items():
        if not isinstance(values, np.ndarray):
            raise DataError(
                f"{where}: column {name!r} is a {type(values).__name__}, expected an array of text"
            )
        if values.shape != (len(split),) or values.dtype.kind != "U":
            raise DataError(
                f"{where}: column {name!r} is {values.dtype} {values.shape}, expected text ({len(split)},)"
            )
    of_samples(split.columns, where)


def _check_values(split: Split) -> None:
    if split.inputs.dtype.kind != "f":
        return
    bad = ~np.isfinite(split.inputs).reshape(len(split), -1).all(axis=1)
    if bad.any():
        raise DataError(
            f"split {split.name!r}: {int(bad.sum())} samples hold NaN or infinite values:"
            f" {_named(split.ids[bad])}",
            hint="mend or leave out these samples",
        )


def _check_ids(split: Split) -> None:
    if split.ids.shape != (len(split),) or split.ids.dtype.kind != "U":
        raise DataError(f"split {split.name!r}: ids are {split.ids.dtype} {split.ids.shape}, expected text")
    ids, counts = np.unique(split.ids, return_counts=True)
    if len(ids) != len(split):
        raise DataError(f"split {split.name!r}: ids stand more than once: {_named(ids[counts > 1])}")


def _named(ids: NDArray[np.str_]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(repr(str(i)) for i in ids[:_SHOWN]) + more


def _without_overlap(task: Task, on_overlap: str) -> Task:
    """The task with every sample in one split only; a DataError where that was not asked for."""
    owner: dict[str | bytes, tuple[str, str]] = {}
    splits: dict[str, Split] = {}
    dropped: dict[str, int] = dict(task.notes.get("dropped", {}))
    for name in PRIORITY:
        if name not in task.splits:
            continue
        split = task.splits[name]
        keys: list[tuple[str, bytes]] = [
            (str(i), h) for i, h in zip(split.ids, sample_hashes(split.inputs), strict=True)
        ]
        shared = [owner.get(i) or owner.get(h) for i, h in keys]
        overlap = np.array([s is not None for s in shared])
        if overlap.any():
            if on_overlap == "error":
                raise _overlap_error(split, shared)
            dropped[name] = dropped.get(name, 0) + int(overlap.sum())
            split = subset(split, np.flatnonzero(~overlap))
            if not len(split):
                raise DataError(f"split {name!r} is empty: every sample of it stands in another split")
        splits[name] = split
        # Within a split the first sample of a content is the one that errors name.
        for i, h in keys:
            owner.setdefault(i, (name, i))
            owner.setdefault(h, (name, i))
    if not dropped:
        return task
    return replace(task, splits={n: splits[n] for n in task.splits}, notes={**task.notes, "dropped": dropped})


def _overlap_error(split: Split, shared: list[tuple[str, str] | None]) -> DataError:
    pairs = [(str(i), s) for i, s in zip(split.ids, shared, strict=True) if s is not None]
    named = ", ".join(f"{i!r} is {other} {theirs!r}" for i, (other, theirs) in pairs[:_SHOWN])
    more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    return DataError(
        f"{len(pairs)} samples of {split.name!r} stand in another split too, by id or by content:"
        f" {named}{more}",
        hint=f'task.on_overlap = "drop_from_train" leaves them out of {split.name!r}, and counts them in the '
        "report",
    )


def subset(split: Split, index: NDArray[Any]) -> Split:
    """The samples of a split at `index`, in that order."""
    labels = None if split.labels is None else split.labels[index]
    modalities = {name: inputs[index] for name, inputs in split.modalities.items()}
    heads = {name: found[index] for name, found in split.head_labels.items()}
    columns = {name: values[index] for name, values in split.columns.items()}
    return Split(split.name, split.ids[index], split.inputs[index], labels, modalities, heads, columns)


def keep_first(task: Task, limit: int, seed: int) -> Task:
    """At most `limit` samples of each split: the first of every class, classes in proportion.

    Every class of a split is kept where `limit` allows; `seed` only says which
    of two equally large classes gets an odd sample.
    """
    return replace(task, splits={n: _first(s, limit, seed) for n, s in task.splits.items()})


def _first(split: Split, limit: int, seed: int) -> Split:
    if len(split) <= limit:
        return split
    if split.labels is None:
        return subset(split, np.arange(limit))
    classes, counts = np.unique(split.labels, return_counts=True)
    share = apportion(counts.astype(np.int64), limit, np.random.default_rng(seed))
    kept = [np.flatnonzero(split.labels == c)[:n] for c, n in zip(classes, share, strict=True)]
    return subset(split, np.sort(np.concatenate(kept)))


def split_sha256(split: Split) -> str:
    """sha256 over a split's ids, inputs and labels, with their shapes and types, in hex.

    Columns are no part of it: what slices a split anew makes no other split of it.
    """
    digest = hashlib.sha256()
    for part in _parts(split):
        # Lengths first: ("ab", "c") and ("a", "bc") must differ.
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _parts(split: Split) -> Iterator[bytes | memoryview]:
    for i in split.ids:
        yield str(i).encode()
    for array in (split.inputs, split.labels):
        if array is None:
            yield b"none"
            continue
        yield f"{array.dtype.str} {array.shape}".encode()
        yield np.ascontiguousarray(array).tobytes()
    for what, further in (("modality", split.modalities), ("head", split.head_labels)):
        for name, found in sorted(further.items()):
            yield f"{what} {name} {found.dtype.str} {found.shape}".encode()
            yield np.ascontiguousarray(found).tobytes()
