"""Recipes, targets, calibration and gate policies: strict TOML to frozen models.

Nothing is guessed: an unknown key, a wrong type or a value out of range is an
error that names the file, the line, the key and the nearest valid name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from edgekd.compression_settings import PruneConfig, QuantizeConfig
from edgekd.errors import UsageError, nearest
from edgekd.fields import UNION_TAGS, Fraction, Plugin, Positive, Strict
from edgekd.gate_settings import (
    BudgetConfig,
    GateConfig,
    PolicyFile,
    PolicyGate,
    SliceConfig,
    TargetGateConfig,
)
from edgekd.settings import (
    FunctionConfig,
    ModelConfig,
    Recipe,
    ReportConfig,
    StudentConfig,
    TaskConfig,
    TeacherConfig,
)
from edgekd.target_settings import (
    CalibrationPolicy,
    EmissionConfig,
    PeakConfig,
    Processor,
    ProtocolConfig,
    RuntimeConfig,
    Target,
)
from edgekd.training_settings import (
    AdversarialConfig,
    DistillConfig,
    LabelTrainConfig,
    LossConfig,
    MixConfig,
    TrainConfig,
)

__all__ = [
    "FOLDERS",
    "SCHEMAS",
    "AdversarialConfig",
    "BudgetConfig",
    "CalibrationPolicy",
    "DistillConfig",
    "EmissionConfig",
    "Fraction",
    "FunctionConfig",
    "GateConfig",
    "LabelTrainConfig",
    "LossConfig",
    "MixConfig",
    "ModelConfig",
    "PeakConfig",
    "Plugin",
    "PolicyFile",
    "PolicyGate",
    "Positive",
    "Processor",
    "ProtocolConfig",
    "PruneConfig",
    "QuantizeConfig",
    "Recipe",
    "ReportConfig",
    "RuntimeConfig",
    "SliceConfig",
    "Strict",
    "StudentConfig",
    "Target",
    "TargetGateConfig",
    "TaskConfig",
    "TeacherConfig",
    "TrainConfig",
    "available",
    "build",
    "find",
    "inner_model",
    "load_calibration",
    "load_policy",
    "load_target",
    "override",
    "parse_override",
    "read_toml",
    "search_path",
]

T = TypeVar("T", bound=BaseModel)
N = TypeVar("N", Target, CalibrationPolicy)
SCHEMAS: Mapping[str, type[Strict]] = {"recipe": Recipe, "target": Target, "calibration": CalibrationPolicy}
FOLDERS = {"recipe": "recipes", "target": "targets", "calibration": "calibration"}


def build(model: type[T], data: Mapping[str, Any], where: str, text: str = "") -> T:
    """`data` as a `model`, or a UsageError that names `where`, line, key, value and the nearest name.

    Args:
        model: the config class.
        data: keys and values as read.
        where: file (or flag) for the message.
        text: the file's text, to find the line.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A misspelt key that is needed is told as itself rather than as missing.
        found = error.errors()
        first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
        path = tuple(p for p in first["loc"] if isinstance(p, str) and p not in UNION_TAGS)
        key = ".".join(str(p) for p in first["loc"] if p not in UNION_TAGS)  # entries of a list by number
        line = _line_of(text, path)
        place = f"{where}:{line}" if line else where
        raise UsageError(
            f"{place}: {_complaint(model, first, path, key)}", hint=_remedy(model, first, path)
        ) from None


def _complaint(model: type[BaseModel], first: Any, path: tuple[str, ...], key: str) -> str:
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}"
    if first["type"] == "missing":
        return f"key {key!r} is missing"
    message = str(first["msg"]).removeprefix("Value error, ")
    shown = first.get("input")
    if not key or isinstance(shown, Mapping | BaseModel):
        return f"{key}: {message}" if key else message
    return f"{key} = {shown!r}: {message}"


def _remedy(model: type[BaseModel], first: Any, path: tuple[str, ...]) -> str:
    names = list(_fields_at(model, path[:-1]))
    if first["type"] == "extra_forbidden":
        return nearest(path[-1], names, f"valid keys here: {', '.join(names)}")
    if first["type"] == "literal_error":
        return nearest(str(first.get("input")), _quoted(str(first["msg"])), "")
    return ""


