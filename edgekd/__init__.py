"""edgekd: distil, prune, quantize, export, measure and judge models for edge devices.

The public names load on first use: importing the package imports neither torch nor
anything else, so that its light parts also run on a board.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.config import CalibrationPolicy, Recipe, Target
    from edgekd.errors import EdgeKDError
    from edgekd.pipeline import compress
    from edgekd.report.schema import Report
    from edgekd.table_rows import prepare_row, read_preparation
    from edgekd.types import ACCURACY, InputSpec, Split, Task

__all__ = [
    "ACCURACY",
    "CalibrationPolicy",
    "EdgeKDError",
    "InputSpec",
    "Recipe",
    "Report",
    "Split",
    "Target",
    "Task",
    "compress",
    "prepare_row",
    "read_preparation",
]

_HOMES = {
    "ACCURACY": "edgekd.types",
    "CalibrationPolicy": "edgekd.config",
    "EdgeKDError": "edgekd.errors",
    "InputSpec": "edgekd.types",
    "Recipe": "edgekd.config",
    "Report": "edgekd.report.schema",
    "Split": "edgekd.types",
    "Target": "edgekd.config",
    "Task": "edgekd.types",
    "compress": "edgekd.pipeline",
    "prepare_row": "edgekd.table_rows",
    "read_preparation": "edgekd.table_rows",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekd' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
