"""A teacher that is an ONNX or a TFLite file, run in its own runtime."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.layouts import layout_for, to_layout
from edgekd.runtimes import open_session
from edgekd.teachers import Teacher

RUNTIME_OF = {".onnx": "onnxruntime", ".tflite": "litert"}


def open_path(path: Path, shape: tuple[int, ...]) -> Teacher:
    """What the file gives for model inputs (B, *shape): outputs (B, K).

    Images may lie in the file as (C, H, W) or as (H, W, C); a file with a fixed batch is fed
    batch by batch, the last one filled up.

    Args:
        path: .onnx or .tflite.
        shape: of one model input, (C, H, W) or (F,).

    Raises:
        UsageError: the file takes inputs of another shape.
        MeasurementError: the file does not load.
    """
    session = open_session(RUNTIME_OF[path.suffix], path, num_threads=os.cpu_count() or 1)
    fixed, *wanted = session.inputs[0].shape

    layout = layout_for(tuple(wanted), shape, path.name)

    def teacher(x: NDArray[np.float32]) -> NDArray[np.float32]:
        fed = to_layout(x, layout)
        if fixed is None:
            return session.run(fed)
        parts = []
        for start in range(0, len(fed), fixed):
            part = fed[start : start + fixed]
            filled = np.concatenate((part, np.repeat(part[-1:], fixed - len(part), axis=0)))
            parts.append(session.run(filled)[: len(part)])
        return np.concatenate(parts)

    return teacher
