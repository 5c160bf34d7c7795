"""Stage: a float ONNX file that the user brings, taken in and run once on the test split."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import UsageError
from edgekd.nodes import Node
from edgekd.runtimes import Session, open_session
from edgekd.stages.context import Context
from edgekd.stages.guessing import refuse_guessing
from edgekd.stages.saved import TEST_SCORES
from edgekd.types import Task

BATCH = 64


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Copies the file; returns its size in parameters, where that can be told."""
    path = folder / "model.onnx"
    shutil.copyfile(node.config["path"], path)
    session = open_session("onnxruntime", path)
    task = context.task
    found, on_val = (_scores(session, task, name) for name in ("test", "val"))
    if found.shape[1] != task.num_classes:
        raise UsageError(
            f"{node.config['path']}: gives {found.shape[1]} outputs, the task has {task.num_classes} classes"
        )
    labels = task.splits["val"].labels
    assert labels is not None  # a task without them was refused
    refuse_guessing(node.config["path"], on_val.argmax(axis=1), labels)
    np.save(folder / TEST_SCORES, found)
    return {"params": None, "macs": None, "input_name": session.inputs[0].name}


def _scores(session: Session, task: Task, split_name: str) -> NDArray[np.float32]:
    """Outputs (N, K) on a split."""
    split = task.splits[split_name]
    parts = []
    for start in range(0, len(split), BATCH):
        raw = np.asarray(split.inputs[start : start + BATCH])
        parts.append(session.run(task.input_spec.preprocess(raw)))
    return np.concatenate(parts)