def _quoted(message: str) -> list[str]:
    return message.split("'")[1::2]


def _fields_at(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[str]:
    """Names of the fields of the config class that stands at `path`."""
    parts = iter(path)
    for part in parts:
        field = model.model_fields.get(part)
        if field is None:
            return
        inner = inner_model(field)
        if inner is None:
            return
        if get_origin(field.annotation) is Mapping:
            next(parts, None)  # of a column or a target: any name
        model = inner
    yield from model.model_fields


def inner_model(field: FieldInfo) -> type[BaseModel] | None:
    """The config class that a field holds, also where it may be absent; None for plain values."""
    choices = (field.annotation, *getattr(field.annotation, "__args__", ()))
    return next((c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _line_of(text: str, path: tuple[str, ...]) -> int | None:
    """Line of a dotted key in TOML text; of its table where the key itself is absent."""
    table, best = "", None
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        header = re.fullmatch(r"\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?", stripped)
        if header:
            table = header[1]
            if table == ".".join(path) or (table and ".".join(path[:-1]) == table):
                best = number
        elif "=" in stripped:
            name = stripped.split("=", 1)[0].strip()
            full = f"{table}.{name}" if table else name
            if full == ".".join(path):
                return number
    return best


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """A TOML file as (data, text); a UsageError where it is missing or is not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None


def search_path(kind: str, beside: Path | None = None) -> tuple[Path, ...]:
    """Folders that hold configs of a kind: beside the recipe, the user's own here, the shipped ones."""
    folder = FOLDERS[kind]
    package = Path(str(resources.files("edgekd")))
    # In an installed wheel the shipped folders lie inside the package; in a checkout, beside it.
    shipped = package / "data" / folder
    own = [beside / folder] if beside is not None else []
    return (*own, Path.cwd() / folder, shipped if shipped.is_dir() else package.parent / folder)


def available(kind: str, beside: Path | None = None) -> dict[str, Path]:
    """Name -> file of every config of a kind, a user's own hiding a shipped one of the same name."""
    found: dict[str, Path] = {}
    for folder in search_path(kind, beside):
        for path in sorted(folder.glob("*.toml")) if folder.is_dir() else ():
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find(kind: str, name: str, beside: Path | None = None) -> Path:
    """The file of a config by name or path; a UsageError names the nearest where there is none.

    Args:
        kind: recipe, target or calibration.
        name: its name, or the path of a .toml file.
        beside: a folder to look in first.
    """
    if name.endswith(".toml"):
        if Path(name).is_file():
            return Path(name)
        raise UsageError(f"{name}: no such file")
    known = available(kind, beside)
    if name in known:
        return known[name]
    raise UsageError(f"unknown {kind} {name!r}", hint=nearest(name, known, f"known: {', '.join(known)}"))


def load_target(name: str, beside: Path | None = None) -> Target:
    """A target profile by name or path; `beside` as in `find`."""
    return _load(Target, "target", name, beside)


def load_calibration(name: str, beside: Path | None = None) -> CalibrationPolicy:
    """A calibration policy by name or path; `beside` as in `find`."""
    return _load(CalibrationPolicy, "calibration", name, beside)


def load_policy(path: Path) -> PolicyGate:
    """The policy of a file.

    Raises:
        UsageError: it is missing, no TOML, or holds what no policy has.
    """
    data, text = read_toml(path)
    return build(PolicyFile, data, str(path), text).gate


def _load(model: type[N], kind: str, name: str, beside: Path | None) -> N:
    path = find(kind, name, beside)
    data, text = read_toml(path)
    found = build(model, data, str(path), text)
    if found.name != path.stem:
        raise UsageError(
            f"{path}: name = {found.name!r}, the file is called {path.stem!r}", hint="give both the same name"
        )
    return found


def parse_override(text: str) -> tuple[str, Any]:
    """`key=value` as (key, TOML value); a bare word is taken as a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text!r}: not of the form key=value")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def override(data: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key in nested tables, in place."""
    *tables, last = key.split(".")
    for table in tables:
        data = data.setdefault(table, {})
        if not isinstance(data, dict):
            raise UsageError(f"--set {key}: {table!r} is a value, not a table")
    data[last] = value
