"""A table in CSV: numbers as they are or their logarithms, categories one-hot, one column the label."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgekd.config import Strict
from edgekd.errors import DataError, nearest
from edgekd.table_rows import FORMAT, is_missing, number_of
from edgekd.tasks.common import classification, existing, input_spec, split_by_count, take
from edgekd.types import Task

VERSION = 2


class Options(Strict):
    """Options of the kind `table`. Each of val and test comes from exactly one place."""

    train: str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = Field(
        description="CSV with a header, or several with the same columns; $VAR is filled in"
    )
    val: str | None = Field(default=None, description="CSV with the same columns")
    test: str | None = Field(default=None, description="CSV with the same columns")
    val_fraction: float | None = Field(default=None, gt=0, lt=1, description="share of train, by class")
    test_fraction: float | None = Field(default=None, gt=0, lt=1, description="share of train, by class")
    label: str = Field(description="the column to predict")
    categorical: tuple[str, ...] = Field(
        default=(), strict=False, description="columns that become one feature a category seen in train"
    )
    drop: tuple[str, ...] = Field(default=(), strict=False, description="columns left out")
    log1p: tuple[str, ...] = Field(
        default=(), strict=False, description="numeric columns taken as log(1 + x): durations, counts, prices"
    )
    missing: Literal["error", "mean"] = Field(
        default="error",
        description="of empty cells of numeric columns: refused, or train's mean with a feature that says so "
        "where train has such cells",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Options:
        if (self.val is None) == (self.val_fraction is None):
            raise ValueError("give exactly one of val and val_fraction")
        if (self.test is None) == (self.test_fraction is None):
            raise ValueError("give exactly one of test and test_fraction")
        if (self.val_fraction or 0) + (self.test_fraction or 0) >= 1:
            raise ValueError("val_fraction and test_fraction leave nothing for train")
        if self.label in (*self.categorical, *self.drop, *self.log1p):
            raise ValueError(f"the label {self.label!r} is named in categorical or drop, or in log1p")
        if both := [c for c in self.log1p if c in (*self.categorical, *self.drop)]:
            raise ValueError(f"{both[0]!r} is named in log1p, and in categorical or drop too")
        return self

    @property
    def files(self) -> dict[str, tuple[str, str]]:
        """What sample ids begin with -> (key of the recipe, file)."""
        several = (self.train,) if isinstance(self.train, str) else self.train
        named = {"train": ("train", several[0])} if len(several) == 1 else {}
        if len(several) > 1:
            named = {f"train{i}": ("train", path) for i, path in enumerate(several, start=1)}
        for key in ("val", "test"):
            if (path := getattr(self, key)) is not None:
                named[key] = (key, path)
        return named


@dataclass(frozen=True)
class Rows:
    """Rows of CSV files: cells as text, and where each row stands.

    Attributes:
        header: names of the columns.
        cells: a list a row.
        places: (file, line that the row ends on) of each.
        ids: of each, as samples have them.
    """

    header: tuple[str, ...]
    cells: list[list[str]]
    places: list[tuple[Path, int]]
    ids: list[str]

    def column(self, name: str) -> list[str]:
        """The cells of one column, top to bottom."""
        at = self.header.index(name)
        return [row[at] for row in self.cells]

    def at(self, row: int) -> str:
        """`train.csv:17`."""
        return ":".join(map(str, self.places[row]))


@dataclass(frozen=True)
class Numbers:
    """Numeric columns of some rows: `values` (N, C) in double precision, NaN where a cell is empty."""

    values: NDArray[np.float64]

    @property
    def missing(self) -> NDArray[np.bool_]:
        """(N, C)."""
        return np.isnan(self.values)

    def features(self, means: NDArray[np.float64], indicated: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(N, C + indicators): means (C,) where a cell is empty, and which cells of `indicated` (C,) are."""
        filled = np.where(self.missing, means, self.values)
        return np.hstack([filled, self.missing[:, indicated]]).astype(np.float32)


