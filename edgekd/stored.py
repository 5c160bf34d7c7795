"""Files that a report names: predictions sample by sample, and raw timings, their checksums verified."""

from __future__ import annotations

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from edgekd.columns import columns_of
from edgekd.errors import DataError
from edgekd.report.schema import MeasurementRecord, PredictionsFile
from edgekd.store import sha256_file
from edgekd.types import Measurement, Predictions, Protocol

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
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        ids, labels, scores = (arrays.pop(name) for name in ("sample_ids", "labels", "scores"))
    except _DAMAGED as error:
        raise DataError(f"{path}: not a file of predictions: {error}") from error
    for name, array, kinds, ndim in (
        ("sample_ids", ids, "U", 1),
        ("labels", labels, "iu", 1),
        ("scores", scores, "fiu", 2),
    ):
        if array.dtype.kind not in kinds or array.ndim != ndim:
            raise DataError(f"{path}: {name} of {array.dtype} {array.shape} are none")
    for name, texts in arrays.items():
        if texts.dtype.kind != "U" or texts.shape != ids.shape:
            raise DataError(f"{path}: column {name!r} of {texts.dtype} {texts.shape} is none")
    return Predictions(ids, labels, scores, columns_of({name: a.tolist() for name, a in arrays.items()}))


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
            record.warmup_runs, record.min_runs, record.min_seconds, record.num_processes, record.num_threads
        ),
        latency_ms,
        process,
        (record.first_ms,),
        (record.init_ms,),
        record.peak_memory_bytes or 0,
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
