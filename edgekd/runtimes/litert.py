"""TFLite files in LiteRT: on the processor, or on a GPU through its compiled models."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import MeasurementError
from edgekd.runtimes import _gpus, _interpreter
from edgekd.runtimes._session import Delegated, OperatorInfo, Session, first_line

DELEGATES = ("cpu", "xnnpack", "gpu", "gpu-fp32")
# `gpu` leaves the precision to LiteRT, which takes float16 where the GPU has it, for int8 files too.
_GPUS = {"gpu": False, "gpu-fp32": True}


def open_session(path: Path, delegate: str, num_threads: int) -> Session:
    """A TFLite file loaded on a delegate; see `edgekd.runtimes.open_session`."""
    if delegate in _GPUS:
        return GpuSession(path, delegate, num_threads)
    return _interpreter.InterpreterSession(
        _import(), path, delegate, num_threads, runtime="litert", version=version()
    )


def list_operators(path: Path) -> tuple[OperatorInfo, ...]:
    """The file's operators; see `edgekd.runtimes.list_operators`."""
    return _interpreter.list_operators(_import(), path, "litert")


def preload() -> None:
    """Imports the runtime."""
    version()


class GpuSession(Session):
    """A TFLite file compiled for the GPU (WebGPU in the Linux wheel), all of it or nothing.

    Args:
        path: the file.
        delegate: "gpu" in LiteRT's own precision, "gpu-fp32" in float32.
        num_threads: of the processor, where the GPU leaves it anything to do.
    """

    runtime = "litert"

    def __init__(self, path: Path, delegate: str, num_threads: int) -> None:
        interpreter = _interpreter.make_interpreter(_import(), path, "litert", num_threads=num_threads)
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self.inputs = tuple(_interpreter.tensor_info(d)._replace(shape=_fixed(d)) for d in inputs)
        self.outputs = tuple(_interpreter.tensor_info(d)._replace(shape=_fixed(d)) for d in outputs)
        self.version, self.num_threads = version(), num_threads
        self._model = _compile_for_gpu(path, delegate)
        self.backend = f"{delegate}, {_accelerator(path)}"
        details = interpreter._get_ops_details()
        total = sum(d["op_name"] != _interpreter.DELEGATE for d in details)
        self._delegated = Delegated(total, total, 1)  # anything else was refused
        self._in = self._model.create_input_buffers(0)
        self._out = self._model.create_output_buffers(0)
        self._results = [(int(np.prod(_fixed(d))), np.dtype(d["dtype"]), _fixed(d)) for d in outputs]

    def delegated(self) -> Delegated | None:
        """All of it."""
        return self._delegated

    def gpu(self) -> _gpus.Gpu | None:
        """As Vulkan's drivers name it."""
        return _gpus.one_of(_gpus.vulkan())

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


def _compile_for_gpu(path: Path, delegate: str) -> Any:
    try:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.hardware_accelerator import HardwareAccelerator
        from ai_edge_litert.options import GpuOptions, Options
    except ImportError as error:
        raise MeasurementError(
            f"delegate {delegate!r}: this LiteRT {version()} cannot choose a GPU: {first_line(error)}",
            hint="a newer ai-edge-litert can",
        ) from None

    def compiled() -> Any:
        # Never with the processor beside it: it would take in silence what the GPU cannot run.
        options = Options(HardwareAccelerator.GPU, gpu_options=GpuOptions(enforce_f32=_GPUS[delegate]))
        return CompiledModel.from_file(str(path), options=options)

    try:
        model = compiled()
    except RuntimeError as error:
        if "not accelerated" not in str(error):
            raise MeasurementError(
                f"{path.name}: delegate {delegate!r}: {_no_gpu()}",
                hint="its own words stand in the log; a GPU needs a Vulkan driver",
            ) from None
        with _heard() as said, contextlib.suppress(RuntimeError):
            compiled()
        raise MeasurementError(
            f"{path.name}: delegate {delegate!r}: LiteRT's GPU cannot run the whole graph: {_refused(said)}"
        ) from None
    if not model.is_fully_accelerated():
        raise MeasurementError(
            f"{path.name}: delegate {delegate!r}: LiteRT took only a part of the graph to the GPU"
        )
    return model


def _no_gpu() -> str:
    found = _gpus.one_of(_gpus.vulkan())
    if found is None:
        return "there is no usable GPU here: no Vulkan driver names one"
    return f"LiteRT cannot use the GPU here ({found.name}), or not for this file"


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """What is written to stderr meanwhile, by libraries too, line by line; it still gets there."""
    said: list[str] = []
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(own, 2)
            os.close(own)
            file.seek(0)
            text = file.read()
            os.write(2, text)
            said.extend(text.decode(errors="replace").splitlines())


def _refused(said: Sequence[str]) -> str:
    """The operators that LiteRT's log says the GPU cannot run, each with its reason."""
    after = False
    found: list[str] = []
    for line in said:
        if after and not re.match(r"[A-Z0-9_]+: ", line):
            break
        if after:
            found.append(line.strip())
        after = after or "not supported by GPU" in line
    return "; ".join(found) or "it does not say which operators"


def _accelerator(path: Path) -> str:
    """Which of LiteRT's accelerators is loaded: it tells only in its log."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return "an accelerator that this system does not name"
    text = maps.read_text(encoding="utf-8", errors="replace")
    names = sorted(set(re.findall(r"/libLiteRt(\w*)Accelerator\.so", text)))
    if not names:
        raise MeasurementError(f"{path.name}: LiteRT says that a GPU took it, and has loaded none's library")
    return " or ".join(names)


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


@functools.cache  # read from a file: not as a part of opening a session
def version() -> str:
    """Of the package that is installed."""
    _import()  # which says how to get it
    return metadata.version("ai-edge-litert")
