"""Activations made of the operators that both runtimes have in fast 8-bit kernels: sums, products, sigmoids.

A network is trained with its activations as they are, and emitted with each as a gate and a product: x g(x),
the gate on the grid that its values fill. LiteRT's own int8 HARD_SWISH and GELU are no way out on x86:
XNNPACK leaves them to kernels that are slower than float.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgekd.quantize.gaps import GATES

# Quantize and dequantize, of (scale, zero point, lowest value).
Pair = Callable[[float, int, int], nn.Module]
_STEPS = 255
# x sigmoid(1.702 x) is within 0.02 of GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415).
_GELU_SLOPE = 1.702
# Beyond it a sigmoid is 0 or 1 on its grid of 1/256.
_SIGMOID_ENDS = 6.4


class Decompositions(TorchFunctionMode):
    """While it is active, the activations below are called as their parts.

    Args:
        format: onnx, where 8-bit values times a constant are the same bytes with another scale, or tflite,
            where a tensor has one scale and a constant takes an operator.
        pair: makes quantize and dequantize.
        low: the lowest value of activations, 0 or -128.
    """

    def __init__(self, format: str, pair: Pair, low: int) -> None:
        super().__init__()
        self._pair, self._low, self._reshaped = pair, low, format == "onnx"
        self._sigmoid = self._grid(*GATES["sigmoid"])
        self._unit = self._grid(*GATES["hardsigmoid"])
        self._six = self._grid(0.0, 6.0)
        self._argument = self._grid(-_SIGMOID_ENDS, _SIGMOID_ENDS)
        gates: Mapping[str, tuple[Any, Any]] = {
            "onnx": (self._hardsigmoid_by_scale, lambda x: x * _GELU_SLOPE),
            "tflite": (self._hardsigmoid, lambda x: self._argument(x * self._constant(_GELU_SLOPE, x))),
        }
        hardsigmoid, steeper = gates[format]
        self._forms: Mapping[Any, Callable[[Tensor], Tensor]] = {
            F.hardsigmoid: hardsigmoid,
            F.hardswish: lambda x: x * hardsigmoid(x),
            F.silu: lambda x: x * self._sigmoid(x.sigmoid()),
            F.gelu: lambda x: x * self._sigmoid(steeper(x).sigmoid()),
        }

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The parts, or the call as it was."""
        form, named = self._forms.get(func), kwargs or {}
        if func is F.embedding and (table := _rows_in_8_bits(*args, **named)) is not None:
            values, scale = table
            ids = args[0] if args else named["input"]
            return values[ids].float() * scale[ids]
        if func in _IN_OTHER_SHAPES and self._reshaped:
            return _IN_OTHER_SHAPES[func](*args, **named)
        if form is None:
            return func(*args, **named)
        x = args[0] if args else named["input"]
        # Only what can be done in place has a second positional argument.
        in_place = args[1] if len(args) > 1 else named.get("inplace", False)
        return x.copy_(form(x)) if in_place else form(x)

    def _grid(self, lowest: float, highest: float) -> nn.Module:
        scale = (highest - lowest) / _STEPS
        return self._pair(scale, self._low + round(-lowest / scale), self._low)

    def _constant(self, value: float, x: Tensor) -> Tensor:
        """In 8 bits, to be added to or multiplied by `x`."""
        return self._grid(0.0, value)(torch.full((1,) * x.dim(), value))  # type: ignore[no-any-return]

    def _hardsigmoid_by_scale(self, x: Tensor) -> Tensor:
        """One sum, which saturates at both ends of the grid."""
        return self._unit(x / 6 + self._constant(0.5, x))  # type: ignore[no-any-return]

    def _hardsigmoid(self, x: Tensor) -> Tensor:
        six = self._six(F.relu6(x + self._constant(3.0, x)))
        return self._unit(six * self._constant(1 / 6, x))  # type: ignore[no-any-return]


def _rows_in_8_bits(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor] | None:
    """Of a table that is quantized row by row: its values (N, width) and scales (N, 1)."""
    return getattr(weight, "rows_in_8_bits", None)


def _by_rows(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer on tokens as one on rows: ONNX Runtime has an integer kernel with a bias for these."""
    if input.dim() < 3:
        return F.linear(input, weight, bias)
    return torch.unflatten(F.linear(input.flatten(0, -2), weight, bias), 0, input.shape[:-1])


def _over_tokens(input: Tensor, dim: Any = None, keepdim: bool = False, **named: Any) -> Tensor:
    """The mean of tokens as one over an image: that has an integer kernel."""
    axes = {axis % input.dim() for axis in ((dim,) if isinstance(dim, int) else dim or ())}
    if input.dim() != 3 or axes != {1}:
        named |= ({} if dim is None else {"dim": dim}) | ({"keepdim": True} if keepdim else {})
        return torch.mean(input, **named)
    found = input.transpose(1, 2).unsqueeze(-1).mean((2, 3), **named)
    return found.unsqueeze(1) if keepdim else found


# What ONNX Runtime has integer kernels for in another shape.
_IN_OTHER_SHAPES: Mapping[Any, Callable[..., Tensor]] = {
    F.linear: _by_rows,
    torch.mean: _over_tokens,
    Tensor.mean: _over_tokens,
}
