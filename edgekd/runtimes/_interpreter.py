"""TFLite files in an interpreter: what LiteRT and the older tflite_runtime have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import MeasurementError
from edgekd.runtimes._session import Delegated, OperatorInfo, Session, TensorInfo, first_line

# A delegate that leaves one of these out has not taken the graph; pooling, a softmax or the product of two
# activations outside is normal (XNNPACK has no int8 AVERAGE_POOL_2D, SOFTMAX or BATCH_MATMUL).
_HEAVY = {
    "BATCH_MATMUL",
    "CONV_2D",
    "CONV_3D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "TRANSPOSE_CONV",
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
}
# The node that stands for a part of the graph that a delegate took.
DELEGATE = "DELEGATE"


class InterpreterSession(Session):
    """A TFLite file in an interpreter with the runtime's default delegate (XNNPACK)."""

    def __init__(
        self, module: Any, path: Path, delegate: str, num_threads: int, *, runtime: str, version: str
    ) -> None:
        self.runtime, self.version, self.num_threads = runtime, version, num_threads
        self._path, self._delegate = path, delegate
        self._interpreter = make_interpreter(module, path, runtime, num_threads=num_threads)
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        self.inputs = tuple(tensor_info(detail) for detail in inputs)
        self.outputs = tuple(tensor_info(detail) for detail in outputs)
        self._input_indices = [int(detail["index"]) for detail in inputs]
        self._output_indices = [int(detail["index"]) for detail in outputs]
        self._shapes = [tuple(int(s) for s in detail["shape"]) for detail in inputs]
        self._read_backend()

    def prepare(self, arrays: Sequence[NDArray[Any]]) -> list[tuple[int, NDArray[Any]]]:
        """Inputs with their tensor indices; the graph is resized where their shape is another."""
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            try:
                for index, shape in zip(self._input_indices, shapes, strict=True):
                    # strict: only dimensions that the file leaves open may change. Others may
                    # be written into its RESHAPEs too.
                    self._interpreter.resize_tensor_input(index, shape, strict=True)
                self._interpreter.allocate_tensors()
            except (RuntimeError, ValueError) as error:
                raise MeasurementError(
                    f"{self._path.name}: cannot be resized to {shapes}: {first_line(error)}"
                ) from None
            self._shapes = shapes
            self._read_backend()
        return list(zip(self._input_indices, arrays, strict=True))

    def invoke(self, prepared: list[tuple[int, NDArray[Any]]]) -> list[NDArray[Any]]:
        """One inference."""
        for index, array in prepared:
            self._interpreter.set_tensor(index, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._output_indices]

    def delegated(self) -> Delegated | None:
        """What XNNPACK took."""
        return self._delegated

    def _read_backend(self) -> None:
        details = self._interpreter._get_ops_details()
        taken, left = split_by_delegate(details)
        parts = sum(d["op_name"] == DELEGATE for d in details)
        self._delegated = Delegated(len(taken), len(taken) + len(left), parts)
        self.backend = "builtin" if not taken else "xnnpack+builtin" if left else "xnnpack"
        heavy = sorted(_HEAVY.intersection(left))
        if "BATCH_MATMUL" in heavy and not self._has_float(details, "BATCH_MATMUL"):
            heavy.remove("BATCH_MATMUL")
        if self._delegate == "xnnpack" and (not taken or heavy):
            raise MeasurementError(
                f"{self._path.name}: XNNPACK did not take the graph; left to built-in kernels: "
                f"{', '.join(heavy or sorted(set(left)))}",
                hint='delegate = "cpu" runs it all the same',
            )

    def _has_float(self, details: Sequence[Any], op_type: str) -> bool:
        """Whether an operator of this type takes floats."""
        floats = {
            int(d["index"])
            for d in self._interpreter.get_tensor_details()
            if np.dtype(d["dtype"]).kind == "f"
        }
        return any(int(d["inputs"][0]) in floats for d in details if d["op_name"] == op_type)


def split_by_delegate(details: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Operators that delegates took and those left to built-in kernels, both as types.

    A delegated graph keeps its operators in the list and adds DELEGATE nodes
    that stand for parts of it. Such a part is what lies on the way back from
    its node's outputs to its node's inputs.
    """
    original = [d for d in details if d["op_name"] != DELEGATE]
    producer = {int(tensor): d for d in original for tensor in d["outputs"]}
    inside: set[int] = set()
    for node in details:
        if node["op_name"] != DELEGATE:
            continue
        seen, todo = {int(t) for t in node["inputs"]}, [int(t) for t in node["outputs"]]
        while todo:
            tensor = todo.pop()
            if tensor in seen or tensor not in producer:
                continue
            seen.add(tensor)
            inside.add(int(producer[tensor]["index"]))
            todo.extend(int(t) for t in producer[tensor]["inputs"])
    taken = [str(d["op_name"]) for d in original if int(d["index"]) in inside]
    left = [str(d["op_name"]) for d in original if int(d["index"]) not in inside]
    return taken, left


def list_operators(module: Any, path: Path, runtime: str) -> tuple[OperatorInfo, ...]:
    """The file's operators before any delegate takes them, with their inputs' dtypes."""
    resolver = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = make_interpreter(
        module, path, runtime, num_threads=1, experimental_op_resolver_type=resolver
    )
    tensors = {int(d["index"]): d for d in interpreter.get_tensor_details()}
    return tuple(
        OperatorInfo(
            _output_name(tensors, d["outputs"]),
            str(d["op_name"]),
            tuple(_dtype_name(tensors[int(t)]["dtype"]) for t in d["inputs"] if int(t) in tensors),
        )
        for d in interpreter._get_ops_details()
    )


def make_interpreter(module: Any, path: Path, runtime: str, **options: Any) -> Any:
    """An interpreter with its tensors allocated, or a MeasurementError in its own words."""
    try:
        interpreter = module.Interpreter(model_path=str(path), **options)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        text = first_line(error).replace(str(path), path.name)
        raise MeasurementError(f"{path.name}: {runtime} cannot load it: {text}") from None
    return interpreter


def tensor_info(detail: Any) -> TensorInfo:
    """What an interpreter says of a tensor; -1 in its signature is a free dimension."""
    signature = detail.get("shape_signature", detail["shape"])
    shape = signature if len(signature) == len(detail["shape"]) else detail["shape"]
    scale, zero_point = detail["quantization"]
    return TensorInfo(
        str(detail["name"]),
        tuple(None if int(size) < 0 else int(size) for size in shape),
        _dtype_name(detail["dtype"]),
        float(scale),
        int(zero_point),
    )


def _output_name(tensors: dict[int, Any], outputs: Iterable[int]) -> str:
    return next((str(tensors[int(t)]["name"]) for t in outputs if int(t) in tensors), "")


def _dtype_name(dtype: Any) -> str:
    return str(np.dtype(dtype).name)