def sources(options: Options) -> tuple[Path, ...]:
    """The CSV files."""
    return tuple(existing(path, key) for key, path in options.files.values())


def read(options: Options, seed: int) -> Task:
    """Features as float32: numeric columns first, then which of them were empty, then categories.

    Features that are 0 or 1 have mean 0 and standard deviation 1.
    """
    sources(options)  # a missing one is told before the first is read
    files = _all_rows(options)
    train = files["train"]
    numeric = [c for c in train.header if c not in (options.label, *options.categorical, *options.drop)]
    if unknown := [c for c in options.log1p if c not in numeric]:
        raise DataError(
            f"{train.places[0][0]}:1: no column {unknown[0]!r} of task.log1p",
            hint=nearest(unknown[0], numeric, f"numeric columns: {', '.join(numeric)}"),
        )
    numbers = {name: _numbers(rows, numeric, options) for name, rows in files.items()}
    classes = _classes(train.column(options.label))
    labels = {name: _labels(rows, options.label, classes) for name, rows in files.items()}

    fractions = {"val": options.val_fraction, "test": options.test_fraction}
    total = len(labels["train"])
    sizes = {name: max(1, round(f * total)) for name, f in fractions.items() if f is not None}
    index = {"train": np.arange(total)}
    if sizes:
        # Split by what a row says in the columns used, so that equal rows stay together; the
        # categories are numbered over all rows here, and for the features over train's only.
        whole = _one_hot(train, _categories(train, options.categorical, index["train"]))
        said = np.nan_to_num(numbers["train"].values).astype(np.float32)
        index = split_by_count(
            np.hstack([said, numbers["train"].missing, whole[0]]), labels["train"], sizes, seed
        )
    categories = _categories(train, options.categorical, index["train"])
    known = Numbers(numbers["train"].values[index["train"]])
    means, indicated = _means(known, numeric, train), np.asarray(known.missing.any(axis=0), np.bool_)
    splits, unseen, empty = {}, {}, {}
    for name in ("train", "val", "test"):
        origin, at = (name, None) if name in files and name not in index else ("train", index[name])
        hot, strange = _one_hot(files[origin], categories)
        x = np.hstack([numbers[origin].features(means, indicated), hot])
        at = np.arange(len(x)) if at is None else at
        splits[name] = take(name, at, np.array(files[origin].ids, np.str_), x, labels[origin])
        unseen[name] = int(strange[at].sum())
        empty[name] = int(numbers[origin].missing[at].sum())
    spec = input_spec(splits["train"].inputs, 1.0, where=str(train.places[0][0]))
    zero_or_one = len(spec.mean) - len(numeric)
    # A rare category divided by its tiny spread would stretch the int8 range for everyone.
    spec = replace(
        spec,
        mean=spec.mean[: len(numeric)] + (0.0,) * zero_or_one,
        std=spec.std[: len(numeric)] + (1.0,) * zero_or_one,
    )
    flags = [f"{c} is missing" for c, shown in zip(numeric, indicated, strict=True) if shown]
    features = [*numeric, *flags, *(f"{c}={v}" for c, values in categories.items() for v in values)]
    notes: dict[str, Any] = {"features": features, "unseen_categories": unseen}
    if any(empty.values()):
        notes["missing_values"] = empty
    told: list[dict[str, Any]] = [
        {
            "name": name,
            "kind": "number",
            "log1p": name in options.log1p,
            "missing": float(np.float32(mean)) if options.missing == "mean" else None,
            "indicator": bool(flag),
        }
        for name, mean, flag in zip(numeric, means, indicated, strict=True)
    ]
    told += [{"name": name, "kind": "category", "values": list(v)} for name, v in categories.items()]
    task = classification(
        train.places[0][0].parent.name or "table", list(splits.values()), spec, classes, notes
    )
    return replace(task, table={"format": FORMAT, "label": options.label, "columns": told})


