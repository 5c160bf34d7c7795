"""What one quantized model goes through on its way to a format: lowering.

What the numbers are (8 bits, weights symmetric by channel, activations asymmetric by
tensor) is the same everywhere; signedness of the emitted activations belongs to the
target. Asymmetric 8-bit values shifted by 128 are the same arithmetic, so one set of
scales serves all targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn

from edgekd.errors import ExportError
from edgekd.quantize.apart import float_operators, turn_signs
from edgekd.quantize.decompositions import Decompositions


class OutputQuantizer(nn.Module):
    """Fake quantization of the logits, per tensor, 0..255, with a straight-through gradient.

    NNCF leaves a model's output in float, and LiteRT then runs the last layer in float.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__()
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, 1e-6) / 255
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor(round(-low / scale), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """(B, classes) to the nearest representable values."""
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, 255)


class QuantizedNet(nn.Module):
    """A network with NNCF's fake quantizers inside and one at its output."""

    def __init__(self, body: nn.Module, output: OutputQuantizer) -> None:
        super().__init__()
        self.body = body
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes), on the 8-bit grid."""
        return self.output(self.body(x))  # type: ignore[no-any-return]


class _PerTensor(nn.Module):
    """One quantizer as the pair of operators that both exporters read, in one signedness."""

    def __init__(self, scale: float, zero_point: int, low: int) -> None:
        super().__init__()
        # Plain numbers, not buffers: export would take values read from a tensor for data-dependent.
        self.setting = (scale, zero_point, low, low + 255, torch.int8 if low < 0 else torch.uint8)

    def forward(self, x: Tensor) -> Tensor:
        ops = torch.ops.quantized_decomposed
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *self.setting), *self.setting)  # type: ignore[no-any-return]


class _PerChannel(nn.Module):
    """The same for weights: one scale a channel along `axis`, signed."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor, axis: int, low: int, high: int) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone().float())
        self.register_buffer("zero_point", zero_point.detach().clone().to(torch.int64))
        self._rest = (axis, low, high, torch.int8)

    @property
    def setting(self) -> tuple[Any, ...]:
        """What both operators take beside the values."""
        return (self.scale, self.zero_point, *self._rest)

    def forward(self, x: Tensor) -> Tensor:
        ops = torch.ops.quantized_decomposed
        return ops.dequantize_per_channel(ops.quantize_per_channel(x, *self.setting), *self.setting)  # type: ignore[no-any-return]


class _Rows(nn.Module):
    """A table of vectors with one scale a row, signed, from which rows are picked while they are 8 bits.

    Picked from a dequantized table they would be float in the file, or all be dequantized at each run.
    What it gives carries the rows along, for `Decompositions`, which knows the operator that picks.
    """

    values: Tensor
    scale: Tensor

    def __init__(self, of: _PerChannel) -> None:
        super().__init__()
        self._of = of
        self.register_buffer("values", None)
        self.register_buffer("scale", of.scale[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """The table (N, width), dequantized. The first call fixes the 8 bits: constants of the file."""
        if self.values is None:
            self.values = torch.ops.quantized_decomposed.quantize_per_channel(x, *self._of.setting)
        found = self.values.float() * self.scale
        found.rows_in_8_bits = (self.values, self.scale)  # type: ignore[attr-defined]
        return found


class Lowered(nn.Module):
    """Body and output on the grid, with activations in a format's own operators.

    Attributes:
        num_float: how many operators have float weights.
    """

    def __init__(self, body: nn.Module, output: nn.Module, forms: Decompositions, num_float: int) -> None:
        super().__init__()
        self.body, self.output, self._forms, self.num_float = body, output, forms, num_float

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes), on the 8-bit grid."""
        with self._forms:
            return self.output(self.body(x))  # type: ignore[no-any-return]


@contextmanager
def nudged(module: nn.Module, share: float, seed: int) -> Iterator[None]:
    """While it is open each activation is moved by up to `share` of its step before it is rounded."""
    generator = torch.Generator().manual_seed(seed)

    def move(quantizer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        scale, *_ = quantizer.setting  # type: ignore[misc]
        drawn = 2 * torch.rand(given[0].shape, generator=generator) - 1
        return (given[0] + share * float(scale) * drawn,)

    hooks = [m.register_forward_pre_hook(move) for m in module.modules() if isinstance(m, _PerTensor)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def lower(net: QuantizedNet, example_input: Tensor, activations: str, format: str) -> Lowered:
    """A copy ready for export: every fake quantizer replaced by quantize and dequantize operators.

    Args:
        net: the quantized network; left as it is.
        example_input: (1, *shape).
        activations: "unsigned" or "signed"; weights are signed in both.
        format: "onnx" or "tflite": which operators there are in integers.
    """
    import nncf

    body = nncf.strip(
        net.body, do_copy=True, strip_format=nncf.StripFormat.NATIVE, example_input=example_input
    )
    body.eval()
    for first, *others in _shared(net.body):  # stripping has replaced the first alone
        for place in others:
            body.set_submodule(place, body.get_submodule(first))
    shift = 128 if activations == "signed" else 0
    for name, module in list(body.named_modules(remove_duplicate=False)):
        if isinstance(module, torch.ao.quantization.FakeQuantize):
            pair = _pair(module, shift)
            of_table = isinstance(pair, _PerChannel) and "/embedding/" in name
            body.set_submodule(name, _Rows(pair) if of_table else pair)  # type: ignore[arg-type]
    floats = float_operators(net.body, example_input)
    if format == "onnx":
        turn_signs(body, [operator for operator, fed in floats.items() if fed])
    output = _PerTensor(float(net.output.scale), int(net.output.zero_point) - shift, -shift)
    lowered = Lowered(body, output, Decompositions(format, _PerTensor, -shift), len(floats)).eval()
    with torch.no_grad():
        lowered(example_input)
    return lowered


def _shared(body: nn.Module) -> Iterable[list[str]]:
    """The places of each quantizer, in the order of the modules: what is concatenated has one for all."""
    from nncf.torch.quantization.layers import BaseQuantizer

    places: dict[int, list[str]] = {}
    for place, module in body.named_modules(remove_duplicate=False):
        if isinstance(module, BaseQuantizer):
            places.setdefault(id(module), []).append(place)
    return places.values()


def _pair(fake: torch.ao.quantization.FakeQuantize, shift: int) -> nn.Module:
    low, high = int(fake.quant_min), int(fake.quant_max)
    if "channel" in str(fake.qscheme):
        return _PerChannel(fake.scale, fake.zero_point, int(fake.ch_axis), low, high)
    if high - low != 255:
        raise ExportError(f"a quantizer has {high - low + 1} levels, int8 has 256")
    # What NNCF made signed (symmetric) is brought to unsigned first, then to the target's signedness.
    return _PerTensor(float(fake.scale), int(fake.zero_point) - low - shift, -shift)
