"""A teacher that is a TensorFlow SavedModel, run by TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import MeasurementError, UsageError
from edgekd.layouts import layout_for, to_layout
from edgekd.teachers import Teacher

SIGNATURE = "serving_default"


def open_path(path: Path, shape: tuple[int, ...]) -> Teacher:
    """What the signature `serving_default` gives for model inputs (B, *shape): outputs (B, K).

    It must have one input, of which images may lie as (C, H, W) or as (H, W, C), and one output.

    Raises:
        UsageError: TensorFlow is not installed, there is no such signature, or it does not fit the task.
        MeasurementError: the folder does not load.
    """
    try:
        import tensorflow as tf
    except ImportError:
        raise UsageError(
            f"{path}: a SavedModel needs TensorFlow", hint="pip install 'edgekd[tensorflow]'"
        ) from None
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises whatever it stumbled on
        raise MeasurementError(f"{path}: does not load: {type(error).__name__}: {error}") from error
    function = loaded.signatures.get(SIGNATURE)
    if function is None:
        raise UsageError(
            f"{path}: has no signature {SIGNATURE!r}",
            hint=f"it has: {', '.join(loaded.signatures) or 'none'}; save it with the one that serves",
        )
    takes = function.structured_input_signature[1]
    if len(takes) != 1 or len(function.structured_outputs) != 1:
        raise UsageError(
            f"{path}: {SIGNATURE!r} takes {sorted(takes)} and gives {sorted(function.structured_outputs)}",
            hint="a teacher has one input and one output",
        )
    (name,), (given,) = takes, function.structured_outputs
    layout = layout_for(tuple(takes[name].shape[1:]), shape, path.name)

    def teacher(x: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = function(**{name: tf.constant(to_layout(x, layout))})[given].numpy()
        return found.astype(np.float32)

    # The signature's functions live no longer than what they were loaded with.
    teacher.__dict__["loaded"] = loaded
    return teacher
