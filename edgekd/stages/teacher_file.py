"""Stage: a teacher that is a file or a function, run once on val and test; only its outputs are used."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import UsageError
from edgekd.nodes import Node
from edgekd.stages.context import Context
from edgekd.stages.guessing import refuse_guessing
from edgekd.stages.saved import TEST_SCORES
from edgekd.stages.teacher import of_source

BATCH = 256


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Keeps the file and the outputs on test; returns its size where it is a file."""
    task, result = context.task, {"params": None, "macs": None, "function": node.config.get("function")}
    if "path" in node.config:
        copy = folder / f"teacher{Path(node.config['path']).suffix}"
        shutil.copyfile(node.config["path"], copy)
        result |= {"file": copy.name, "size_bytes": copy.stat().st_size}
    teacher = of_source(folder, result, context)

    def scores(split_name: str) -> NDArray[np.float32]:
        raw = task.splits[split_name].inputs
        starts = range(0, len(raw), BATCH)
        shown = context.display.track(starts, f"teacher on {split_name}", len(starts))
        parts = [teacher(task.input_spec.preprocess(np.asarray(raw[i : i + BATCH]))) for i in shown]
        return np.concatenate(parts)

    found, on_val = scores("test"), scores("val")
    if found.shape[1] != task.num_classes:
        raise UsageError(f"teacher: gives {found.shape[1]} outputs, the task has {task.num_classes} classes")
    labels = task.splits["val"].labels
    assert labels is not None  # a task without them was refused
    refuse_guessing("teacher", on_val.argmax(axis=1), labels)
    np.save(folder / TEST_SCORES, found)
    return {**result, "val_accuracy": float((on_val.argmax(axis=1) == labels).mean() * 100)}
