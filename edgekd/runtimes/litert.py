"""TFLite files in LiteRT: on the processor, or on a GPU through its compiled models."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import MeasurementError
from edgekd.runtimes import _interpreter
from edgekd.runtimes._session import OperatorInfo, Session, first_line

DELEGATES = ("cpu", "xnnpack", "gpu")


def open_session(path: Path, delegate: str, num_threads: int) -> Session:
    """A TFLite file loaded on a delegate; see `edgekd.runtimes.open_session`."""
    if delegate == "gpu":
        return GpuSession(path, num_threads)
    return _interpreter.InterpreterSession(
        _import(), path, delegate, num_threads, runtime="litert", version=version()
    )


def list_operators(path: Path) -> tuple[OperatorInfo, ...]:
    """The file's operators; see `edgekd.runtimes.list_operators`."""
    return _interpreter.list_operators(_import(), path, "litert")


def preload() -> None:
    """Imports the runtime."""
    _import()


class GpuSession(Session):
    """A TFLite file compiled for the GPU (WebGPU in the Linux wheel), all of it or nothing."""

    runtime = "litert"

    def __init__(self, path: Path, num_threads: int) -> None:
        interpreter = _interpreter.make_interpreter(_import(), path, "litert", num_threads=num_threads)
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self.inputs = tuple(_interpreter.tensor_info(d)._replace(shape=_fixed(d)) for d in inputs)
        self.outputs = tuple(_interpreter.tensor_info(d)._replace(shape=_fixed(d)) for d in outputs)
        self.version, self.num_threads = version(), num_threads
        self._model = _compile_for_gpu(path)
        self.backend = "gpu"
        self._in = self._model.create_input_buffers(0)
        self._out = self._model.create_output_buffers(0)
        self._results = [(int(np.prod(_fixed(d))), np.dtype(d["dtype"]), _fixed(d)) for d in outputs]

    def prepare(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Inputs in order; their shapes are the file's own."""
        shapes = [array.shape for array in arrays]
        if shapes != [info.shape for info in self.inputs]:
            raise MeasurementError(f"on the GPU the file runs only at its own shapes, got {shapes}")
        return list(arrays)

    def invoke(self, prepared: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """One inference; reading the outputs waits for the GPU."""
        for buffer, array in zip(self._in, prepared, strict=True):
            buffer.write(array)
        self._model.run_by_index(0, self._in, self._out)
        return [
            buffer.read(count, dtype).reshape(shape)
            for buffer, (count, dtype, shape) in zip(self._out, self._results, strict=True)
        ]


def _compile_for_gpu(path: Path) -> Any:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    try:
        model = CompiledModel.from_file(str(path), hardware_accel=HardwareAccelerator.GPU)
    except RuntimeError:
        raise MeasurementError(
            f"{path.name}: delegate 'gpu': LiteRT found no GPU here, or its GPU cannot run this file",
            hint="its own words stand in the log; a GPU needs a Vulkan driver",
        ) from None
    if not model.is_fully_accelerated():
        raise MeasurementError(
            f"{path.name}: delegate 'gpu': LiteRT took only a part of the graph to the GPU"
        )
    return model


def _fixed(detail: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in detail["shape"])


def _import() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise MeasurementError(
            f"LiteRT cannot be imported: {first_line(error)}", hint="pip install ai-edge-litert"
        ) from None
    return interpreter


def version() -> str:
    """Of the package that is installed."""
    _import()  # which says how to get it
    return metadata.version("ai-edge-litert")
