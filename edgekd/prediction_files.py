"""Files of predictions, ours or anyone's: CSV, Parquet or NPZ, a row a sample.

Columns: `sample_id`, `label`, and `prediction` (a class, or a value), `score` (one value), or `score_0`,
`score_1`, ... (one a class). Any further column is a slice, a query or a cluster. Nothing is guessed: a row
too short, a value that is missing or no number, or a prediction that is no label is an error with its place.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from edgekd.columns import Texts, column_of, columns_of, read_csv, texts_of
from edgekd.errors import DataError, UsageError
from edgekd.types import Metric, Predictions

ID, LABEL, PREDICTION, SCORE = "sample_id", "label", "prediction", "score"
_CLASS_SCORE = re.compile(r"score_(0|[1-9]\d{0,5})")
_HINT = "columns: sample_id, label, and prediction, score or score_0, score_1, ...; others are slices"


@dataclass(frozen=True)
class Rows:
    """What a file holds, as it stands there.

    Attributes:
        path: the file.
        ids, labels: texts (N,).
        predictions: texts (N,), or None.
        scores: (N, 1) or (N, classes), or None; one of the two is there.
        columns: further texts (N,) by name.
    """

    path: Path
    ids: Texts
    labels: Texts
    predictions: Texts | None
    scores: NDArray[np.float64] | None
    columns: Mapping[str, Texts]


def read(path: Path) -> Rows:
    """The rows of a file.

    Raises:
        DataError: it is missing, empty, damaged, or lacks a column; names column and line.
        UsageError: another kind of file, or a Parquet file without the extra that reads it.
    """
    readers = {".csv": read_csv, ".parquet": _parquet, ".npz": _npz}
    if path.suffix.lower() not in readers:
        raise UsageError(f"{path}: no file of predictions", hint=f"known are {', '.join(readers)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return _rows(path, readers[path.suffix.lower()](path))


def predictions(files: Sequence[Rows], metric: Metric) -> list[Predictions]:
    """What several files say of the same samples, with one list of classes.

    Args:
        files: the baseline first.
        metric: whether labels are classes or values.

    Raises:
        DataError: a label or prediction that is no number where one is needed, or no class of the scores.
    """
    if metric.name.startswith("nearest_"):
        raise UsageError(
            f"{metric.name} needs vectors, and files of predictions have none",
            hint="it is judged along a chain: edgekd run",
        )
    if metric.name == "rmse" or "@" in metric.name:
        return [_of_values(rows) for rows in files]
    classes = _classes(files)
    if metric.name in ("f1", "auc") and not classes.keys() <= {"0", "1"}:
        raise DataError(
            f"{metric.name} is of class 1 against 0, the classes are {', '.join(list(classes)[:5])}",
            hint="labels 0 and 1" + (", or f1_macro" if metric.name == "f1" else ""),
        )
    return [_of_classes(rows, classes) for rows in files]


def _of_values(rows: Rows) -> Predictions:
    scores = rows.scores
    if scores is None:
        assert rows.predictions is not None  # one of the two is there
        scores = _numbers(rows.predictions, rows.path, PREDICTION)[:, None]
    labels = _numbers(rows.labels, rows.path, LABEL)
    return Predictions(np.asarray(rows.ids), labels, scores, columns_of(rows.columns))


def _of_classes(rows: Rows, classes: Mapping[str, int]) -> Predictions:
    labels = np.array([classes.get(text, -1) for text in rows.labels], np.int64)
    if (at := np.flatnonzero(labels < 0)).size:
        raise DataError(
            f"{rows.path}: label {rows.labels[at[0]]!r} of {rows.ids[at[0]]!r} is no class of the scores",
            hint=f"score_0 to score_{len(classes) - 1}: labels are 0 to {len(classes) - 1}",
        )
    columns = {LABEL: column_of(rows.labels), **columns_of(rows.columns)}
    if rows.scores is not None:
        return Predictions(np.asarray(rows.ids), labels, rows.scores, columns)
    assert rows.predictions is not None
    said = np.array([classes.get(text, -1) for text in rows.predictions], np.int64)
    if (at := np.flatnonzero(said < 0)).size:
        raise DataError(
            f"{rows.path}: prediction {rows.predictions[at[0]]!r} of {rows.ids[at[0]]!r} is no label",
            hint="labels and predictions name classes alike; where a class may have no sample, give scores",
        )
    return Predictions(np.asarray(rows.ids), labels, np.zeros((len(said), 0)), columns, said)


def _classes(files: Sequence[Rows]) -> dict[str, int]:
    """Class -> its place: that of its score where there are scores, else in order of the texts."""
    widths = {rows.scores.shape[1] for rows in files if rows.scores is not None}
    if widths:
        return {str(i): i for i in range(max(2, *widths))}  # one score is that of class 1 of two
    texts = {text for rows in files for text in rows.labels}
    return {text: i for i, text in enumerate(sorted(texts))}


def _rows(path: Path, columns: Mapping[str, Any]) -> Rows:
    for name in (ID, LABEL):
        if name not in columns:
            raise DataError(f"{path}: no column {name!r}", hint=_HINT)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{path}: columns of different length: {lengths}")
    if not len(columns[ID]):
        raise DataError(f"{path}: no samples to judge by")
    numbered = sorted(int(m[1]) for name in columns if (m := _CLASS_SCORE.fullmatch(name)))
    if numbered and (numbered != list(range(len(numbered))) or len(numbered) < 2):
        raise DataError(f"{path}: score_{numbered[-1]} without all before it", hint=_HINT)
    given = [PREDICTION in columns, SCORE in columns, bool(numbered)]
    if sum(given) != 1:
        told = "neither prediction nor scores" if not any(given) else "several of prediction, score, score_0"
        raise DataError(f"{path}: {told}", hint=_HINT)
    named = [f"score_{i}" for i in numbered] or ([SCORE] if SCORE in columns else [])
    scores = [_numbers(columns[name], path, name) for name in named]
    return Rows(
        path,
        texts_of(columns[ID], str(path), ID),
        texts_of(columns[LABEL], str(path), LABEL),
        texts_of(columns[PREDICTION], str(path), PREDICTION) if PREDICTION in columns else None,
        np.stack(scores, axis=1) if scores else None,
        {
            name: texts_of(values, str(path), name)
            for name, values in columns.items()
            if name not in (ID, LABEL, PREDICTION, *named)
        },
    )


def _parquet(path: Path) -> dict[str, Any]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        raise UsageError(
            f"{path}: Parquet needs pyarrow", hint="pip install 'edgekd[parquet]', or give CSV"
        ) from None
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file: {error}") from None
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _npz(path: Path) -> dict[str, Any]:
    """Arrays sample_ids, labels, scores (N, K) or predictions, as a run writes them; others are columns."""
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if not isinstance(found, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: not a file of predictions: it holds one array")
            arrays = {name: found[name] for name in found.files}
    except (ValueError, OSError, BadZipFile, EOFError, zlib.error, MemoryError) as error:
        raise DataError(f"{path}: not a file of predictions: {error}") from None
    for name, values in arrays.items():
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biufU":
            raise DataError(f"{path}: {name} holds neither numbers nor texts")
    singular = {"sample_ids": ID, "labels": LABEL, "predictions": PREDICTION}
    if both := [name for name, one in singular.items() if {name, one} <= arrays.keys()]:
        raise DataError(f"{path}: {both[0]} and {singular[both[0]]} both")
    columns = {singular.get(name, name): values for name, values in arrays.items() if name != "scores"}
    if "scores" in arrays:
        scores = arrays["scores"]
        if scores.ndim != 2:
            raise DataError(f"{path}: scores {scores.shape}", hint="(N, classes), or (N, 1)")
        names = [SCORE] if scores.shape[1] == 1 else [f"score_{i}" for i in range(scores.shape[1])]
        columns |= dict(zip(names, scores.T, strict=True))
    if odd := next((name for name, values in columns.items() if values.ndim != 1), None):
        raise DataError(f"{path}: {odd} has shape {columns[odd].shape}", hint="one value a sample")
    return columns


def _numbers(values: Sequence[Any] | NDArray[Any], path: Path, name: str) -> NDArray[np.float64]:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        pass
    for i, value in enumerate(values):
        try:
            float(value)
        except (TypeError, ValueError):
            raise DataError(f"{path}: {name} of row {i + 1} is no number: {value!r}") from None
    raise DataError(f"{path}: {name} holds what is no number")
