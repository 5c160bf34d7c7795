"""What an exported file says of itself: edgekd's metadata, and its tensors as the runtime reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError

from edgekd.errors import UsageError
from edgekd.measure.bench import sniff
from edgekd.measure.protobuf import Message
from edgekd.runtimes import TensorInfo, open_session
from edgekd.types import Format

# Fields of ONNX's messages (onnx.proto): the model's metadata_props, and a key and value of one.
_PROPS, _KEY, _VALUE = 14, 1, 2
_TFLITE_NAME = b"edgekd"  # as the exporter names the buffer
_RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert"}
_BY = "only files that `edgekd run` exported have it"
# Raw samples -> tensors of a file that can be fed from them; the narrow ones only where they have a scale.
_TAKEN = {
    "uint8": ("float32", "int8", "uint8"),
    "float32": ("float32", "int8", "uint8"),
    "int32": ("int32", "int64"),
}
_GIVEN = ("float32", "int8", "uint8")


class Input(BaseModel):
    """`edgekd.input` of a file: see `edgekd.types.InputSpec`; `shape` and `layout` are the file's own."""

    model_config = ConfigDict(frozen=True)

    name: str
    shape: tuple[int, ...] = Field(min_length=1)
    layout: str
    raw_dtype: str
    scale: float = Field(gt=0, allow_inf_nan=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def is_image(self) -> bool:
        """Whether it has rows, columns and channels."""
        return len(self.shape) == 3

    @property
    def is_ids(self) -> bool:
        """Whether its values are ids: of tokens, users, items."""
        return self.raw_dtype == "int32"

    @property
    def channels(self) -> int:
        """Values of `mean` and `std`: one a channel, or one a feature."""
        return self.shape[0] if self.layout != "NHWC" else self.shape[-1]

    @property
    def size(self) -> int:
        """Values of one sample."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Facts:
    """All that a snippet says of a file.

    Attributes:
        file: its name.
        format: "onnx" or "tflite".
        scheme: how it is quantized.
        input: its metadata of the input.
        class_names: of the first outputs; () where outputs are no classes.
        heads: class names of further questions, behind them and the vector.
        vector: width of the vector, right behind the classes; 0 where there is none.
        taken: the input's tensor.
        given: the output's tensor.
    """

    file: str
    format: Format
    scheme: str
    input: Input
    class_names: tuple[str, ...]
    heads: Mapping[str, tuple[str, ...]]
    taken: TensorInfo
    given: TensorInfo
    vector: int = 0

    @property
    def num_outputs(self) -> int:
        """Values that the file gives for one sample."""
        return math.prod(size or 1 for size in self.given.shape[1:])


def facts_of(path: Path) -> Facts:
    """What a file says of itself.

    Raises:
        UsageError: there is no such file, its metadata is not edgekd's, or its tensors are of a kind for
            which there is no snippet.
        MeasurementError: it is no model, or its runtime does not load it.
    """
    file_format = sniff(path)
    metadata = metadata_of(path, file_format)
    session = open_session(_RUNTIMES[file_format], path)
    if len(session.inputs) != 1 or len(session.outputs) != 1:
        raise UsageError(
            f"{path.name}: {len(session.inputs)} inputs and {len(session.outputs)} outputs",
            hint="a snippet feeds one input and reads one output",
        )
    found = Facts(
        file=path.name,
        format=file_format,
        scheme=_entry(path, metadata, "edgekd.scheme", str, text=True),
        input=_entry(path, metadata, "edgekd.input", Input),
        class_names=_entry(path, metadata, "edgekd.class_names", tuple[str, ...]),
        heads=_entry(path, {"edgekd.heads": "{}"} | metadata, "edgekd.heads", dict[str, tuple[str, ...]]),
        taken=session.inputs[0],
        given=session.outputs[0],
        vector=_entry(path, {"edgekd.vector": "0"} | metadata, "edgekd.vector", NonNegativeInt),
    )
    _check(path, found)
    return found


def metadata_of(path: Path, file_format: Format) -> dict[str, str]:
    """The texts that the exporters wrote into a file, by their names.

    Raises:
        UsageError: there are none, or they are damaged.
    """
    data = path.read_bytes()
    try:
        return _of_onnx(data) if file_format == "onnx" else _of_tflite(data)
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise UsageError(f"{path.name}: metadata cannot be read: {error}") from error


def _of_onnx(data: bytes) -> dict[str, str]:
    return {entry.text(_KEY): entry.text(_VALUE) for entry in Message(data).messages(_PROPS)}


def _of_tflite(data: bytes) -> dict[str, str]:
    from ai_edge_litert import schema_py_generated as tfl

    model = tfl.Model.GetRootAs(data, 0)
    for entry in (model.Metadata(i) for i in range(model.MetadataLength())):
        if entry.Name() == _TFLITE_NAME:
            buffer = model.Buffers(entry.Buffer())
            content = buffer.DataAsNumpy().tobytes() if buffer.DataLength() else b""
            return TypeAdapter(dict[str, str]).validate_json(content)
    return {}


def _entry(path: Path, metadata: Mapping[str, str], key: str, kind: Any, *, text: bool = False) -> Any:
    if key not in metadata:
        there = ", ".join(sorted(metadata)) or "none at all"
        raise UsageError(f"{path.name}: metadata {key!r} is missing (there is: {there})", hint=_BY)
    try:
        value = metadata[key] if text else json.loads(metadata[key])
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (key, *first["loc"])))
        raise UsageError(f"{path.name}: metadata {where!r}: {first['msg']}", hint=_BY) from error
    except ValueError as error:
        raise UsageError(f"{path.name}: metadata {key!r} is no JSON: {error}", hint=_BY) from error


def _check(path: Path, facts: Facts) -> None:
    spec, taken, given = facts.input, facts.taken, facts.given
    _check_scaling(path, spec)
    if taken.shape[1:] != spec.shape or taken.shape[0] not in (None, 1):
        raise UsageError(
            f"{path.name}: takes {taken.shape}, and its metadata says one sample is {spec.shape}",
            hint="a snippet feeds one sample at a time",
        )
    fits = taken.dtype in _TAKEN[spec.raw_dtype]
    if not fits or (taken.dtype in ("int8", "uint8") and not taken.scale):
        raise UsageError(
            f"{path.name}: its input is {taken.dtype}, scale {taken.scale}; raw samples are {spec.raw_dtype}",
            hint=f"snippets feed them to {', '.join(_TAKEN[spec.raw_dtype])}, integers with a scale",
        )
    if given.dtype not in _GIVEN or (given.dtype != "float32" and not given.scale):
        raise UsageError(
            f"{path.name}: its output is {given.dtype}, scale {given.scale}",
            hint=f"snippets read {', '.join(_GIVEN)}, integers with a scale",
        )
    named = len(facts.class_names) + facts.vector + sum(map(len, facts.heads.values()))
    if facts.class_names and named != facts.num_outputs:
        raise UsageError(f"{path.name}: {facts.num_outputs} outputs, and its metadata names {named}")


def _check_scaling(path: Path, spec: Input) -> None:
    """That the formula (raw / scale - mean) / std can be written down."""
    if spec.raw_dtype not in _TAKEN:
        raise UsageError(
            f"{path.name}: metadata 'edgekd.input.raw_dtype': {spec.raw_dtype!r}",
            hint=f"known: {', '.join(_TAKEN)}",
        )
    if spec.is_ids:
        return
    for name, values in (("mean", spec.mean), ("std", spec.std)):
        if len(values) != spec.channels or not all(map(math.isfinite, values)):
            raise UsageError(
                f"{path.name}: metadata 'edgekd.input.{name}': {len(values)} values, not {spec.channels} "
                "finite ones"
            )
    if not all(spec.std):
        raise UsageError(f"{path.name}: metadata 'edgekd.input.std': holds 0")
