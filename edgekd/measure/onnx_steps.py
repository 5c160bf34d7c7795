"""The operators of an ONNX file with their shapes, worked out from those of its inputs and weights."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import MeasurementError
from edgekd.measure.contents import ONNX_TYPES
from edgekd.measure.onnx_shapes import MOST_VALUES, Values, output_shapes
from edgekd.measure.protobuf import Message
from edgekd.measure.steps import Step, Tensor

# Fields of ONNX's messages (onnx.proto).
_GRAPH, _NODE, _INITIALIZER, _INPUT, _VALUE_INFO = 7, 1, 5, 11, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_TYPE, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_I, _ATTRIBUTE_S, _ATTRIBUTE_T, _ATTRIBUTE_INTS = 1, 3, 4, 5, 8
_DIMS, _TYPE, _INT32, _INT64, _NAME, _RAW = 1, 2, 5, 7, 8, 9
_VALUE_TYPE, _TENSOR_TYPE, _ELEMENT, _SHAPE, _DIM, _DIM_VALUE, _DIM_PARAM = 2, 1, 1, 2, 1, 1, 2

_UNPACKS = frozenset("DequantizeLinear Cast Transpose Reshape Identity Squeeze Unsqueeze".split())
# Operators that take int8 as it is.
_INT8 = frozenset(
    "ConvInteger MatMulInteger QLinearConv QLinearMatMul QGemm QLinearAdd QLinearMul QLinearAveragePool "
    "QLinearGlobalAveragePool QLinearConcat QLinearSigmoid QLinearLeakyRelu QLinearSoftmax".split()
)
# Whose int8 kernel may give floats; all others have one only where a QuantizeLinear follows.
_GIVES_FLOATS = frozenset({"Gemm", "MatMul"})
_CLAMPS = frozenset({"Relu", "Clip"})
_BYTE = ("int8", "uint8")
_LOWEST = {"int8": -128, "uint8": 0}


class Node:
    """One operator as it lies in the file; attributes: integers, lists of them, texts and tensors by name."""

    def __init__(self, message: Message) -> None:
        self.name, self.kind = message.text(_NODE_NAME), message.text(_NODE_TYPE)
        self.inputs, self.outputs = message.texts(_NODE_INPUT), message.texts(_NODE_OUTPUT)
        self.integers: dict[str, int] = {}
        self.lists: dict[str, tuple[int, ...]] = {}
        self.strings: dict[str, str] = {}
        self.tensors: dict[str, Message] = {}
        for attribute in message.messages(_NODE_ATTRIBUTE):
            name = attribute.text(_ATTRIBUTE_NAME)
            if attribute.has(_ATTRIBUTE_I):
                self.integers[name] = attribute.numbers(_ATTRIBUTE_I)[-1]
            if attribute.has(_ATTRIBUTE_INTS):
                self.lists[name] = attribute.numbers(_ATTRIBUTE_INTS)
            if attribute.has(_ATTRIBUTE_S):
                self.strings[name] = attribute.text(_ATTRIBUTE_S)
            for tensor in attribute.messages(_ATTRIBUTE_T) if attribute.has(_ATTRIBUTE_T) else ():
                self.tensors[name] = tensor


def steps_of(path: Path) -> tuple[Step, ...]:
    """The operators of the file's graph that run for every sample, in their order.

    An operator between DequantizeLinear and QuantizeLinear computes in int8 where ONNX Runtime has a kernel
    that absorbs them.

    Raises:
        MeasurementError: it is no ONNX file, or broken.
    """
    try:
        return tuple(_Graph(Message(path.read_bytes()).message(_GRAPH)).steps())
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, struct.error) as error:
        raise MeasurementError(f"{path.name}: operators cannot be read as onnx: {error}") from error


class _Graph:
    """Tensors by name, growing operator by operator; values: of the small integer ones among them."""

    def __init__(self, graph: Message) -> None:
        self._nodes = [Node(message) for message in graph.messages(_NODE)]
        self._readers: dict[str, list[Node]] = {}
        for node in self._nodes:
            for name in node.inputs:
                self._readers.setdefault(name, []).append(node)
        self._free: set[str] = set()
        self._tensors = {t.name: t for t in (self._of(m, True) for m in graph.messages(_INPUT))}
        self._told = {t.name: t for t in (self._of(m, False) for m in graph.messages(_VALUE_INFO))}
        self._values: Values = {}
        self._zero_points: dict[str, int] = {}
        for message in graph.messages(_INITIALIZER):
            self._constant(message.text(_NAME), message)

    def steps(self) -> list[Step]:
        return [step for node in self._nodes if (step := self._step(node)) is not None]

    def _of(self, message: Message, is_input: bool) -> Tensor:
        """A value that the file tells the type of; free dimensions of inputs are 1, others not known."""
        name, kind = message.text(1), message.message(_VALUE_TYPE)
        if not kind.has(_TENSOR_TYPE):
            return Tensor(name, None, "")
        tensor = kind.message(_TENSOR_TYPE)
        dtype = _dtype(tensor.number(_ELEMENT))
        if not tensor.has(_SHAPE):
            return Tensor(name, None, dtype)
        shape = []
        for dim in tensor.message(_SHAPE).messages(_DIM):
            if is_input:
                self._free.add(dim.text(_DIM_PARAM))
            if not dim.has(_DIM_VALUE) and dim.text(_DIM_PARAM) not in self._free:
                return Tensor(name, None, dtype)
            shape.append(dim.number(_DIM_VALUE) if dim.has(_DIM_VALUE) else 1)
        return Tensor(name, tuple(shape), dtype)

    def _constant(self, name: str, message: Message) -> None:
        shape = message.numbers(_DIMS)
        tensor = Tensor(name, shape, _dtype(message.number(_TYPE)), constant=True)
        self._tensors[name] = replace(tensor, stored_bytes=tensor.size_bytes)
        if tensor.dtype in ("int64", "int32") and tensor.elements <= MOST_VALUES:
            self._values[name] = _integers(message, tensor.dtype).reshape(shape)
        elif tensor.dtype in _LOWEST and tensor.elements == 1:
            self._zero_points[name] = int(_integers(message, tensor.dtype)[0])

    def _step(self, node: Node) -> Step | None:
        if node.kind == "Constant":
            for message in node.tensors.values():
                self._constant(node.outputs[0], message)
            for name, numbers in ({k: (v,) for k, v in node.integers.items()} | node.lists).items():
                value = np.array(numbers, np.int64).reshape(() if name == "value_int" else -1)
                self._values[node.outputs[0]] = value
                self._tensors[node.outputs[0]] = Tensor(node.outputs[0], value.shape, "int64", constant=True)
            return None
        inputs = tuple(self._tensors.get(n, Tensor(n, None, "")) if n else None for n in node.inputs)
        shapes = output_shapes(
            node.kind, node, [None if t is None else t.shape for t in inputs], self._values
        )
        outputs = [
            self._output(node, name, inputs, shapes[k] if k < len(shapes) else None)
            for k, name in enumerate(node.outputs)
        ]
        self._tensors.update(zip(node.outputs, outputs, strict=True))
        if outputs and all(t.constant for t in outputs):
            return None
        dtype = "int8" if self._absorbed(node, inputs) else next((t.dtype for t in inputs if t), "")
        attributes = {k: v for k, v in node.integers.items() if k in ("transA", "K", "N")}
        return Step(_name(node, inputs), node.kind, inputs, tuple(outputs), dtype, attributes)

    def _output(
        self,
        node: Node,
        name: str,
        inputs: Sequence[Tensor | None],
        shape: tuple[int, ...] | None,
    ) -> Tensor:
        known = [t for t in inputs if t is not None]
        main = known[0] if known else Tensor("", None, "")
        dtype, packed = main.dtype, ""
        if node.kind in ("Cast", "QuantizeLinear", "ConstantOfShape"):
            to = node.integers.get("to") or node.integers.get("output_dtype")
            zero = known[2].dtype if len(known) > 2 else "uint8"
            dtype = _dtype(to) if to else "float32" if node.kind == "ConstantOfShape" else zero
        elif node.kind == "DequantizeLinear":
            packed, dtype = main.dtype, known[1].dtype if len(known) > 1 else "float32"
        elif node.kind in ("Shape", "Size", "ArgMax", "ArgMin", "NonZero"):
            dtype = "int64"
        elif node.kind in ("MatMulInteger", "ConvInteger"):
            dtype = "int32"
        elif node.kind == "DynamicQuantizeLinear":
            dtype = "uint8" if name == node.outputs[0] else "float32"
        elif node.kind in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Not", "And", "Or"):
            dtype = "bool"
        elif node.kind in ("Reshape", "Transpose", "Flatten", "Identity", "Squeeze", "Unsqueeze", "MaxPool"):
            packed = main.packed  # ONNX Runtime moves what unpacks them past these
        elif node.kind == "Where" and len(known) > 1:
            dtype = known[1].dtype
        told = self._told.get(name)
        if told is not None:
            shape, dtype = told.shape if shape is None else shape, told.dtype or dtype
        constant = bool(known) and all(t.constant for t in known)
        stored = main.stored_bytes if constant and node.kind in _UNPACKS else 0
        # A shape that follows from others is one too: the runtime folds it.
        return Tensor(
            main.name if stored else name, shape, dtype, packed, stored, constant or name in self._values
        )

    def _absorbed(self, node: Node, inputs: Sequence[Tensor | None]) -> bool:
        """Whether the runtime computes it in int8."""
        if node.kind in _INT8:
            return True
        data = [t for t in inputs[:2] if t is not None and (t.elements != 1 or not t.constant)]
        if not data or any(t.packed not in _BYTE for t in data):
            return False
        return node.kind in _GIVES_FLOATS or all(self._packed_next(name) for name in node.outputs)

    def _packed_next(self, name: str, clamped: str = "") -> bool:
        """Whether all that read a tensor quantize it, behind one clamp at most, which that then does too."""
        readers = self._readers.get(name, [])
        return bool(readers) and all(
            (node.kind == "QuantizeLinear" and (clamped != "Relu" or self._from_zero(node)))
            or (node.kind in _CLAMPS and not clamped and self._packed_next(node.outputs[0], node.kind))
            for node in readers
        )

    def _from_zero(self, node: Node) -> bool:
        """Whether nothing below zero has a code: a ReLU before it changes nothing."""
        if len(node.inputs) < 3:
            return True  # uint8 from 0 on
        zero = node.inputs[2]
        tensor = self._tensors.get(zero)
        return tensor is not None and self._zero_points.get(zero) == _LOWEST.get(tensor.dtype)


def _dtype(number: int) -> str:
    return ONNX_TYPES.get(number, "")


def _integers(message: Message, dtype: str) -> NDArray[np.int64]:
    raw = message.data(_RAW)
    if raw:
        return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).astype(np.int64)
    return np.array(message.numbers(_INT64 if dtype == "int64" else _INT32), np.int64)


def _name(node: Node, inputs: Sequence[Tensor | None]) -> str:
    """The module's own path, where the exporter kept it, says more than the node's number."""
    for tensor in inputs:
        if tensor is not None and tensor.constant:
            path, dot, kind = tensor.name.rpartition(".")
            if dot and kind in ("weight", "bias"):
                return path
    return node.name or (node.outputs[0] if node.outputs else node.kind)
