"""The operators of a model file with the shapes that they work on: what a roofline is counted from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

# Bits of one value, as it lies in memory.
BITS = {
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 64),
    **dict.fromkeys(("float32", "int32", "uint32"), 32),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 16),
    **dict.fromkeys(("int8", "uint8", "bool"), 8),
    **dict.fromkeys(("int4", "uint4"), 4),
}


@dataclass(frozen=True)
class Tensor:
    """A value between operators.

    Attributes:
        name: in the file.
        shape: free dimensions 1, as they are when a file is timed; None where it is not known.
        dtype: of its values; "" where it is not known.
        packed: the type that it was unpacked from right before, as by DequantizeLinear; "" of all others.
        stored_bytes: of a constant, as it lies in the file: before it is unpacked.
        constant: whether it is one.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str
    packed: str = ""
    stored_bytes: int = 0
    constant: bool = False

    @property
    def elements(self) -> int:
        """How many values it has; 0 where its shape is not known."""
        return 0 if self.shape is None else math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Of its values in memory, four bytes each where the type is not known."""
        return self.elements * BITS.get(self.dtype, 32) // 8


@dataclass(frozen=True)
class Step:
    """An operator that runs for every sample: those that only work on constants are none.

    Attributes:
        name: of the layer, where the file keeps it.
        op_type: as the format calls it.
        inputs: None where an optional one is left out.
        outputs: of the operator.
        dtype: that it computes in: that of its inputs, or int8 where the runtime absorbs what unpacks them.
        attributes: integers of the operator by name.
    """

    name: str
    op_type: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    dtype: str
    attributes: Mapping[str, int] = field(default_factory=dict)

    def input(self, place: int) -> Tensor | None:
        """An input, None where there is none at that place."""
        return self.inputs[place] if place < len(self.inputs) else None
