"""Stage: read the task, check it for leaks, keep it as memory-mapped arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd import tasks
from edgekd.nodes import Node
from edgekd.stages.context import Context


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the splits; returns their sizes, checksums and what was counted."""
    config = context.plan.recipe.task
    if "object" in node.config:
        task = tasks.admit(context.objects["task"], config, context.seed)
    else:
        task = tasks.read(config, context.seed)
    tasks.save(task, folder)
    return {
        "splits": {
            name: {"n": len(split), "sha256": tasks.split_sha256(split)}
            for name, split in task.splits.items()
        },
        "notes": dict(task.notes),
        "class_names": list(task.class_names),
    }
