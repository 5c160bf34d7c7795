"""Teachers: anything that maps a batch of model inputs to outputs; and the cache of what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import UsageError

# Model inputs (B, *shape), float32, to outputs (B, K), float32.
Teacher = Callable[[NDArray[np.float32]], NDArray[np.float32]]

# Files and folders of which only the outputs are used. A Keras file and a Hugging Face folder are
# networks of torch: they stand among the models.
FILES: Mapping[str, str] = {
    "onnx": "edgekd.teachers.model_file",
    "tflite": "edgekd.teachers.model_file",
    "saved_model": "edgekd.teachers.saved_model",
}
NETWORKS = ("keras", "hugging_face")


def kind_of(path: Path) -> str:
    """What a path holds: a kind of `FILES` or of `NETWORKS`.

    Raises:
        UsageError: it is none of them.
    """
    if path.is_file() and path.suffix in (".onnx", ".tflite", ".keras"):
        return path.suffix[1:]
    if (path / "saved_model.pb").is_file():
        return "saved_model"
    if (path / "config.json").is_file():
        return "hugging_face"
    raise UsageError(
        f"teacher.file = {str(path)!r}: no model that is known",
        hint="an .onnx, .tflite or .keras file, a TensorFlow SavedModel (a folder with saved_model.pb), "
        "or a Hugging Face folder (with config.json)",
    )


def open_path(path: Path, shape: tuple[int, ...]) -> Teacher:
    """What a file or folder of `FILES` gives for model inputs (B, *shape): outputs (B, K).

    Raises:
        UsageError: it takes inputs of another shape, or what runs it is not installed.
        MeasurementError: it does not load.
    """
    open_it = import_module(FILES[kind_of(path)]).open_path
    return cast(Teacher, open_it(path, shape))
