"""Weights of ONNX files in fewer bits, everything else as it was."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from edgekd.errors import ExportError

# Operator -> which input is its weight, and the axis of output channels (of tables, of rows).
_WEIGHTS = {"Conv": (1, 0), "ConvTranspose": (1, 1), "Gemm": (1, 1), "MatMul": (1, -1), "Gather": (0, 0)}


def to_8_bits(model: onnx.ModelProto) -> None:
    """Turns float weights, in place, into 8 bits with a scale for each output channel, -127 to 127.

    The runtime turns them back when it loads the file, so they save storage and not time. A weight that is
    used in two ways, or has one dimension, stays in float. No DequantizeLinear stands there: ONNX Runtime
    takes that before a matrix product for MatMulNBits, which rounds the activations too, and repeats it
    before a convolution at every inference.

    Raises:
        ExportError: there is no weight that could be turned.
    """
    graph = model.graph
    constants = _constants(graph)
    uses: dict[str, set[int | None]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            uses.setdefault(name, set()).add(_axis(node, place))
        for name in _inside(node):
            uses.setdefault(name, set()).add(None)
    taken = {*uses, *constants, *(name for node in graph.node for name in node.output)}
    turned = False
    for name, tensor in constants.items():
        (axis, *others), values = uses.get(name, {None}), onnx.numpy_helper.to_array(tensor)
        if others or axis is None or values.ndim < 2 or values.dtype != np.float32:
            continue
        axis %= values.ndim
        largest = np.abs(values).max(axis=tuple(i for i in range(values.ndim) if i != axis), keepdims=True)
        scale = np.where(largest == 0, np.float32(1), largest / np.float32(127))
        whole, by, steps = (_unused(f"{name}_{part}", taken) for part in ("int8", "scale", "steps"))
        _remove(graph, name)
        graph.initializer.append(onnx.numpy_helper.from_array(np.rint(values / scale).astype(np.int8), whole))
        graph.initializer.append(onnx.numpy_helper.from_array(scale, by))
        cast = onnx.helper.make_node("Cast", [whole], [steps], steps, to=onnx.TensorProto.FLOAT)
        graph.node.insert(0, cast)
        graph.node.insert(1, onnx.helper.make_node("Mul", [steps, by], [name], f"{name}_float"))
        turned = True
    if not turned:
        raise ExportError(
            "no weight of the ONNX file can be stored in 8 bits",
            hint="it has no constant float weight of a convolution, matrix product or table",
        )


def to_halves(model: onnx.ModelProto) -> None:
    """Stores float weights that were rounded to 16 bits in these, in place; others are left alone.

    The runtime widens them when it loads the file.
    """
    graph = model.graph
    constants, taken = {i.name: i for i in graph.initializer}, {i.name for i in graph.initializer}
    taken |= {name for node in graph.node for name in (*node.input, *node.output)}
    weights = [node.input[_WEIGHTS[node.op_type][0]] for node in graph.node if node.op_type in _WEIGHTS]
    for name in dict.fromkeys(weights):
        if name not in constants:
            continue
        values = onnx.numpy_helper.to_array(constants[name])
        if values.dtype != np.float32 or not (values.astype(np.float16).astype(np.float32) == values).all():
            continue
        half = _unused(f"{name}_half", taken)
        _remove(graph, name)
        graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float16), half))
        cast = onnx.helper.make_node("Cast", [half], [name], f"{name}_float", to=onnx.TensorProto.FLOAT)
        graph.node.insert(0, cast)


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Tensors by name, whether they are initializers or what a Constant gives."""
    found = {i.name: i for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def _inside(node: onnx.NodeProto) -> Iterator[str]:
    """What the bodies of a loop or a condition may read from around it."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from _inside(inner)


def _remove(graph: onnx.GraphProto, name: str) -> None:
    for held in (graph.initializer, graph.input):  # old files list their weights as inputs too
        for entry in [e for e in held if e.name == name]:
            held.remove(entry)
    for node in [n for n in graph.node if n.op_type == "Constant" and n.output[0] == name]:
        graph.node.remove(node)


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _axis(node: onnx.NodeProto, place: int) -> int | None:
    """Of output channels of the weight at an input of a node; None: what stands there is no weight."""
    at, axis = _WEIGHTS.get(node.op_type, (None, 0))
    if place != at:
        return None
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if node.op_type == "Gemm" and transposed else axis
