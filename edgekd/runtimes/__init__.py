"""Runtimes: a model file in, a `Session` out. One name, one module, loaded on demand."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import MeasurementError, UsageError
from edgekd.runtimes._session import OperatorInfo, Session, TensorInfo

__all__ = [
    "RUNTIMES",
    "OperatorInfo",
    "Session",
    "TensorInfo",
    "list_operators",
    "open_session",
    "preload",
    "probe",
    "version",
]

PROBE_INPUT = np.array([[-1.5, 2.5]], np.float32)
RUNTIMES = {
    "litert": "edgekd.runtimes.litert",
    "onnxruntime": "edgekd.runtimes.onnxruntime",
    "tflite_runtime": "edgekd.runtimes.tflite_runtime",
}


def open_session(runtime: str, path: str | Path, *, delegate: str = "cpu", num_threads: int = 1) -> Session:
    """The file loaded in a runtime, on exactly the delegate that was asked for.

    Args:
        runtime: a name of `RUNTIMES`.
        path: the model file.
        delegate: "cpu" is the runtime's own default on the processor; others must take the graph.
        num_threads: threads for inference.

    Raises:
        UsageError: the runtime or the delegate has no such name.
        MeasurementError: the file does not load, or the delegate did not take it.
    """
    module, file = _module(runtime), _existing(path)
    if delegate not in module.DELEGATES:
        raise UsageError(
            f"{runtime} has no delegate {delegate!r}", hint=f"known: {', '.join(module.DELEGATES)}"
        )
    session: Session = module.open_session(file, delegate, num_threads)
    return session


def list_operators(runtime: str, path: str | Path) -> tuple[OperatorInfo, ...]:
    """The operators of the graph that a runtime builds from a file, in the order they run."""
    operators: tuple[OperatorInfo, ...] = _module(runtime).list_operators(_existing(path))
    return operators


def probe(runtime: str) -> str:
    """The runtime's version, after it has run a model: an import alone proves nothing.

    Raises:
        MeasurementError: it does not load the model, or computes something else.
        ImportError: it is not installed.
    """
    session = open_session(runtime, probe_file(runtime))
    if found := probe_trouble(session.run(PROBE_INPUT)):
        raise MeasurementError(f"{runtime}: {found}")
    return session.version


def probe_file(runtime: str) -> Path:
    """The model that shows whether a runtime works."""
    return Path(__file__).with_name("probe.onnx" if runtime == "onnxruntime" else "probe.tflite")


def probe_trouble(found: NDArray[np.float32]) -> str:
    """What is wrong with what that model gave for `PROBE_INPUT`, or nothing."""
    right = found.tolist() == [[0.0, 2.5]]
    return "" if right else f"relu(-1.5, 2.5) came out as {str(found.tolist())[:80]}"


def version(runtime: str) -> str:
    """The runtime's version, without a model: nothing is said of whether it works.

    Raises:
        MeasurementError: it is not installed.
    """
    return str(_module(runtime).version())


def preload(runtime: str) -> None:
    """Imports a runtime, so that opening a session no longer pays for it."""
    _module(runtime).preload()


def _module(runtime: str) -> Any:
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime {runtime!r}", hint=f"known: {', '.join(RUNTIMES)}")
    return importlib.import_module(RUNTIMES[runtime])


def _existing(path: str | Path) -> Path:
    file = Path(path)
    if not file.is_file():
        raise MeasurementError(f"{path}: no such file")
    return file
