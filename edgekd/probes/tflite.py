"""Probes as TFLite files, put together operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tfl
from numpy.typing import NDArray

from edgekd.layers import Layer

_OP = tfl.BuiltinOperator
# Versions of the operators that take 8-bit tensors with a scale a channel.
_VERSIONS = {
    _OP.CONV_2D: 3,
    _OP.DEPTHWISE_CONV_2D: 3,
    _OP.FULLY_CONNECTED: 4,
    _OP.ADD: 2,
    _OP.PAD: 2,
    _OP.PADV2: 2,
    _OP.MAX_POOL_2D: 2,
    _OP.MEAN: 2,
    _OP.RESHAPE: 1,
    _OP.DEQUANTIZE: 2,
    _OP.QUANTIZE: 1,
}
_SAME, _VALID = tfl.Padding.SAME, tfl.Padding.VALID
_RELU = tfl.ActivationFunctionType.RELU
# Images at or near zero mean come out of these kernels in full range whatever the scales are.
_ACTIVATION_SCALE, _WEIGHT_SCALE = 0.05, 0.01


def build(layers: Sequence[Layer], scheme: str, activations: str) -> bytes:
    """See `edgekd.probes.build`; activations are always signed here."""
    return _File(integers=scheme == "static_wi8_ai8").of(layers)


class _File:
    """A model with one graph, growing."""

    def __init__(self, integers: bool) -> None:
        self._integers = integers
        self._random = np.random.default_rng(0)
        self._graph = tfl.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._model = tfl.ModelT()
        self._model.version, self._model.subgraphs = 3, [self._graph]
        self._model.buffers, self._model.operatorCodes = [tfl.BufferT()], []
        self._codes: dict[int, int] = {}

    def of(self, layers: Sequence[Layer]) -> bytes:
        """The file."""
        first = layers[0]
        if first.kind == "linear":
            here = start = self._activation(1, first.in_channels)
        else:
            here = start = self._activation(1, first.height, first.width, first.in_channels)
        for layer in layers:
            here = self._in_float(here, layer) if layer.in_float else self._layer(here, layer)
        self._graph.inputs, self._graph.outputs = [start], [here]
        builder = flatbuffers.Builder(1 << 14)
        builder.Finish(self._model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _layer(self, x: int, layer: Layer) -> int:
        found: int = getattr(self, f"_{layer.kind}")(x, layer)
        return found

    def _in_float(self, x: int, layer: Layer) -> int:
        """The layer in a file of integers that computes it in float."""
        self._integers = False
        y = self._activation(*self._graph.tensors[x].shape)
        self._run(_OP.DEQUANTIZE, [x], y, tfl.BuiltinOptions.DequantizeOptions, tfl.DequantizeOptionsT())
        y = self._layer(y, layer)
        self._integers = True
        z = self._activation(*self._graph.tensors[y].shape)
        self._run(_OP.QUANTIZE, [y], z, tfl.BuiltinOptions.QuantizeOptions, tfl.QuantizeOptionsT())
        return z

    def _conv(self, x: int, layer: Layer) -> int:
        if layer.in_channels == 1:  # the converter writes it so
            return self._depthwise(x, layer)
        shape = (layer.out_channels, layer.kernel, layer.kernel, layer.in_channels)
        return self._convolve(
            x, layer, shape, 0, _OP.CONV_2D, tfl.BuiltinOptions.Conv2DOptions, tfl.Conv2DOptionsT()
        )

    def _depthwise(self, x: int, layer: Layer) -> int:
        shape = (1, layer.kernel, layer.kernel, layer.out_channels)
        options = tfl.DepthwiseConv2DOptionsT()
        options.depthMultiplier = layer.out_channels // layer.in_channels
        kind = tfl.BuiltinOptions.DepthwiseConv2DOptions
        return self._convolve(x, layer, shape, 3, _OP.DEPTHWISE_CONV_2D, kind, options)

    def _convolve(
        self, x: int, layer: Layer, shape: tuple[int, ...], axis: int, op: int, kind: int, options: Any
    ) -> int:
        options.padding = _VALID
        if layer.padding and layer.stride == 1 and layer.kernel == 2 * layer.padding + 1:
            options.padding = _SAME
        elif layer.padding:  # TensorFlow pads other sides than PyTorch where the stride is not 1
            x = self._pad(x, layer)
        options.strideH = options.strideW = layer.stride
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = _RELU
        y = self._activation(1, layer.out_height, layer.out_width, layer.out_channels)
        self._run(op, [x, *self._weights(shape, axis, layer.out_channels)], y, kind, options)
        return y

    def _pad(self, x: int, layer: Layer, least: int | None = None) -> int:
        """With zeros around, or with what `least` holds."""
        side = [layer.padding, layer.padding]
        sides = self._constant(np.array([[0, 0], side, side, [0, 0]], np.int32), tfl.TensorType.INT32)
        more = 2 * layer.padding
        y = self._activation(1, layer.height + more, layer.width + more, layer.in_channels)
        if least is None:
            self._run(_OP.PAD, [x, sides], y, tfl.BuiltinOptions.PadOptions, tfl.PadOptionsT())
        else:
            self._run(_OP.PADV2, [x, sides, least], y, tfl.BuiltinOptions.PadV2Options, tfl.PadV2OptionsT())
        return y

    def _linear(self, x: int, layer: Layer) -> int:
        if len(self._graph.tensors[x].shape) != 2:
            x = self._flat(x, layer.in_channels)
        shape = (layer.out_channels, layer.in_channels)
        options = tfl.FullyConnectedOptionsT()
        options.keepNumDims = True
        y = self._activation(1, layer.out_channels)
        inputs = [x, *self._weights(shape, 0, layer.out_channels)]
        self._run(_OP.FULLY_CONNECTED, inputs, y, tfl.BuiltinOptions.FullyConnectedOptions, options)
        return y

    def _flat(self, x: int, size: int) -> int:
        shape = self._constant(np.array([1, size], np.int32), tfl.TensorType.INT32)
        options = tfl.ReshapeOptionsT()
        options.newShape = [1, size]
        y = self._activation(1, size)
        self._run(_OP.RESHAPE, [x, shape], y, tfl.BuiltinOptions.ReshapeOptions, options)
        return y

    def _add(self, x: int, layer: Layer) -> int:
        options = tfl.AddOptionsT()
        options.fusedActivationFunction = _RELU
        y = self._activation(1, layer.height, layer.width, layer.in_channels)
        self._run(_OP.ADD, [x, x], y, tfl.BuiltinOptions.AddOptions, options)
        return y

    def _max_pool(self, x: int, layer: Layer) -> int:
        if layer.padding:
            x = self._pad(x, layer, self._least())
        options = tfl.Pool2DOptionsT()
        options.padding = _VALID
        options.strideH = options.strideW = layer.stride
        options.filterHeight = options.filterWidth = layer.kernel
        y = self._activation(1, layer.out_height, layer.out_width, layer.in_channels)
        self._run(_OP.MAX_POOL_2D, [x], y, tfl.BuiltinOptions.Pool2DOptions, options)
        return y

    def _least(self) -> int:
        """The smallest value of an activation."""
        if not self._integers:
            return self._constant(np.array(np.finfo(np.float32).min, np.float32), tfl.TensorType.FLOAT32)
        least = self._constant(np.array(-128, np.int8), tfl.TensorType.INT8)
        self._scale(least, np.array([_ACTIVATION_SCALE]), -128, 0)
        return least

    def _global_pool(self, x: int, layer: Layer) -> int:
        axes = self._constant(np.array([1, 2], np.int32), tfl.TensorType.INT32)
        options = tfl.ReducerOptionsT()
        options.keepDims = False
        y = self._activation(1, layer.in_channels)
        self._run(_OP.MEAN, [x, axes], y, tfl.BuiltinOptions.ReducerOptions, options)
        return y

    def _weights(self, shape: tuple[int, ...], axis: int, channels: int) -> tuple[int, int]:
        if not self._integers:
            values = self._random.standard_normal(shape).astype(np.float32) * 0.1
            kind = tfl.TensorType.FLOAT32
            return self._constant(values, kind), self._constant(np.zeros(channels, np.float32), kind)
        whole = self._random.integers(-127, 128, shape, np.int8)
        weights = self._constant(whole, tfl.TensorType.INT8)
        self._scale(weights, np.full(channels, _WEIGHT_SCALE), 0, axis)
        bias = self._constant(self._random.integers(-999, 999, channels, np.int32), tfl.TensorType.INT32)
        self._scale(bias, np.full(channels, _WEIGHT_SCALE * _ACTIVATION_SCALE), 0, 0)
        return weights, bias

    def _activation(self, *shape: int) -> int:
        if not self._integers:
            return self._tensor(shape, tfl.TensorType.FLOAT32, 0)
        tensor = self._tensor(shape, tfl.TensorType.INT8, 0)
        self._scale(tensor, np.array([_ACTIVATION_SCALE]), -128, 0)
        return tensor

    def _constant(self, values: NDArray[Any], kind: int) -> int:
        buffer = tfl.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        return self._tensor(values.shape, kind, len(self._model.buffers) - 1)

    def _tensor(self, shape: Sequence[int], kind: int, buffer: int) -> int:
        tensor = tfl.TensorT()
        tensor.shape, tensor.type, tensor.buffer = list(shape), kind, buffer
        tensor.name = f"t{len(self._graph.tensors)}".encode()
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _scale(self, tensor: int, scales: NDArray[Any], zero_point: int, axis: int) -> None:
        quantization = tfl.QuantizationParametersT()
        quantization.scale = scales.astype(np.float32)
        quantization.zeroPoint = np.full(len(scales), zero_point, np.int64)
        quantization.quantizedDimension = axis
        self._graph.tensors[tensor].quantization = quantization

    def _run(self, op: int, inputs: list[int], output: int, kind: int, options: Any) -> None:
        if op not in self._codes:
            code = tfl.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = op, min(op, 127), _VERSIONS[op]
            self._codes[op] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(code)
        operator = tfl.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self._codes[op], inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        self._graph.operators.append(operator)
