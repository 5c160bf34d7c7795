"""Stage: draw the training samples that calibrate the quantizers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.nodes import Node
from edgekd.stages.context import Context
from edgekd.store import hash_of
from edgekd.tasks import calibration


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the drawn indices into train; returns policy, ids and their checksum."""
    policy, train = context.plan.policy, context.task.splits["train"]
    # A smoke run has fewer samples than any sensible policy asks for.
    picked = calibration.draw(train, policy, allow_fewer=context.plan.recipe.smoke)
    calibration.check_disjoint(train.ids[picked], context.task)
    np.save(folder / "indices.npy", picked)
    ids = [str(train.ids[i]) for i in picked]
    return {"policy": policy.name, "n": len(ids), "ids": ids, "ids_sha256": hash_of(ids)}
