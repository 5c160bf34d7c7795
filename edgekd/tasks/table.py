"""A table in CSV: numbers as they are, categories one-hot, one column the label."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgekd.columns import is_missing
from edgekd.config import Strict
from edgekd.errors import DataError, nearest
from edgekd.tasks.common import classification, existing, input_spec, split_by_count, take
from edgekd.types import Task

VERSION = 1
_LARGEST = float(np.finfo(np.float32).max)


class Options(Strict):
    """Options of the kind `table`. Each of val and test comes from exactly one place."""

    train: str = Field(description="CSV with a header; $VAR is filled in")
    val: str | None = Field(default=None, description="CSV with the same columns")
    test: str | None = Field(default=None, description="CSV with the same columns")
    val_fraction: float | None = Field(default=None, gt=0, lt=1, description="share of train, by class")
    test_fraction: float | None = Field(default=None, gt=0, lt=1, description="share of train, by class")
    label: str = Field(description="the column to predict")
    categorical: tuple[str, ...] = Field(
        default=(), strict=False, description="columns that become one feature a category seen in train"
    )
    drop: tuple[str, ...] = Field(default=(), strict=False, description="columns left out")

    @model_validator(mode="after")
    def _one_source(self) -> Options:
        if (self.val is None) == (self.val_fraction is None):
            raise ValueError("give exactly one of val and val_fraction")
        if (self.test is None) == (self.test_fraction is None):
            raise ValueError("give exactly one of test and test_fraction")
        if (self.val_fraction or 0) + (self.test_fraction or 0) >= 1:
            raise ValueError("val_fraction and test_fraction leave nothing for train")
        if self.label in (*self.categorical, *self.drop):
            raise ValueError(f"the label {self.label!r} is named in categorical or drop too")
        return self


@dataclass(frozen=True)
class Rows:
    """One CSV file: cells as text, and the line that each row ends on."""

    path: Path
    header: tuple[str, ...]
    cells: list[list[str]]
    lines: list[int]

    def column(self, name: str) -> list[str]:
        """The cells of one column, top to bottom."""
        at = self.header.index(name)
        return [row[at] for row in self.cells]


def sources(options: Options) -> tuple[Path, ...]:
    """The CSV files."""
    given = (("train", options.train), ("val", options.val), ("test", options.test))
    return tuple(existing(value, key) for key, value in given if value is not None)


def read(options: Options, seed: int) -> Task:
    """Features as float32: numeric columns first, then categories. One-hot features have mean 0, std 1."""
    sources(options)  # a missing one is told before the first is read
    files = {"train": _rows(existing(options.train, "train"), options)}
    for name, value in (("val", options.val), ("test", options.test)):
        if value is not None:
            files[name] = _rows(existing(value, name), options, files["train"].header)
    numeric = [
        c for c in files["train"].header if c not in (options.label, *options.categorical, *options.drop)
    ]
    numbers = {name: _numbers(rows, numeric) for name, rows in files.items()}
    classes = _classes(files["train"].column(options.label))
    labels = {name: _labels(rows, options.label, classes) for name, rows in files.items()}
    ids = {n: np.array([f"{n}:{line}" for line in r.lines], np.str_) for n, r in files.items()}

    fractions = {"val": options.val_fraction, "test": options.test_fraction}
    total = len(labels["train"])
    sizes = {name: max(1, round(f * total)) for name, f in fractions.items() if f is not None}
    index = {"train": np.arange(total)}
    if sizes:
        # Split by what a row says in the columns used, so that equal rows stay together; the
        # categories are numbered over all rows here, and for the features over train's only.
        whole = _one_hot(files["train"], _categories(files["train"], options.categorical, index["train"]))
        index = split_by_count(np.hstack([numbers["train"], whole[0]]), labels["train"], sizes, seed)
    categories = _categories(files["train"], options.categorical, index["train"])
    splits, unseen = {}, {}
    for name in ("train", "val", "test"):
        origin, at = (name, None) if name in files and name not in index else ("train", index[name])
        hot, strange = _one_hot(files[origin], categories)
        x = np.hstack([numbers[origin], hot])
        at = np.arange(len(x)) if at is None else at
        splits[name] = take(name, at, ids[origin], x, labels[origin])
        unseen[name] = int(strange[at].sum())
    spec = input_spec(splits["train"].inputs, 1.0, where=options.train)
    hot_count = len(spec.mean) - len(numeric)
    # A rare category divided by its tiny spread would stretch the int8 range for everyone.
    spec = replace(
        spec,
        mean=spec.mean[: len(numeric)] + (0.0,) * hot_count,
        std=spec.std[: len(numeric)] + (1.0,) * hot_count,
    )
    features = [*numeric, *(f"{c}={v}" for c, values in categories.items() for v in values)]
    notes = {"features": features, "unseen_categories": unseen}
    return classification(
        files["train"].path.parent.name or "table", list(splits.values()), spec, classes, notes
    )


def cells(options: Options, names: Sequence[str], ids: NDArray[np.str_]) -> dict[str, list[str]]:
    """What columns say of samples: their ids tell in which file, and on which line, each stands.

    Raises:
        DataError: a file has no such column, or the label is asked for, which is a slice as it is.
    """
    places = [str(i).rpartition(":") for i in ids]
    found: dict[str, list[str]] = {name: [] for name in names}
    files = {split: _rows(existing(getattr(options, split), split), options) for split, *_ in set(places)}
    at = {split: {str(line): i for i, line in enumerate(rows.lines)} for split, rows in files.items()}
    for name in names:
        if name == options.label:
            raise DataError(
                f"task.columns: {name!r} is the label", hint="a slice as it is: [gate.slices.label]"
            )
        for rows in files.values():
            if name not in rows.header:
                hint = nearest(name, rows.header, f"columns: {', '.join(rows.header)}")
                raise DataError(f"{rows.path}:1: no column {name!r}", hint=hint)
        of = {split: rows.column(name) for split, rows in files.items()}
        if gone := [f"{split}:{line}" for split, _, line in places if line not in at[split]]:
            raise DataError(f"{rows.path}: changed while it was read: {gone[0]} is not there")
        texts = [of[split][at[split][line]] for split, _, line in places]
        for (split, _, line), text in zip(places, texts, strict=True):
            if is_missing(text):
                raise DataError(f"{files[split].path}:{line}: {name} is empty, and no slice or cluster")
        found[name] = texts
    return found


def _rows(path: Path, options: Options, header: tuple[str, ...] | None = None) -> Rows:
    """A CSV file, its header checked against the options and against train's."""
    cells, lines = [], []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            found = tuple(next(reader, ()))
            for row in reader:
                if not row:  # a blank line
                    continue
                if len(row) != len(found):
                    raise DataError(
                        f"{path}:{reader.line_num}: {len(row)} cells, the header has {len(found)}"
                    )
                cells.append(row)
                lines.append(reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV file: {error}") from None
    if not cells:
        raise DataError(f"{path}: no rows below a header")
    if len(set(found)) != len(found):
        raise DataError(f"{path}:1: two columns have the same name")
    if header is not None and found != header:
        differ = sorted(set(found) ^ set(header)) or ["their order"]
        raise DataError(f"{path}:1: the columns are not those of train: {differ[0]!r}")
    for column in (options.label, *options.categorical, *options.drop):
        if column not in found:
            raise DataError(f"{path}:1: no column {column!r}", hint=f"columns: {', '.join(found)}")
    return Rows(path, found, cells, lines)


def _numbers(rows: Rows, columns: list[str]) -> NDArray[np.float32]:
    values = np.empty((len(rows.cells), len(columns)), np.float32)
    for at, name in enumerate(columns):
        for row, cell in enumerate(rows.column(name)):
            try:
                number = float(cell)
            except ValueError:
                number = math.nan
            if not math.isfinite(number) or abs(number) > _LARGEST:
                raise DataError(
                    f"{rows.path}:{rows.lines[row]}: {name} = {cell!r} is not a finite number",
                    hint="name the column in task.categorical or task.drop, or fill in the cell",
                )
            values[row, at] = number
    return values


def _classes(labels: list[str]) -> list[str]:
    """Label values in order: by number where all are numbers, so that 10 comes after 9."""
    values = sorted(set(labels))
    try:
        values.sort(key=float)
    except ValueError:
        values.sort()
    if "" in values:
        raise DataError("the label column of train has empty cells")
    return values


def _labels(rows: Rows, column: str, classes: list[str]) -> NDArray[np.int64]:
    number = {value: i for i, value in enumerate(classes)}
    for cell, line in zip(rows.column(column), rows.lines, strict=True):
        if cell not in number:
            raise DataError(
                f"{rows.path}:{line}: {column} = {cell!r} is no label of train",
                hint=f"known: {', '.join(classes)}",
            )
    return np.array([number[cell] for cell in rows.column(column)], np.int64)


def _categories(rows: Rows, columns: tuple[str, ...], index: NDArray[np.int64]) -> dict[str, list[str]]:
    cells = {c: rows.column(c) for c in columns}
    return {c: sorted({cells[c][i] for i in index}) for c in columns}


def _one_hot(
    rows: Rows, categories: Mapping[str, list[str]]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(features, whether a row has a category that train has not); such a cell is all zeros."""
    parts = [np.zeros((len(rows.cells), 0), np.float32)]
    strange = np.zeros(len(rows.cells), np.bool_)
    for column, values in categories.items():
        cells = np.array(rows.column(column), np.str_)
        hot = cells[:, None] == np.array(values, np.str_)[None]
        strange |= ~hot.any(axis=1)
        parts.append(hot.astype(np.float32))
    return np.hstack(parts), strange
