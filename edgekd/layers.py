"""A layer as a clock sees it: what it computes at which size, whatever framework it came from."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal, get_args

from edgekd.errors import UsageError

Kind = Literal["conv", "depthwise", "linear", "add", "max_pool", "global_pool"]
KINDS: tuple[str, ...] = get_args(Kind)
# The number of output channels is that of input channels.
ONE_WIDTH = ("depthwise", "add", "max_pool", "global_pool")
WITHOUT_WEIGHTS = ("add", "max_pool", "global_pool")

_TEXT = re.compile(r"(in_float )?(\w+) (\d+)x(\d+) k(\d+) s(\d+) p(\d+) (\d+)-(\d+)")


@dataclass(frozen=True, order=True)
class Layer:
    """One operator on one sample, with the BatchNorm and the ReLU that a runtime folds into it.

    Attributes:
        kind: `global_pool` is the mean over the image, `add` the sum of two equal shapes, `max_pool` the
            largest in each window.
        height: of the input image; 1 for `linear`.
        width: of the input image; 1 for `linear`.
        in_channels: of the input.
        out_channels: of the output.
        kernel: side of a square kernel.
        stride: in both directions.
        padding: on each of the four sides.
        in_float: in a file of integers, between a DequantizeLinear and a QuantizeLinear of its own.
    """

    kind: Kind
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    in_float: bool = False

    def __post_init__(self) -> None:
        if self.kind in ONE_WIDTH and self.in_channels != self.out_channels:
            raise ValueError(f"{self}: {self.kind} keeps the number of channels")
        if self.in_float and self.kind in WITHOUT_WEIGHTS:
            raise ValueError(f"{self}: {self.kind} has no weights to leave in float")

    def __str__(self) -> str:
        return (
            f"{'in_float ' if self.in_float else ''}{self.kind} {self.height}x{self.width} "
            f"k{self.kernel} s{self.stride} p{self.padding} {self.in_channels}-{self.out_channels}"
        )

    @property
    def out_height(self) -> int:
        """Of the output image."""
        return self._after(self.height)

    @property
    def out_width(self) -> int:
        """Of the output image."""
        return self._after(self.width)

    def _after(self, side: int) -> int:
        if self.kind == "global_pool":
            return 1
        return (side + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def in_elements(self) -> int:
        """Values in the input of one sample."""
        return self.height * self.width * self.in_channels

    @property
    def out_elements(self) -> int:
        """Values in the output of one sample."""
        return self.out_height * self.out_width * self.out_channels

    @property
    def weights(self) -> int:
        """What it multiplies its input with, biases left aside."""
        if self.kind in WITHOUT_WEIGHTS:
            return 0
        return self.kernel**2 * self.out_channels * (1 if self.kind == "depthwise" else self.in_channels)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample."""
        return self.weights * self.out_height * self.out_width

    @property
    def shape(self) -> str:
        """All but the channels: layers of one shape lie on one staircase."""
        return str(self).rsplit(" ", 1)[0]

    def at(self, in_channels: int, out_channels: int) -> Layer:
        """The same layer at other widths."""
        return dataclasses.replace(self, in_channels=in_channels, out_channels=out_channels)


def parse(text: str) -> Layer:
    """The layer that `str` wrote.

    Raises:
        UsageError: it is none.
    """
    found = _TEXT.fullmatch(text)
    if not found or found[2] not in KINDS:
        raise UsageError(f"{text!r} is no layer", hint="as in: conv 32x32 k3 s1 p1 16-16")
    in_float, kind, *numbers = found.groups()
    height, width, kernel, stride, padding, inner, outer = map(int, numbers)
    try:
        return Layer(kind, height, width, inner, outer, kernel, stride, padding, bool(in_float))  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(str(error)) from None
