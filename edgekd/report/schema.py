"""Reading and writing report.json.

A report is read and written only through the models of `records.py`, so that
what is on disk is what the JSON Schema beside this file says: no unknown key,
no missing key, no NaN.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from edgekd.errors import UsageError
from edgekd.report.artifact_records import (
    ArtifactRecord,
    ConditionsRecord,
    DeviceOutputs,
    FileRecord,
    InputSpecRecord,
    InventoryRecord,
    MeasurementRecord,
    ParityRecord,
    Ratio,
    SliceRecord,
)
from edgekd.report.base_records import (
    MetricValue,
    PredictionsFile,
    StoredFile,
)
from edgekd.report.figure_records import (
    ClassDrop,
    ClassDrops,
    Contents,
    FlipPair,
    Flips,
    Gallery,
    GallerySample,
    LatencyDistribution,
    LayerBytes,
)
from edgekd.report.records import (
    Calibration,
    CheckRecord,
    Data,
    LayerSensitivity,
    MemberRecord,
    RecipeRecord,
    Report,
    SplitRecord,
    Splits,
    StageRecord,
    TeacherRecord,
    VerdictRecord,
)

__all__ = [
    "SCHEMA_PATH",
    "SCHEMA_VERSION",
    "ArtifactRecord",
    "Calibration",
    "CheckRecord",
    "ClassDrop",
    "ClassDrops",
    "ConditionsRecord",
    "Contents",
    "Data",
    "DeviceOutputs",
    "FileRecord",
    "FlipPair",
    "Flips",
    "Gallery",
    "GallerySample",
    "InputSpecRecord",
    "InventoryRecord",
    "LatencyDistribution",
    "LayerBytes",
    "LayerSensitivity",
    "MeasurementRecord",
    "MemberRecord",
    "MetricValue",
    "ParityRecord",
    "PredictionsFile",
    "Ratio",
    "RecipeRecord",
    "Report",
    "SliceRecord",
    "SplitRecord",
    "Splits",
    "StageRecord",
    "StoredFile",
    "TeacherRecord",
    "VerdictRecord",
    "dumps",
    "json_schema",
    "parse",
]

SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).with_name("report.schema.json")


def parse(data: Mapping[str, Any] | str | Path) -> Report:
    """A valid report.

    Args:
        data: keys and values, JSON text, or the path of a report.json.

    Raises:
        UsageError: naming the file and the key, where it is missing, is not JSON,
            breaks the schema, or has another schema_version.
    """
    where = str(data) if isinstance(data, Path) else "report"
    text = _text(data, where)
    try:
        found = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{where}: not valid JSON: {error}",
            hint="give the report.json of a run; a damaged one is built again by edgekd report",
        ) from None
    if not isinstance(found, dict):
        raise UsageError(f"{where}: a report is a JSON object, not a {type(found).__name__}")
    _check_version(found, where)
    try:
        return Report.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(f"{where}: {_complaint(error)}") from None


def _text(data: Mapping[str, Any] | str | Path, where: str) -> str:
    if isinstance(data, str):
        return data
    if isinstance(data, Path):
        try:
            return data.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UsageError(f"{where}: no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{where}: cannot be read: {error}") from None
    return _encode(dict(data), where)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand there once: of two values each reader may take another."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(k for k in keys if keys.count(k) > 1)!r} stands there twice")
    return found


def _check_version(found: Mapping[str, Any], where: str) -> None:
    version = found.get("schema_version")
    if type(version) is int and version == SCHEMA_VERSION:
        return
    if version is None:
        raise UsageError(f"{where}: key 'schema_version' is missing", hint="is this an edgekd report?")
    wanted = f"this edgekd reads schema_version {SCHEMA_VERSION}"
    if type(version) is int and version > SCHEMA_VERSION:
        raise UsageError(f"{where}: schema_version = {version}, {wanted}", hint="install a newer edgekd")
    raise UsageError(
        f"{where}: schema_version = {version!r}, {wanted}",
        hint="reports of that version cannot be migrated; run the recipe again",
    )


def _complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "missing":
        return f"key {key!r} is missing"
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}"
    message = str(first["msg"]).removeprefix("Value error, ")
    shown = first.get("input")
    if not key or isinstance(shown, dict | list):
        return f"{key}: {message}" if key else message
    return f"{key} = {shown!r}: {message}"


def dumps(report: Report) -> str:
    """The report as JSON text: sorted keys, two-space indent, final newline; same report, same bytes.

    Raises:
        UsageError: where a value is NaN or infinite.
    """
    return _encode(report.model_dump(), "report")


def _encode(data: dict[str, Any], where: str) -> str:
    try:
        return (
            json.dumps(
                data, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False, default=_paths_as_text
            )
            + "\n"
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: cannot be written as JSON: {error}") from None


def _paths_as_text(value: object) -> str:
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of report.json, as committed in report.schema.json."""
    schema = Report.model_json_schema()
    schema["properties"]["schema_version"].pop("default", None)
    schema["required"] = sorted({*schema["required"], "schema_version"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
