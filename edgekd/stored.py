"""Files that a report names: predictions sample by sample, and raw timings, their checksums verified."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from edgekd.columns import columns_of, of_samples
from edgekd.errors import DataError
from edgekd.measurements import Measurement, Protocol
from edgekd.report.schema import MeasurementRecord, PredictionsFile, Report
from edgekd.store import sha256_file
from edgekd.types import Predictions

# What reading an archive of arrays raises that is damaged, or made to do harm.
_DAMAGED = (
    *(ValueError, KeyError, OSError, EOFError, BadZipFile, zlib.error, MemoryError, TypeError),
    *(AttributeError, OverflowError, NotImplementedError, RuntimeError),
)


def read_predictions(record: PredictionsFile, folder: Path) -> Predictions:
    """Stored per-sample outputs, their checksum verified.

    Raises:
        DataError: missing, changed, or not what a run writes.
    """
    path = unchanged(folder, record.path, record.sha256)
    found, more = _arrays(path)
    if more:
        raise DataError(f"{path}: {sorted(more)[0]!r} beside the scores: only the teacher's file has columns")
    return found


def read_teacher(report: Report, folder: Path) -> Predictions:
    """The teacher's stored outputs, as `read_predictions`, with what is known of the samples.

    Raises:
        DataError: missing, changed, or not what a run writes.
    """
    if report.teacher.predictions is None:
        raise DataError("report: the teacher has no stored predictions")
    path = unchanged(folder, report.teacher.predictions.path, report.teacher.predictions.sha256)
    found, more = _arrays(path)
    for name, texts in more.items():
        if not isinstance(texts, np.ndarray) or texts.dtype.kind != "U" or texts.shape != found.labels.shape:
            raise DataError(f"{path}: {name!r} holds no texts, one a sample")
    return replace(found, columns=columns_of(of_samples(more, str(path))))


def _arrays(path: Path) -> tuple[Predictions, dict[str, Any]]:
    """Ids, labels and scores, and whatever else lies there."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        ids, labels, scores = (arrays.pop(name) for name in ("sample_ids", "labels", "scores"))
        vectors = arrays.pop("vectors", None)
    except _DAMAGED as error:
        raise DataError(f"{path}: not a file of predictions: {error}") from error
    for name, array, kinds, ndim in (
        ("sample_ids", ids, "U", 1),
        ("labels", labels, "iu", 1),
        ("scores", scores, "fiu", 2),
        *((("vectors", vectors, "f", 2),) if vectors is not None else ()),
    ):
        if array.dtype.kind not in kinds or array.ndim != ndim:
            raise DataError(f"{path}: {name} of {array.dtype} {array.shape} are none")
    return Predictions(ids, labels, scores, vectors=vectors), arrays


def read_measurement(record: MeasurementRecord, folder: Path) -> Measurement:
    """A measurement with its raw values, their checksum verified.

    Raises:
        DataError: missing, changed, or not what a run writes.
    """
    path = unchanged(folder, record.raw_path, record.raw_sha256)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            latency_ms, process = found["latency_ms"], found["process"]
    except _DAMAGED as error:
        raise DataError(f"{path}: not a file of timings: {error}") from error
    if (latency_ms.dtype.kind, process.dtype.kind) != ("f", "i") or latency_ms.shape != process.shape:
        raise DataError(f"{path}: timings of {latency_ms.dtype} and processes of {process.dtype} are none")
    if latency_ms.ndim != 1:
        raise DataError(f"{path}: timings of shape {latency_ms.shape} are none")
    # The report keeps medians of the first inference and of loading; no check needs more.
    return Measurement(
        record.artifact_id,
        record.device,
        record.runtime,
        record.runtime_version,
        record.delegate,
        record.kind,
        Protocol(
            record.warmup_runs,
            record.min_runs,
            record.min_seconds,
            record.num_processes,
            record.num_threads,
            record.cooldown_s,
        ),
        latency_ms,
        process,
        (record.first_ms,),
        (record.init_ms,),
        record.peak_memory_bytes or 0,
        tuple(conditions.value() for conditions in record.conditions),
        gpu=record.gpu,
    )


def unchanged(folder: Path, name: str, sha256: str) -> Path:
    """A file named in a report, which must lie in the report's own folder and be what it was."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"report names a file outside its folder: {name!r}")
    if not path.is_file():
        raise DataError(f"{path}: missing", hint="keep the report's folder together, or run the recipe again")
    if sha256_file(path) != sha256:
        raise DataError(f"{path}: changed since the report was written", hint="run the recipe again")
    return path
