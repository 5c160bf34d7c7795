"""Shapes of what ONNX's operators give, from the shapes of what they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Values = dict[str, NDArray[np.int64]]

MOST_VALUES = 64  # more than that is no shape
_END = 1 << 31  # what exporters write for "to the end" is larger


class Node(Protocol):
    """What is read of an operator."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: dict[str, int]
    lists: dict[str, tuple[int, ...]]
    strings: dict[str, str]


def output_shapes(
    kind: str, node: Node, shapes: Sequence[Shape | None], values: Values
) -> tuple[Shape | None, ...]:
    """The shapes of an operator's outputs, None where one is not known; small integer results join `values`.

    Args:
        kind: the operator's type.
        node: its attributes and the names of its inputs and outputs.
        shapes: of its inputs, None where one is left out or not known.
        values: what is known of integer tensors, by name.
    """
    if kind in _VALUED and (value := _value(kind, node, shapes, values)) is not None:
        if value.size <= MOST_VALUES:
            values[node.outputs[0]] = value
        return (value.shape,)
    if kind == "Split":
        return _split(node, shapes, values)
    if kind not in _RULES and kind not in _BROADCAST and kind not in _AS_FIRST:
        return ()
    if not shapes or shapes[0] is None:
        return ()
    if kind in _AS_FIRST:
        return (shapes[0],)
    if kind in _BROADCAST:
        known = [s for s in shapes if s is not None]
        return (np.broadcast_shapes(*known),) if len(known) == len(shapes) else ()
    return (_RULES[kind](node, shapes[0], shapes, values),)


