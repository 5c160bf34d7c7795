"""ONNX weights in 8 bits, everything else in float."""

from __future__ import annotations

import numpy as np
import onnx

# Operator -> which input is its weight, and the axis of output channels (of tables, of rows).
_WEIGHTS = {"Conv": (1, 0), "ConvTranspose": (1, 1), "Gemm": (1, 1), "MatMul": (1, -1), "Gather": (0, 0)}


def to_8_bits(model: onnx.ModelProto) -> None:
    """Turns float weights, in place, into 8 bits with a scale for each output channel, -127 to 127.

    The runtime turns them back when it loads the file, so they save storage and not time. A weight that is
    used in two ways, or has one dimension, stays in float. No DequantizeLinear stands there: ONNX Runtime
    takes that before a matrix product for MatMulNBits, which rounds the activations too, and repeats it
    before a convolution at every inference.
    """
    graph = model.graph
    constants = {i.name: i for i in graph.initializer}
    uses: dict[str, set[int | None]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in constants:
                uses.setdefault(name, set()).add(_axis(node, place))
    for name, axes in uses.items():
        (axis, *others), values = axes, onnx.numpy_helper.to_array(constants[name])
        if others or axis is None or values.ndim < 2 or values.dtype != np.float32:
            continue
        axis %= values.ndim
        largest = np.abs(values).max(axis=tuple(i for i in range(values.ndim) if i != axis), keepdims=True)
        scale = np.where(largest == 0, np.float32(1), largest / np.float32(127))
        parts = {f"{name}_int8": np.rint(values / scale).astype(np.int8), f"{name}_scale": scale}
        graph.initializer.remove(constants[name])
        graph.initializer.extend(onnx.numpy_helper.from_array(part, key) for key, part in parts.items())
        steps = f"{name}_steps"
        graph.node.insert(
            0, onnx.helper.make_node("Cast", [f"{name}_int8"], [steps], steps, to=onnx.TensorProto.FLOAT)
        )
        graph.node.insert(1, onnx.helper.make_node("Mul", [steps, f"{name}_scale"], [name], f"{name}_float"))


def _axis(node: onnx.NodeProto, place: int) -> int | None:
    """Of output channels of the weight at an input of a node; None: what stands there is no weight."""
    at, axis = _WEIGHTS.get(node.op_type, (None, 0))
    if place != at:
        return None
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if node.op_type == "Gemm" and transposed else axis
