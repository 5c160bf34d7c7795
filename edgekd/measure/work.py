"""What one inference of a file has to do, operator by operator: operations, and bytes that lie ready."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd.errors import MeasurementError
from edgekd.measure import onnx_steps, tflite_steps
from edgekd.measure.inventory import MOVES
from edgekd.measure.steps import Step, Tensor
from edgekd.types import Format

# Clamps that a runtime does within the operator before them, and what may follow from no arithmetic at all.
_FREE = frozenset({*MOVES, *"Relu Clip RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 MaxPool MAX_POOL_2D".split()})
# What is inside them is not counted: a bound that leaves work out is a bound still, and is told of.
_UNCOUNTED = frozenset(
    """
    Attention DeformConv Einsum GRU If LSTM Loop MultiHeadAttention RNN Scan
    BIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN CALL CUSTOM IF LSTM RNN SVDF STABLEHLO_COMPOSITE
    UNIDIRECTIONAL_SEQUENCE_LSTM UNIDIRECTIONAL_SEQUENCE_RNN WHILE
    """.split()
)
# They read as much of a table as they give.
_LOOKUPS = frozenset({"Gather", "GatherElements", "GatherND", "EMBEDDING_LOOKUP", "GATHER", "GATHER_ND"})


@dataclass(frozen=True)
class Work:
    """One operator's, for one sample.

    Attributes:
        name: of the layer, as far as the file tells.
        op_type: as the format calls it.
        dtype: that it computes in.
        macs: multiply-accumulates of the plain algorithm; 0 of operators that are none.
        operations: two a multiply-accumulate; of other operators one a value that they give, of moves none.
        weight_bytes: constants that it reads, as they lie in the file, each at its first reader.
        outer_bytes: of the file's own inputs and outputs, where it takes or gives one.
        in_bytes: of each other tensor that it takes.
        out_bytes: of each other tensor that it gives.
        counted: whether its operations are known.
    """

    name: str
    op_type: str
    dtype: str
    macs: int
    operations: int
    weight_bytes: int
    outer_bytes: int
    in_bytes: tuple[int, ...]
    out_bytes: tuple[int, ...]
    counted: bool = True


def work_of(path: Path, file_format: Format) -> tuple[Work, ...]:
    """The operators of a file with what they have to do, free dimensions 1.

    Raises:
        MeasurementError: it is not of that format, or a shape that operations follow from is not known.
    """
    read = onnx_steps.steps_of if file_format == "onnx" else tflite_steps.steps_of
    steps, seen, found = read(path), set[str](), []
    made = {t.name for step in steps for t in step.outputs}
    taken = {t.name for step in steps for t in step.inputs if t is not None}
    for step in steps:
        macs = _macs(step, path)
        constants = [t for t in step.inputs if t is not None and t.constant]
        live = [t for t in step.inputs if t is not None and not t.constant]
        weights = sum(t.stored_bytes for t in constants if t.name not in seen)
        if step.op_type in _LOOKUPS:
            weights = min(weights, sum(map(_size(step), step.outputs)))
        first = [t for t in live if t.name not in made and t.name not in seen]
        last = [t for t in step.outputs if t.name not in taken]
        inner = [t for t in live if t.name in made], [t for t in step.outputs if t.name in taken]
        seen |= {t.name for t in (*constants, *first)}
        moves = step.op_type in MOVES
        given = max((t.elements for t in step.outputs), default=0)
        found.append(
            Work(
                step.name,
                step.op_type,
                step.dtype,
                macs or 0,
                2 * macs if macs is not None else 0 if step.op_type in _FREE else given,
                weights,
                sum(t.size_bytes for t in (*first, *last)),
                () if moves else tuple(map(_size(step), inner[0])),
                () if moves else tuple(map(_size(step), inner[1])),
                step.op_type not in _UNCOUNTED,
            )
        )
    return tuple(found)


def _size(step: Step) -> Callable[[Tensor], int]:
    """Bytes of a tensor as the operator has it: what an int8 kernel absorbs is never unpacked."""
    return lambda t: t.elements if step.dtype == "int8" else t.size_bytes


def _macs(step: Step, path: Path) -> int | None:
    """Multiply-accumulates of one sample; None of operators that are no multiplication of matrices."""
    rule = _MACS.get(step.op_type)
    if rule is None:
        return None
    places, count = rule
    tensors = [step.input(i) for i in places]
    known = [t.shape for t in tensors if t is not None and t.shape is not None]
    out = step.outputs[0] if step.outputs else None
    if len(known) < len(tensors) or out is None or out.shape is None:
        raise MeasurementError(
            f"{path.name}: the shapes of {step.op_type} {step.name} do not follow from the file",
            hint="export it with fixed sizes, or with the shapes between its operators",
        )
    return count(step, known, math.prod(out.shape))


_Shapes = list[tuple[int, ...]]


def _conv(step: Step, shapes: _Shapes, given: int) -> int:
    # (out, in a group, *kernel) in ONNX, (out, *kernel, in a group) in TFLite.
    return given * math.prod(shapes[0][1:])


def _last_is_out(step: Step, shapes: _Shapes, given: int) -> int:
    return given * math.prod(shapes[0][:-1])


def _transposed(step: Step, shapes: _Shapes, given: int) -> int:
    # Each input value meets all weights of its channel: the first dimension in ONNX, the last in TFLite.
    inputs, weights = shapes
    channel = weights[0] if step.op_type == "ConvTranspose" else weights[-1]
    return math.prod(inputs) * (math.prod(weights) // max(channel, 1))


def _inner(step: Step, shapes: _Shapes, given: int) -> int:
    return given * shapes[0][-2 if step.attributes.get("transA") else -1]


_MACS: Mapping[str, tuple[tuple[int, ...], Callable[[Step, _Shapes, int], int]]] = {
    "Conv": ((1,), _conv),
    "ConvInteger": ((1,), _conv),
    "QLinearConv": ((3,), _conv),
    "ConvTranspose": ((0, 1), _transposed),
    **dict.fromkeys(("Gemm", "MatMul", "MatMulInteger", "MatMulNBits"), ((0,), _inner)),
    **dict.fromkeys(("QGemm", "QLinearMatMul"), ((0,), _inner)),
    "CONV_2D": ((1,), _conv),
    "CONV_3D": ((1,), _last_is_out),
    "DEPTHWISE_CONV_2D": ((1,), _last_is_out),
    "TRANSPOSE_CONV": ((2, 1), _transposed),
    "FULLY_CONNECTED": ((1,), _inner),
    "BATCH_MATMUL": ((0,), _inner),
}
