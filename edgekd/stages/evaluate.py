"""Stage: run an artifact on the test split in its own runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.measure.accuracy import head_accuracy, predict
from edgekd.nodes import Node
from edgekd.stages.context import Context, artifact_of
from edgekd.stages.export import layout_of


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the file's scores on the test split; says why there are none for a file that is absent."""
    absent = context.parent(node, "export").result.get("absent")
    if absent is not None:
        return {"absent": absent}
    artifact = artifact_of(context.parent(node, "export"), node.parents["export"], context.task)
    found = predict(
        artifact,
        context.task.splits["test"],
        node.config["runtime"],
        num_threads=1,
        workdir=folder,
        layout=layout_of(artifact.format),
        delegate=node.config["delegate"],
    )
    heads = head_accuracy(found.scores, context.task)
    found = replace(found, scores=found.scores[:, : context.task.num_classes])
    np.save(folder / "test_scores.npy", found.scores)
    return {"accuracy": float(found.correct.mean() * 100), "head_accuracy": heads}
