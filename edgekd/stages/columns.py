"""Stage: what the recipe says of the test samples beside their label, kept as it was in this run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import tasks
from edgekd.nodes import Node
from edgekd.stages.context import Context


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the texts (N,) of each column under its number; returns their names."""
    found = tasks.columns_of(context.plan.recipe.task, context.task.splits["test"])
    # Under numbers: a name may be none of a file's.
    np.savez_compressed(
        folder / "columns.npz", allow_pickle=False, **{str(i): c.texts for i, c in enumerate(found.values())}
    )
    return {"names": list(found)}
