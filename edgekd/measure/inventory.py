"""The operators of a file as its runtime will run them, and how many compute in int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekd.devices.events import RunJob
from edgekd.devices.local import run_agent
from edgekd.errors import MeasurementError
from edgekd.types import Format, Inventory, Operator

_RUNTIME = {"onnx": "onnxruntime", "tflite": "litert"}

# Conversions and moves of data: they compute nothing.
MOVES = frozenset(
    """
    Cast Concat Constant ConstantOfShape DepthToSpace DequantizeLinear Dropout DynamicQuantizeLinear
    Expand Flatten Gather GatherElements GatherND Identity MemcpyFromHost MemcpyToHost NonZero OneHot Pad
    QLinearConcat QuantizeLinear Range ReorderInput ReorderOutput Reshape Scatter ScatterElements ScatterND
    Shape Size Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze Where
    BATCH_TO_SPACE_ND BROADCAST_TO CAST CONCATENATION DEPTH_TO_SPACE DEQUANTIZE EXPAND_DIMS FILL GATHER
    GATHER_ND MIRROR_PAD ONE_HOT PACK PAD PADV2 QUANTIZE RANGE RESHAPE SCATTER_ND SELECT SELECT_V2 SHAPE SLICE
    SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQUEEZE STRIDED_SLICE TILE TRANSPOSE UNPACK
    """.split()
)
# They take floats and quantize them on the way in; the runtime does not list their packed weights.
_QUANTIZE_INSIDE = frozenset({"DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits"})
_WEIGHTED = frozenset({"BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
# The first input of most operators is the tensor they work on; this one's is a shape.
_MAIN_INPUT = {"TRANSPOSE_CONV": 2}
_BYTE = ("int8", "uint8")
_FLOAT = ("float16", "bfloat16", "float32", "float64")

HYBRID = "float32xint8"


def inventory_of(
    path: Path,
    file_format: Format,
    *,
    time_limit_s: float = 300.0,
    run: RunJob = run_agent,
    runtime: str | None = None,
) -> Inventory:
    """The operators of a file, counted as int8 or float.

    ONNX: the graph that ONNX Runtime builds where int8 kernels take signed
    activations (as on Arm), fused and with unabsorbed Q/DQ pairs left as float
    operators. TFLite: the file's own graph, before delegates. An operator with
    float activations and int8 weights computes in int8 and has dtype
    "float32xint8". Operators on integers such as shapes count as neither.
    `runtime` reads the file; None for the format's own.

    Raises:
        MeasurementError: the file does not load.
    """
    model = {
        "id": path.name,
        "path": str(path.resolve()),
        "runtime": runtime or _RUNTIME[file_format],
        "delegate": "cpu",
        "num_threads": 1,
    }
    # In a process of its own, since a broken file can take its runtime down with it.
    events = run({"mode": "operators", "model": model}, time_limit_s=time_limit_s)
    listed = next((event["operators"] for event in events if event["event"] == "operators"), ())
    try:
        read = [(str(name), str(kind), [str(dtype) for dtype in dtypes]) for name, kind, dtypes in listed]
    except (TypeError, ValueError):
        raise MeasurementError(f"{path.name}: the agent listed no operators: {str(listed)[:100]}") from None
    return count([Operator(name, kind, main_dtype(kind, dtypes)) for name, kind, dtypes in read])


def count(operators: Sequence[Operator]) -> Inventory:
    """Operators with how many of them compute in int8 and in float."""
    computing = [o for o in operators if o.op_type not in MOVES]
    int8 = sum(o.dtype in (*_BYTE, HYBRID) for o in computing)
    return Inventory(tuple(operators), int8, sum(o.dtype in _FLOAT for o in computing))


def main_dtype(kind: str, dtypes: Sequence[str]) -> str:
    """The type of an operator's main input, of the types of all of them, or HYBRID."""
    index = _MAIN_INPUT.get(kind, 0)
    main = dtypes[index] if index < len(dtypes) else ""
    weights = dtypes[1] if len(dtypes) > 1 else ""
    if main == "float32" and (kind in _QUANTIZE_INSIDE or (kind in _WEIGHTED and weights in _BYTE)):
        return HYBRID
    return main