def _conv(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    weights = shapes[3 if node.kind == "QLinearConv" else 1]
    return None if weights is None else (x[0], weights[0], *_windows(node, x[2:], weights[2:]))


def _pool(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape:
    return (*x[:2], *_windows(node, x[2:], node.lists["kernel_shape"]))


def _windows(node: Node, sizes: Shape, kernel: Shape) -> Shape:
    """How many windows lie along each dimension of an image."""
    n = len(sizes)
    strides, dilations = node.lists.get("strides", (1,) * n), node.lists.get("dilations", (1,) * n)
    if node.strings.get("auto_pad", "NOTSET").startswith("SAME"):
        return tuple(math.ceil(size / stride) for size, stride in zip(sizes, strides, strict=True))
    pads = node.lists.get("pads", (0,) * 2 * n)
    if node.strings.get("auto_pad") == "VALID":
        pads = (0,) * 2 * n
    found = []
    for i, size in enumerate(sizes):
        room = size + pads[i] + pads[i + n] - dilations[i] * (kernel[i] - 1) - 1
        count = (-(-room // strides[i]) if node.integers.get("ceil_mode") else room // strides[i]) + 1
        # No window begins behind the end.
        late = node.integers.get("ceil_mode") and (count - 1) * strides[i] >= size + pads[i]
        found.append(count - 1 if late else count)
    return tuple(found)


def _conv_transpose(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    weights, n = shapes[1], len(x) - 2
    if weights is None or node.strings.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.lists:
        return None
    strides, dilations = node.lists.get("strides", (1,) * n), node.lists.get("dilations", (1,) * n)
    pads, extra = node.lists.get("pads", (0,) * 2 * n), node.lists.get("output_padding", (0,) * n)
    sides = (
        strides[i] * (x[i + 2] - 1)
        + extra[i]
        + dilations[i] * (weights[i + 2] - 1)
        + 1
        - pads[i]
        - pads[i + n]
        for i in range(n)
    )
    return (x[0], weights[1] * node.integers.get("group", 1), *sides)


def _global(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape:
    return (*x[:2], *(1 for _ in x[2:]))


def _gemm(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    b = shapes[3 if node.kind == "QGemm" else 1]
    if b is None:
        return None
    rows = x[1] if node.integers.get("transA") else x[0]
    return rows, b[0] if node.integers.get("transB") else b[1]


def _matmul(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    b = shapes[3 if node.kind == "QLinearMatMul" else 1]
    if b is None:
        return None
    left, right = (1, *x) if len(x) == 1 else x, (*b, 1) if len(b) == 1 else b
    batch = np.broadcast_shapes(left[:-2], right[:-2])
    return (*batch, *(left[-2:-1] if len(x) > 1 else ()), *(right[-1:] if len(b) > 1 else ()))


def _matmul_n_bits(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape:
    return (*x[:-1], node.integers["N"])


def _both(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    return None if shapes[3] is None else np.broadcast_shapes(x, shapes[3])


def _reshape(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    asked = values.get(node.inputs[1])
    if asked is None:
        return None
    sizes = [int(v) for v in asked.reshape(-1)]
    if not node.integers.get("allowzero"):
        sizes = [x[i] if size == 0 else size for i, size in enumerate(sizes)]
    if -1 in sizes:
        sizes[sizes.index(-1)] = math.prod(x) // max(math.prod(s for s in sizes if s != -1), 1)
    return tuple(sizes)


def _flatten(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape:
    axis = node.integers.get("axis", 1)
    return math.prod(x[:axis]), math.prod(x[axis:])


def _transpose(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape:
    order = node.lists.get("perm", tuple(reversed(range(len(x)))))
    return tuple(x[i] for i in order)


def _concat(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    known = [s for s in shapes if s is not None]
    axis = node.integers["axis"] % len(x)
    if len(known) < len(shapes):
        return None
    return (*x[:axis], sum(s[axis] for s in known), *x[axis + 1 :])


def _axes(node: Node, values: Values) -> Shape | None:
    """Of an attribute (older versions of an operator) or of the second input; () where there is neither."""
    if "axes" in node.lists:
        return node.lists["axes"]
    if len(node.inputs) < 2 or not node.inputs[1]:
        return ()
    found = values.get(node.inputs[1])
    return None if found is None else tuple(int(v) for v in found.reshape(-1))


def _squeeze(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    axes = _axes(node, values)
    if axes is None:
        return None
    gone = {a % len(x) for a in axes} if axes else {i for i, size in enumerate(x) if size == 1}
    return tuple(size for i, size in enumerate(x) if i not in gone)


def _unsqueeze(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    axes = _axes(node, values)
    if axes is None:
        return None
    rest, rank = iter(x), len(x) + len(axes)
    new = {a % rank for a in axes}
    return tuple(1 if i in new else next(rest) for i in range(rank))


def _reduce(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    axes = (node.integers.get("axis", 0),) if node.kind.startswith("Arg") else _axes(node, values)
    if axes is None:
        return None
    if not axes and node.integers.get("noop_with_empty_axes"):
        return x
    gone = {a % len(x) for a in axes} or set(range(len(x)))
    kept = node.integers.get("keepdims", 1)
    return tuple(1 if i in gone else size for i, size in enumerate(x) if kept or i not in gone)


def _gather(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    axis, places = node.integers.get("axis", 0) % len(x), shapes[1]
    return None if places is None else (*x[:axis], *places, *x[axis + 1 :])


def _slice(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    given = [values.get(name) for name in node.inputs[1:]]
    if not given or any(v is None for v in given):
        return None
    starts, ends, *rest = ([int(n) for n in v.reshape(-1)] for v in given if v is not None)
    axes = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    sizes = list(x)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        stop = None if abs(end) >= _END else end
        sizes[axis % len(x)] = len(range(*slice(start, stop, step).indices(x[axis % len(x)])))
    return tuple(sizes)


def _pad(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    pads = node.lists.get("pads") or (values.get(node.inputs[1]) if len(node.inputs) > 1 else None)
    if pads is None or len(node.inputs) > 3:
        return None
    return tuple(size + int(pads[i]) + int(pads[i + len(x)]) for i, size in enumerate(x))


def _expand(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    asked = values.get(node.inputs[1])
    return None if asked is None else np.broadcast_shapes(x, tuple(int(v) for v in asked))


def _filled(node: Node, x: Shape, shapes: Sequence[Shape | None], values: Values) -> Shape | None:
    asked = values.get(node.inputs[0])
    return None if asked is None else tuple(int(v) for v in asked)


def _split(node: Node, shapes: Sequence[Shape | None], values: Values) -> tuple[Shape | None, ...]:
    x = shapes[0]
    if x is None:
        return ()
    axis, parts = node.integers.get("axis", 0) % len(x), len(node.outputs)
    given = values.get(node.inputs[1]) if len(node.inputs) > 1 else node.lists.get("split")
    if given is None and len(node.inputs) > 1:
        return ()
    each = -(-x[axis] // parts)
    sizes = (
        [each] * (parts - 1) + [x[axis] - each * (parts - 1)] if given is None else [int(v) for v in given]
    )
    return tuple((*x[:axis], size, *x[axis + 1 :]) for size in sizes)


def _value(kind: str, node: Node, shapes: Sequence[Shape | None], values: Values) -> NDArray[np.int64] | None:
    """An integer result where all that it takes is known: shapes that are worked out in the graph."""
    if kind in ("Shape", "Size"):
        if shapes[0] is None:
            return None
        whole = np.array(shapes[0], np.int64)
        if kind == "Size":
            return np.array(whole.prod(), np.int64)
        return whole[node.integers.get("start", 0) : node.integers.get("end")]
    given = [values.get(name) for name in node.inputs]
    known = [v for v in given if v is not None]
    if not known or len(known) < len(given):
        return None
    if kind in _VALUE_ARITHMETIC:
        return np.asarray(_VALUE_ARITHMETIC[kind](*known), np.int64)
    if kind == "Concat":
        return np.concatenate(known, node.integers["axis"])
    if kind == "Gather":
        return np.asarray(np.take(known[0], known[1], node.integers.get("axis", 0)), np.int64)
    if kind == "Slice":
        return _sliced(node, *known)
    if kind == "Cast":
        return known[0] if node.integers.get("to") in (6, 7) else None  # int32 and int64
    if kind == "Identity":
        return known[0]
    shape = _RULES[kind](node, known[0].shape, [v.shape for v in known], values)
    return None if shape is None else known[0].reshape(shape)


def _sliced(node: Node, x: NDArray[np.int64], *given: NDArray[np.int64]) -> NDArray[np.int64] | None:
    if x.ndim != 1 or len(given) < 2:
        return None
    stop = int(given[1].reshape(-1)[0])
    step = int(given[3].reshape(-1)[0]) if len(given) > 3 else 1
    return x[int(given[0].reshape(-1)[0]) : None if abs(stop) >= _END else stop : step]


_VALUE_ARITHMETIC: Mapping[str, Callable[..., object]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Max": np.maximum,
    "Min": np.minimum,
}
_VALUED = frozenset(
    {*_VALUE_ARITHMETIC, *"Shape Size Concat Gather Slice Cast Squeeze Unsqueeze Reshape Identity".split()}
)

_BROADCAST = frozenset(
    """
    Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod
    Mul Or PRelu Pow Sub Sum Where Xor
    """.split()
)
_AS_FIRST = frozenset(
    """
    Abs Cast CastLike Ceil Celu Clip Cos CumSum DequantizeLinear Dropout DynamicQuantizeLinear Elu Erf Exp
    FastGelu Floor Gelu HardSigmoid HardSwish Hardmax Identity InstanceNormalization BatchNormalization
    LayerNormalization GroupNormalization LRN LeakyRelu Log LogSoftmax LpNormalization Mish Neg Not
    QLinearLeakyRelu QLinearSigmoid QLinearSoftmax QuickGelu QuantizeLinear RMSNormalization Reciprocal Relu
    Round ScatterElements ScatterND Selu Sigmoid Sign Sin SimplifiedLayerNormalization
    SkipLayerNormalization Softmax Softplus Softsign Sqrt Swish Tanh ThresholdedRelu Trilu
    """.split()
)
_REDUCE = (
    "ArgMax ArgMin ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)
_RULES: Mapping[str, Callable[[Node, Shape, Sequence[Shape | None], Values], Shape | None]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv"), _conv),
    **dict.fromkeys(("AveragePool", "MaxPool", "LpPool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "QLinearGlobalAveragePool"), _global),
    **dict.fromkeys(("Gemm", "QGemm"), _gemm),
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), _matmul),
    **dict.fromkeys(_REDUCE.split(), _reduce),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), _both),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "ConvTranspose": _conv_transpose,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "MatMulNBits": _matmul_n_bits,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
