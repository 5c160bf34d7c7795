"""Stage: a float ONNX file that the user brings, taken in and run once on the test split."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import UsageError
from edgekd.plan import Node
from edgekd.runtimes import open_session
from edgekd.stages.context import Context
from edgekd.stages.saved import TEST_SCORES

BATCH = 64


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Copies the file; returns its size in parameters, where that can be told."""
    path = folder / "model.onnx"
    shutil.copyfile(node.config["path"], path)
    session = open_session("onnxruntime", path)
    task = context.task
    scores = []
    for start in range(0, len(task.splits["test"]), BATCH):
        raw = np.asarray(task.splits["test"].inputs[start : start + BATCH])
        scores.append(session.run(task.input_spec.preprocess(raw)))
    found = np.concatenate(scores)
    if found.shape[1] != task.num_classes:
        raise UsageError(
            f"{node.config['path']}: gives {found.shape[1]} outputs, the task has {task.num_classes} classes"
        )
    np.save(folder / TEST_SCORES, found)
    return {"params": None, "macs": None, "input_name": session.inputs[0].name}
