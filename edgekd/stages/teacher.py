"""What a teacher says, whatever it is: a network, a file or a function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgekd.fields import Plugin
from edgekd.stages import saved
from edgekd.stages.context import Context
from edgekd.store import Entry
from edgekd.teachers import Teacher
from edgekd.teachers.file import open_file
from edgekd.teachers.function import open_function


def of_entry(entry: Entry, context: Context) -> Teacher:
    """The teacher that a stage (network, onnx_file, teacher_file) left, on inputs (B, *shape)."""
    if saved.ARCHITECTURE in entry.files:
        module = saved.load(entry, context)

        @torch.no_grad()
        def network(x: NDArray[np.float32]) -> NDArray[np.float32]:
            return module(torch.from_numpy(x)).numpy()  # type: ignore[no-any-return]

        return network
    if "model.onnx" in entry.files:
        return open_file(entry.file("model.onnx"), context.task.input_spec.shape)
    return of_source(entry.folder, entry.result, context)


def of_source(folder: Path, result: Mapping[str, Any], context: Context) -> Teacher:
    """The teacher of a `teacher_file` stage by what it says of it: a file in `folder`, or a function."""
    if result["function"] is not None:
        chosen = Plugin.model_validate(result["function"])
        return open_function(chosen.kind, chosen.options)
    return open_file(folder / result["file"], context.task.input_spec.shape)
