"""TFLite files in tflite_runtime, the older package that many boards still have."""

from __future__ import annotations

import functools
import importlib
from importlib import metadata
from pathlib import Path
from typing import Any

from edgekd.errors import MeasurementError
from edgekd.runtimes import _interpreter
from edgekd.runtimes._session import OperatorInfo, Session, first_line

DELEGATES = ("cpu", "xnnpack")


def open_session(path: Path, delegate: str, num_threads: int) -> Session:
    """A TFLite file loaded; see `edgekd.runtimes.open_session`."""
    module, installed = _import(), version()
    try:
        return _interpreter.InterpreterSession(
            module, path, delegate, num_threads, runtime="tflite_runtime", version=installed
        )
    except (ImportError, AttributeError, SystemError) as error:
        # It imports beside numpy 2 and only breaks here.
        raise MeasurementError(
            f"tflite_runtime {installed} cannot make an interpreter: {first_line(error)}",
            hint="it needs numpy<2, in an environment of its own",
        ) from None


def list_operators(path: Path) -> tuple[OperatorInfo, ...]:
    """The file's operators; see `edgekd.runtimes.list_operators`."""
    return _interpreter.list_operators(_import(), path, "tflite_runtime")


def preload() -> None:
    """Imports the runtime."""
    version()


@functools.cache  # read from a file: not as a part of opening a session
def version() -> str:
    """Of the package that is installed."""
    _import()  # which says how to get it
    return metadata.version("tflite-runtime")


def _import() -> Any:
    try:
        # By name, since it is no dependency of ours: boards bring it.
        return importlib.import_module("tflite_runtime.interpreter")
    except ImportError as error:
        raise MeasurementError(
            f"tflite_runtime cannot be imported: {first_line(error)}", hint="pip install tflite-runtime"
        ) from None
