"""Probes as ONNX files, put together operator by operator; integer ones with Q and DQ around each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekd.layers import Layer

_OPSET = 18
_ACTIVATION_SCALE, _WEIGHT_SCALE = 0.05, 0.01
_TYPES = {"signed": (np.int8, TensorProto.INT8, -128), "unsigned": (np.uint8, TensorProto.UINT8, 0)}


def build(layers: Sequence[Layer], scheme: str, activations: str) -> bytes:
    """See `edgekd.probes.build`."""
    return _File(activations if scheme == "static_wi8_ai8" else None).of(layers)


class _File:
    """A graph, growing. In integer files a value's name is that of the quantized tensor."""

    def __init__(self, activations: str | None) -> None:
        self._integers = self._whole_weights = activations is not None
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._random = np.random.default_rng(0)
        self._type = TensorProto.FLOAT
        if activations is not None:
            kind, self._type, zero = _TYPES[activations]
            self._pair = [self._constant(np.float32(_ACTIVATION_SCALE)), self._constant(kind(zero))]

    def of(self, layers: Sequence[Layer]) -> bytes:
        """The file."""
        first, last = layers[0], layers[-1]
        shape = [1, first.in_channels, first.height, first.width]
        here, flat = "x", first.kind == "linear"
        for layer in layers:
            if layer.kind == "linear" and not flat:
                here, flat = self._around("Flatten", [here]), True
            self._whole_weights = self._integers and not layer.in_float
            here = getattr(self, f"_{layer.kind}")(here, layer)
        end = [1, last.out_channels] if flat else [1, last.out_channels, last.out_height, last.out_width]
        graph = helper.make_graph(
            self._nodes,
            "probe",
            [helper.make_tensor_value_info("x", self._type, shape[:2] if first.kind == "linear" else shape)],
            [helper.make_tensor_value_info(here, self._type, end)],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
        return bytes(model.SerializeToString())

    def _conv(self, x: str, layer: Layer) -> str:
        return self._convolve(x, layer, 1)

    def _depthwise(self, x: str, layer: Layer) -> str:
        return self._convolve(x, layer, layer.in_channels)

    def _convolve(self, x: str, layer: Layer, groups: int) -> str:
        shape = (layer.out_channels, layer.in_channels // groups, layer.kernel, layer.kernel)
        return self._around(
            "Conv",
            [x],
            self._weights(shape),
            relu=True,
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            pads=[layer.padding] * 4,
            group=groups,
        )

    def _linear(self, x: str, layer: Layer) -> str:
        return self._around("Gemm", [x], self._weights((layer.out_channels, layer.in_channels)), transB=1)

    def _add(self, x: str, layer: Layer) -> str:
        return self._around("Add", [x, x], relu=True)

    def _max_pool(self, x: str, layer: Layer) -> str:
        kernel, strides, pads = [layer.kernel] * 2, [layer.stride] * 2, [layer.padding] * 4
        return self._around("MaxPool", [x], kernel_shape=kernel, strides=strides, pads=pads)

    def _global_pool(self, x: str, layer: Layer) -> str:
        return self._around("GlobalAveragePool", [x])

    def _around(
        self, op: str, inputs: list[str], weights: Sequence[str] = (), relu: bool = False, **attributes: Any
    ) -> str:
        """The operator on floats, in integer files between DequantizeLinear and QuantizeLinear."""
        if self._integers:
            inputs = [self._node("DequantizeLinear", [x, *self._pair]) for x in inputs]
            if weights and not self._whole_weights:  # as in exported files (see quantize.apart)
                inputs = [self._node("Neg", [x]) for x in inputs]
        y = self._node(op, [*inputs, *weights], **attributes)
        if relu:
            y = self._node("Relu", [y])
        return self._node("QuantizeLinear", [y, *self._pair]) if self._integers else y

    def _weights(self, shape: tuple[int, ...]) -> list[str]:
        channels = shape[0]
        if not self._whole_weights:
            values = self._random.standard_normal(shape).astype(np.float32) * np.float32(0.1)
            return [self._constant(values), self._constant(np.zeros(channels, np.float32))]
        whole = self._random.integers(-127, 128, shape, np.int8)
        bias = self._random.integers(-999, 999, channels, np.int32)
        found = []
        for values, scale in ((whole, _WEIGHT_SCALE), (bias, _WEIGHT_SCALE * _ACTIVATION_SCALE)):
            scales = self._constant(np.full(channels, scale, np.float32))
            zeros = self._constant(np.zeros(channels, values.dtype))
            found.append(self._node("DequantizeLinear", [self._constant(values), scales, zeros], axis=0))
        return found

    def _constant(self, values: NDArray[Any] | np.generic) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name
