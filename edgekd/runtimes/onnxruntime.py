"""ONNX files in ONNX Runtime."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import MeasurementError
from edgekd.runtimes._session import OperatorInfo, Session, TensorInfo, first_line

DELEGATES = ("cpu", "xnnpack", "gpu")
_CPU = "CPUExecutionProvider"
_PROVIDERS = {
    "cpu": (_CPU,),
    "xnnpack": ("XnnpackExecutionProvider",),
    "gpu": (
        "CUDAExecutionProvider",
        "WebGpuExecutionProvider",
        "DmlExecutionProvider",
        "ROCMExecutionProvider",
    ),
}
_DTYPES = {"float": "float32", "double": "float64"}  # the others are named as numpy names them
_ERRORS_ONLY = 3


def open_session(path: Path, delegate: str, num_threads: int) -> Session:
    """An ONNX file loaded on a delegate; see `edgekd.runtimes.open_session`."""
    return OnnxSession(path, delegate, num_threads)


def preload() -> None:
    """Imports the runtime."""
    _import()


class OnnxSession(Session):
    """An ONNX file, loaded."""

    runtime = "onnxruntime"

    def __init__(self, path: Path, delegate: str, num_threads: int) -> None:
        ort = _import()
        self.version = version()
        provider = _provider(ort, delegate)
        options = _options(ort, num_threads)
        if provider != _CPU:
            # Without this, what the backend cannot run goes to the processor without a word.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        self._session = _load(ort, path, options, provider)
        self._session.disable_fallback()
        self.backend = str(self._session.get_providers()[0])
        if self.backend != provider:
            raise MeasurementError(
                f"{path.name}: asked for {provider}, onnxruntime runs it on {self.backend}"
            )
        self.num_threads = int(self._session.get_session_options().intra_op_num_threads)
        self.inputs = tuple(_info(node) for node in self._session.get_inputs())
        self.outputs = tuple(_info(node) for node in self._session.get_outputs())
        self._output_names = [info.name for info in self.outputs]

    def prepare(self, arrays: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Inputs by name."""
        return {info.name: array for info, array in zip(self.inputs, arrays, strict=True)}

    def invoke(self, prepared: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """One inference."""
        outputs: list[NDArray[Any]] = self._session.run(self._output_names, prepared)
        return outputs


def list_operators(path: Path) -> tuple[OperatorInfo, ...]:
    """Operators of the optimized graph, as it runs on a processor with signed int8 kernels.

    They come from the profile of one run: it names each node with its input
    types after fusion, and needs no parser of ONNX files. Layout changes of
    the highest level are left out, since they differ from processor to processor.
    """
    ort = _import()
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        options = _options(ort, 1)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = _load(ort, path, options, _CPU)
        infos = [_info(node) for node in session.get_inputs()]
        session.run(None, {info.name: np.ones([s or 1 for s in info.shape], info.dtype) for info in infos})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return tuple(
        OperatorInfo(
            event["name"].removesuffix("_kernel_time"),
            event["args"]["op_name"],
            tuple(_DTYPES.get(kind, kind) for entry in event["args"]["input_type_shape"] for kind in entry),
        )
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    )


def version() -> str:
    """Of the package that is installed."""
    return str(_import().__version__)


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MeasurementError(
            f"onnxruntime cannot be imported: {first_line(error)}", hint="pip install onnxruntime"
        ) from None
    return onnxruntime


def _options(ort: Any, num_threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Arm's default. An x86 leaves signed activations in float between their scales, and would compute
    # otherwise than the boards that such files are for; of unsigned ones the graph is the same either way.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    return options


def _provider(ort: Any, delegate: str) -> str:
    available = ort.get_available_providers()
    for provider in _PROVIDERS[delegate]:
        if provider in available:
            return provider
    raise MeasurementError(
        f"delegate {delegate!r}: this onnxruntime {ort.__version__} has no such backend "
        f"(it has: {', '.join(available)})"
    )


def _load(ort: Any, path: Path, options: Any, provider: str) -> Any:
    try:
        return ort.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # its exceptions have no base class of their own
        text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : ", "", first_line(error)).replace(str(path), path.name)
        raise MeasurementError(f"{path.name}: onnxruntime cannot load it: {text}") from None


def _info(node: Any) -> TensorInfo:
    kind = str(node.type).removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in node.shape or ())
    return TensorInfo(str(node.name), shape, _DTYPES.get(kind, kind))
