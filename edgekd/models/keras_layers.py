"""What each layer of Keras is in torch, with its weights.

Inside, images lie as (C, H, W) wherever Keras has (H, W, C). What Keras flattens from (H, W, C) is flattened
here from (C, H, W), and the weights of the layer that takes it are put in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.errors import UsageError

# Of a value, without the batch: (H, W, C) or (F,), as Keras has it.
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """What flows between layers: its shape in Keras, and which feature of Keras' each one here is."""

    shape: Shape
    order: NDArray[np.int64] | None = None


# (layer, why) -> the error that names it.
Refused = Callable[[Any, str], UsageError]
Made = tuple[nn.Module, Value]
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


def activation_of(layer: Any) -> str:
    """The name of what a layer does to its outputs: "linear" is nothing."""
    function = getattr(layer, "activation", None)
    return "linear" if function is None else str(getattr(function, "__name__", type(function).__name__))


def _array(weight: Any) -> NDArray[np.float32]:
    """A Keras variable as NumPy has it."""
    return np.array(weight.value.detach().cpu(), np.float32)


def _fill(parameter: Tensor, values: NDArray[Any]) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(values, np.float32)))


def _dense(layer: Any, value: Value, refused: Refused) -> Made:
    if len(value.shape) != 1:
        raise refused(layer, f"it takes values of shape {value.shape}; a Flatten layer must come before it")
    kernel = _array(layer.kernel)
    inner, outer = kernel.shape
    linear = nn.Linear(inner, outer, bias=layer.use_bias)
    _fill(linear.weight, (kernel if value.order is None else kernel[value.order]).T)
    if layer.use_bias:
        _fill(linear.bias, _array(layer.bias))
    return linear, Value((kernel.shape[1],))


def _conv(layer: Any, value: Value, refused: Refused) -> Made:
    depthwise = type(layer).__name__ == "DepthwiseConv2D"
    height, width, channels = _image(layer, value, refused)
    kernel = _array(layer.kernel)
    size, strides, dilation = tuple(layer.kernel_size), tuple(layer.strides), tuple(layer.dilation_rate)
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True))
    pads = _padding(layer, (height, width), reach, strides)
    if depthwise:
        # (kh, kw, in, multiplier), whose outputs stand input by input.
        out, groups = kernel.shape[2] * kernel.shape[3], channels
        weight = kernel.transpose(2, 3, 0, 1).reshape(out, 1, *size)
    else:
        out, groups = kernel.shape[3], layer.groups
        weight = kernel.transpose(3, 2, 0, 1)
    even = all(before == after for before, after in pads)
    conv = nn.Conv2d(
        channels,
        out,
        size,
        stride=strides,
        padding=(pads[0][0], pads[1][0]) if even else 0,
        dilation=dilation,
        groups=groups,
        bias=layer.use_bias,
    )
    _fill(conv.weight, weight)
    if layer.use_bias:
        assert conv.bias is not None
        _fill(conv.bias, _array(layer.bias))
    found = Value(_sizes((height, width), pads, reach, strides, out))
    if even:
        return conv, found
    # Keras pads the end of an axis by one more than its beginning.
    return nn.Sequential(nn.ZeroPad2d((*pads[1], *pads[0])), conv), found


def _image(layer: Any, value: Value, refused: Refused) -> tuple[int, int, int]:
    if len(value.shape) != 3 or getattr(layer, "data_format", "channels_last") != "channels_last":
        raise refused(layer, f"it takes {value.shape}, {layer.data_format}; images (H, W, C) are known")
    height, width, channels = value.shape
    return height, width, channels


