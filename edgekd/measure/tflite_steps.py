"""The operators of a TFLite file with their shapes, which lie in the file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from edgekd.errors import MeasurementError
from edgekd.measure.inventory import main_dtype
from edgekd.measure.steps import Step, Tensor

# On constants they only unpack or turn, once when the file is loaded.
_UNPACKS = frozenset({"DEQUANTIZE", "CAST", "TRANSPOSE", "RESHAPE"})


def steps_of(path: Path) -> tuple[Step, ...]:
    """The operators of the file's first subgraph, in their order.

    Raises:
        MeasurementError: it is no TFLite file, or broken.
    """
    try:
        return _steps(path.read_bytes())
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, struct.error) as error:
        raise MeasurementError(f"{path.name}: operators cannot be read as tflite: {error}") from error


def _steps(data: bytes) -> tuple[Step, ...]:
    from ai_edge_litert import schema_py_generated as tfl

    if data[4:8] != b"TFL3":
        raise ValueError("no TFLite file")
    kinds = {code: name for name, code in vars(tfl.BuiltinOperator).items() if isinstance(code, int)}
    dtypes = {code: name.lower() for name, code in vars(tfl.TensorType).items() if isinstance(code, int)}
    model = tfl.Model.GetRootAs(data, 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    types = [kinds.get(max(c.BuiltinCode(), c.DeprecatedBuiltinCode()), "CUSTOM") for c in codes]
    if not model.SubgraphsLength():
        raise ValueError("no subgraph")
    graph = model.Subgraphs(0)
    tensors: dict[int, Tensor] = {}
    for i in range(graph.TensorsLength()):
        tensors[i] = _tensor(i, graph.Tensors(i), model, dtypes)
    found = []
    for operator in (graph.Operators(i) for i in range(graph.OperatorsLength())):
        kind = types[operator.OpcodeIndex()]
        ins = [operator.Inputs(k) for k in range(operator.InputsLength())]
        outs = [operator.Outputs(k) for k in range(operator.OutputsLength())]
        inputs = tuple(tensors[i] if i >= 0 else None for i in ins)
        if kind in _UNPACKS and inputs and all(t is None or t.constant for t in inputs):
            source = inputs[0]
            assert source is not None
            for i in outs:
                tensors[i] = Tensor(
                    source.name, tensors[i].shape, tensors[i].dtype, source.dtype, source.stored_bytes, True
                )
            continue
        outputs = tuple(tensors[i] for i in outs)
        dtype = main_dtype(kind, ["" if t is None else t.dtype for t in inputs])
        found.append(Step(_name(inputs, outputs), kind, inputs, outputs, dtype, _attributes(operator, tfl)))
    return tuple(found)


def _tensor(place: int, tensor: Any, model: Any, dtypes: dict[int, str]) -> Tensor:
    buffer = model.Buffers(tensor.Buffer())
    stored = max(buffer.DataLength(), buffer.Size()) if tensor.Buffer() else 0
    return Tensor(
        f"{place} {tensor.Name().decode() if tensor.Name() else ''}",  # names need not differ
        tuple(tensor.Shape(i) for i in range(tensor.ShapeLength())),
        dtypes.get(tensor.Type(), ""),
        stored_bytes=stored,
        constant=stored > 0,
    )


def _name(inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor, ...]) -> str:
    """TFLite's operators have no names: the largest constant that one reads names it, else its output."""
    constants = [t for t in inputs if t is not None and t.constant]
    largest = max(constants, key=lambda t: t.stored_bytes, default=None)
    name = largest.name if largest is not None else outputs[0].name if outputs else ""
    name = name.partition(" ")[2]
    stem, colon, number = name.rpartition(":")  # the converter numbers what has the same name
    return stem if colon and number.isdigit() else name


def _attributes(operator: Any, tfl: Any) -> dict[str, int]:
    if operator.BuiltinOptionsType() != tfl.BuiltinOptions.BatchMatMulOptions:
        return {}
    options = tfl.BatchMatMulOptions()
    table = operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    return {"transA": int(options.AdjX())}
