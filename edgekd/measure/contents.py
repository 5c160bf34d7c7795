"""What the bytes of a model file are: its constants, by the operator that reads them and by type.

Files are read as they lie on disk, without the libraries that wrote them, which a light install lacks.
A weight that is unpacked first (DEQUANTIZE, DequantizeLinear) belongs to the operator behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd.errors import MeasurementError
from edgekd.measure.protobuf import Message
from edgekd.types import Format

# Fields of ONNX's messages (onnx.proto, IR version 3 and later).
_GRAPH, _NODE, _INITIALIZER = 7, 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_TYPE, _NODE_ATTRIBUTE, _ATTRIBUTE_TENSOR = 1, 2, 3, 4, 5, 5
_TENSOR_TYPE, _TENSOR_NAME = 2, 8
_TENSOR_DATA = (4, 5, 6, 7, 9, 10, 11)  # float, int32, string, int64, raw, double, uint64
ONNX_TYPES = dict(
    enumerate(
        "undefined float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 uint64 "
        "complex64 complex128 bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz uint4 int4 "
        "float4e2m1 float8e8m0 uint2 int2 float6e2m3 float6e3m2".split()
    )
)
# They hand on a constant in another form.
_PASSES = frozenset(
    "DequantizeLinear QuantizeLinear Cast Transpose Reshape Identity Squeeze Unsqueeze DEQUANTIZE".split()
)


@dataclass(frozen=True)
class Constant:
    """Bytes of one constant in a file, with the operator that reads it ("" where none does)."""

    layer: str
    op_type: str
    dtype: str
    size_bytes: int


@dataclass(frozen=True)
class _Operator:
    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def constants_of(path: Path, file_format: Format) -> tuple[Constant, ...]:
    """Every constant of a file that has bytes in it, each once.

    Raises:
        MeasurementError: the file is not of that format.
    """
    data = path.read_bytes()
    try:
        return tuple(_of_onnx(data) if file_format == "onnx" else _of_tflite(data))
    except (ValueError, IndexError, TypeError, AttributeError, OverflowError, struct.error) as error:
        raise MeasurementError(f"{path.name}: constants cannot be read as {file_format}: {error}") from error


def _of_onnx(data: bytes) -> Iterator[Constant]:
    graph = Message(data).message(_GRAPH)
    operators, found = [], []
    for node in graph.messages(_NODE):
        outputs = node.texts(_NODE_OUTPUT)
        operators.append(
            _Operator(node.text(_NODE_NAME), node.text(_NODE_TYPE), node.texts(_NODE_INPUT), outputs)
        )
        if operators[-1].op_type == "Constant":
            found += [
                (outputs[0], tensor)
                for attribute in node.messages(_NODE_ATTRIBUTE)
                for tensor in attribute.messages(_ATTRIBUTE_TENSOR)
            ]
    found += [(tensor.text(_TENSOR_NAME), tensor) for tensor in graph.messages(_INITIALIZER)]
    readers = _readers(operators)
    for name, tensor in found:
        size = sum(tensor.size(field) for field in _TENSOR_DATA)
        reader = _behind(name, readers)
        dtype = _type(ONNX_TYPES, tensor.number(_TENSOR_TYPE))
        # The module's own path, where the exporter kept it, says more than the node's number.
        path, dot, kind = name.rpartition(".")
        layer = path if dot and kind in ("weight", "bias") else reader.name
        if size:
            yield Constant(layer or name, reader.op_type, dtype, size)


def _of_tflite(data: bytes) -> Iterator[Constant]:
    from ai_edge_litert import schema_py_generated as tfl

    if data[4:8] != b"TFL3":
        raise ValueError("no TFLite file")
    kinds = {code: name for name, code in vars(tfl.BuiltinOperator).items() if isinstance(code, int)}
    dtypes = {code: name.lower() for name, code in vars(tfl.TensorType).items() if isinstance(code, int)}
    model = tfl.Model.GetRootAs(data, 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    types = [kinds.get(max(c.BuiltinCode(), c.DeprecatedBuiltinCode()), "CUSTOM") for c in codes]
    seen = {0}  # the buffer of tensors that have none
    for place in range(model.SubgraphsLength()):
        graph = model.Subgraphs(place)
        tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
        names = [f"{i} {t.Name().decode() if t.Name() else ''}" for i, t in enumerate(tensors)]
        operators = [
            _Operator(
                "",
                types[o.OpcodeIndex()],
                tuple(names[i] for k in range(o.InputsLength()) if (i := o.Inputs(k)) >= 0),
                tuple(names[i] for k in range(o.OutputsLength()) if (i := o.Outputs(k)) >= 0),
            )
            for o in (graph.Operators(i) for i in range(graph.OperatorsLength()))
        ]
        readers, sizes = _readers(operators), {}
        for name, tensor in zip(names, tensors, strict=True):
            buffer = model.Buffers(tensor.Buffer())
            if tensor.Buffer() not in seen and (size := max(buffer.DataLength(), buffer.Size())):
                seen.add(tensor.Buffer())
                sizes[name] = size, _type(dtypes, tensor.Type())
        yield from _named_by_largest(sizes, readers)


def _named_by_largest(
    sizes: Mapping[str, tuple[int, str]], readers: Mapping[str, _Operator]
) -> Iterator[Constant]:
    """TFLite's operators have no names: the largest constant that one reads names it."""
    largest: dict[int, str] = {}
    behind = {name: _behind(name, readers) for name in sizes}
    for name in sorted(sizes, key=lambda n: -sizes[n][0]):
        largest.setdefault(id(behind[name]), name)
    for name, (size, dtype) in sizes.items():
        whose = largest[id(behind[name])] if behind[name].op_type else name
        text = whose.partition(" ")[2]
        stem, colon, number = text.rpartition(":")  # the converter numbers what has the same name
        yield Constant(stem if colon and number.isdigit() else text, behind[name].op_type, dtype, size)


def _type(known: Mapping[int, str], number: int) -> str:
    return known.get(number, f"type {number}")


def _readers(operators: list[_Operator]) -> dict[str, _Operator]:
    """Tensor -> the first operator that reads it."""
    found: dict[str, _Operator] = {}
    for operator in operators:
        for name in operator.inputs:
            found.setdefault(name, operator)
    return found


_NOBODY = _Operator("", "", (), ())


def _behind(name: str, readers: Mapping[str, _Operator]) -> _Operator:
    """The operator that a constant is for."""
    reader, passed = readers.get(name, _NOBODY), 0
    # Bounded, since a broken file may run in circles.
    while reader.op_type in _PASSES and reader.outputs and passed < 8:
        further = readers.get(reader.outputs[0])
        if further is None:
            return reader
        reader, passed = further, passed + 1
    return reader