def _padding(layer: Any, sizes: Shape, reach: Shape, strides: Shape) -> list[tuple[int, int]]:
    """(before, after) on each axis, as TensorFlow's "same" has it."""
    if layer.padding == "valid":
        return [(0, 0)] * len(sizes)
    found = []
    for size, window, stride in zip(sizes, reach, strides, strict=True):
        whole = max((-(-size // stride) - 1) * stride + window - size, 0)
        found.append((whole // 2, whole - whole // 2))
    return found


def _sizes(sizes: Shape, pads: list[tuple[int, int]], reach: Shape, strides: Shape, out: int) -> Shape:
    placed = zip(sizes, pads, reach, strides, strict=True)
    return (*((size + sum(pad) - window) // stride + 1 for size, pad, window, stride in placed), out)


def _pool(layer: Any, value: Value, refused: Refused) -> Made:
    height, width, channels = _image(layer, value, refused)
    window, strides = tuple(layer.pool_size), tuple(layer.strides)
    pads = _padding(layer, (height, width), window, strides)
    if any(before or after for before, after in pads):
        raise refused(layer, f'padding "same" fills up {height} x {width} by {pads}; take padding="valid"')
    kind = nn.MaxPool2d if type(layer).__name__ == "MaxPooling2D" else nn.AvgPool2d
    return kind(window, stride=strides), Value(_sizes((height, width), pads, window, strides, channels))


def _zero_pad(layer: Any, value: Value, refused: Refused) -> Made:
    height, width, channels = _image(layer, value, refused)
    (top, bottom), (left, right) = layer.padding
    pad = nn.ZeroPad2d((left, right, top, bottom))
    return pad, Value((height + top + bottom, width + left + right, channels))


class _Mean(nn.Module):
    """(B, C, H, W) -> (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def _mean(layer: Any, value: Value, refused: Refused) -> Made:
    *_, channels = _image(layer, value, refused)
    if layer.keepdims:
        raise refused(layer, "keepdims is set; take keepdims=False")
    return _Mean(), Value((channels,))


def _flatten(layer: Any, value: Value, refused: Refused) -> Made:
    if len(value.shape) == 1:
        return nn.Identity(), value
    height, width, channels = _image(layer, value, refused)
    places = np.arange(height * width * channels).reshape(height, width, channels)
    return nn.Flatten(), Value((places.size,), places.transpose(2, 0, 1).reshape(-1))


def _batch_norm(layer: Any, value: Value, refused: Refused) -> Made:
    axis = layer.axis if isinstance(layer.axis, int) else next(iter(layer.axis))
    if axis not in (-1, len(value.shape)):
        raise refused(layer, f"axis {layer.axis}; take that of the channels, -1")
    features = value.shape[-1]
    kind = nn.BatchNorm2d if len(value.shape) == 3 else nn.BatchNorm1d
    norm = kind(features, eps=layer.epsilon, momentum=1 - layer.momentum)
    order = slice(None) if value.order is None else value.order
    assert norm.running_mean is not None and norm.running_var is not None
    _fill(norm.running_mean, _array(layer.moving_mean)[order])
    _fill(norm.running_var, _array(layer.moving_variance)[order])
    if layer.scale:
        _fill(norm.weight, _array(layer.gamma)[order])
    if layer.center:
        _fill(norm.bias, _array(layer.beta)[order])
    return norm, value


def _relu(layer: Any, value: Value, refused: Refused) -> Made:
    if layer.negative_slope or layer.threshold or layer.max_value not in (None, 6):
        raise refused(layer, "it has a slope, a threshold or a maximum other than 6")
    return (nn.ReLU() if layer.max_value is None else nn.ReLU6()), value


def _dropout(layer: Any, value: Value, refused: Refused) -> Made:
    if layer.noise_shape is not None:
        raise refused(layer, "noise_shape is set")
    return nn.Dropout(layer.rate), value


LAYERS: Mapping[str, Callable[[Any, Value, Refused], Made]] = {
    "AveragePooling2D": _pool,
    "BatchNormalization": _batch_norm,
    "Conv2D": _conv,
    "Dense": _dense,
    "DepthwiseConv2D": _conv,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "GlobalAveragePooling2D": _mean,
    "MaxPooling2D": _pool,
    "ReLU": _relu,
    "ZeroPadding2D": _zero_pad,
}