def cells(options: Options, names: Sequence[str], ids: NDArray[np.str_]) -> dict[str, list[str]]:
    """What columns say of samples: their ids tell in which file, and on which line, each stands.

    Raises:
        DataError: a file has no such column, or the label is asked for, which is a slice as it is.
    """
    places = [str(i).rpartition(":") for i in ids]
    found: dict[str, list[str]] = {name: [] for name in names}
    read_from = {prefix: options.files[prefix] for prefix, *_ in set(places)}
    files = {p: _rows(existing(path, key), p, options) for p, (key, path) in read_from.items()}
    at = {p: {str(line): i for i, (_, line) in enumerate(rows.places)} for p, rows in files.items()}
    for name in names:
        if name == options.label:
            raise DataError(
                f"task.columns: {name!r} is the label", hint="a slice as it is: [gate.slices.label]"
            )
        for rows in files.values():
            if name not in rows.header:
                hint = nearest(name, rows.header, f"columns: {', '.join(rows.header)}")
                raise DataError(f"{rows.places[0][0]}:1: no column {name!r}", hint=hint)
        of = {prefix: rows.column(name) for prefix, rows in files.items()}
        if gone := [f"{prefix}:{line}" for prefix, _, line in places if line not in at[prefix]]:
            path = rows.places[0][0]
            raise DataError(f"{path}: changed while it was read: {gone[0]} is not there")
        texts = [of[prefix][at[prefix][line]] for prefix, _, line in places]
        for (prefix, _, line), text in zip(places, texts, strict=True):
            if is_missing(text):
                where = files[prefix].at(at[prefix][line])
                raise DataError(f"{where}: {name} is empty, and no slice or cluster")
        found[name] = texts
    return found


def _all_rows(options: Options) -> dict[str, Rows]:
    """Split -> the rows of its files, all of which have the columns of the first."""
    found: dict[str, Rows] = {}
    header = None
    for prefix, (key, path) in options.files.items():
        rows = _rows(existing(path, key), prefix, options, header)
        header = rows.header
        before = found.get(key)
        found[key] = rows if before is None else _together(before, rows)
    return found


def _together(first: Rows, second: Rows) -> Rows:
    return Rows(
        first.header,
        first.cells + second.cells,
        first.places + second.places,
        first.ids + second.ids,
    )


def _rows(path: Path, prefix: str, options: Options, header: tuple[str, ...] | None = None) -> Rows:
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
    return Rows(found, cells, [(path, line) for line in lines], [f"{prefix}:{line}" for line in lines])


def _numbers(rows: Rows, columns: list[str], options: Options) -> Numbers:
    values = np.empty((len(rows.cells), len(columns)), np.float64)
    for at, name in enumerate(columns):
        logarithm = name in options.log1p
        for row, cell in enumerate(rows.column(name)):
            number = number_of(cell, logarithm)
            if math.isnan(number) and not (options.missing == "mean" and is_missing(cell)):
                what = "is not a finite number" + (" above -1" if logarithm else "")
                fill = (
                    ", fill in the cell, or set task.missing" if is_missing(cell) else ", or fill in the cell"
                )
                raise DataError(
                    f"{rows.at(row)}: {name} = {cell!r} {what}",
                    hint=f"name the column in task.categorical or task.drop{fill}",
                )
            values[row, at] = number
    return Numbers(values)


def _means(train: Numbers, columns: list[str], rows: Rows) -> NDArray[np.float64]:
    """(C,) what an empty cell becomes, as 32 bits hold it: preprocessing.json has the same number."""
    counts = (~train.missing).sum(axis=0)
    if not counts.all():
        name = columns[int(np.flatnonzero(counts == 0)[0])]
        raise DataError(
            f"{rows.places[0][0]}: {name} is empty in every row of train", hint="name it in task.drop"
        )
    means = np.nansum(train.values, axis=0) / counts
    return np.asarray(means.astype(np.float32), np.float64)


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
    for row, cell in enumerate(rows.column(column)):
        if cell not in number:
            raise DataError(
                f"{rows.at(row)}: {column} = {cell!r} is no label of train",
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
