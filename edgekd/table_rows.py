"""A row of a table as a network's input, from `preprocessing.json` alone: what an app does before each call.

Needs numpy and nothing else of edgekd but its errors, so that it also runs on a board.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import DataError
from edgekd.types import Task

FORMAT = 1
FILE = "preprocessing.json"
METADATA = "edgekd.table"  # key under which a model file holds the same document
LARGEST = float(np.finfo(np.float32).max)


def is_missing(cell: Any) -> bool:
    """Whether a cell says nothing: None, an empty text, NaN."""
    return cell is None or str(cell).strip().lower() in ("", "nan", "none", "null")


def number_of(cell: Any, log1p: bool) -> float:
    """A cell as a number, log(1 + x) of it where that is asked for; NaN for what is none.

    In double precision: what is stored is this, rounded once to 32 bits.
    """
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return math.nan
    if not math.isfinite(value) or (log1p and value <= -1):
        return math.nan
    value = math.log1p(value) if log1p else value
    return value if abs(value) <= LARGEST else math.nan


def document(task: Task) -> str:
    """What a table's rows are prepared by, as `preprocessing.json` and a model file's metadata have it."""
    assert task.table is not None
    spec = task.input_spec
    # As 32 bits hold them, with no more digits than it takes.
    mean, std = ([float(str(np.float32(v))) for v in values] for values in (spec.mean, spec.std))
    said = {
        **task.table,
        "classes": list(task.class_names),
        "scale": spec.scale,
        "mean": [int(v) if v == int(v) else v for v in mean],
        "std": [int(v) if v == int(v) else v for v in std],
    }
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))


def read_preparation(path: str | Path) -> dict[str, Any]:
    """The document of a file beside an artifact.

    Raises:
        DataError: it is not there, or is none of this version.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"{path}: no preparation of tables of format {FORMAT}")
    return found


def row_features(row: Mapping[str, Any], preparation: Mapping[str, Any]) -> NDArray[np.float32]:
    """Features (F,) of a row before mean and standard deviation: what the reader keeps of it.

    Args:
        row: column name to cell, a text as in the CSV or a number; further columns are not looked at.
        preparation: the document of `preprocessing.json`.

    Raises:
        DataError: a column is missing, a cell is no number, or is empty where that was refused in training.
    """
    numbers, indicators, hot = [], [], []
    for column in preparation["columns"]:
        name = column["name"]
        if name not in row:
            raise DataError(f"row: no column {name!r}", hint="give every column of preprocessing.json")
        cell = row[name]
        if column["kind"] == "category":
            hot += [1.0 if str(cell) == value else 0.0 for value in column["values"]]
            continue
        absent = is_missing(cell)
        if absent and column["missing"] is None:
            raise DataError(f"row: {name} is empty", hint="train with missing = 'mean' to allow for that")
        value = column["missing"] if absent else number_of(cell, column["log1p"])
        if math.isnan(value):
            raise DataError(f"row: {name} = {cell!r} is not a finite number")
        numbers.append(value)
        if column["indicator"]:
            indicators.append(float(absent))
    return np.array([*numbers, *indicators, *hot], np.float64).astype(np.float32)


def prepare_row(row: Mapping[str, Any], preparation: Mapping[str, Any]) -> NDArray[np.float32]:
    """The model's input (F,) for a row; arguments and errors as of `row_features`.

    `(features / scale - mean) / std`, each step in 32 bits.
    """
    features = row_features(row, preparation)
    mean, std = (np.asarray(preparation[key], np.float32) for key in ("mean", "std"))
    return np.asarray((features / np.float32(preparation["scale"]) - mean) / std, np.float32)
