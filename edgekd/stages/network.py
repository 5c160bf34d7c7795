"""Stage: a network with weights, from a checkpoint or a function, or a teacher trained on labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.batches import TrainingSet
from edgekd.config import LabelTrainConfig, LossConfig
from edgekd.nodes import TEST_SCORES, VAL_SCORES, Node
from edgekd.objective import Objective
from edgekd.stages import judged, saved
from edgekd.stages.context import Context
from edgekd.stages.guessing import refuse_probabilities
from edgekd.teachers.torch import load_checkpoint
from edgekd.training import fit
from edgekd.types import VECTOR


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the network; returns its size, cost and how training went."""
    config = dict(node.config)
    context = context.seen_as(config.get("modality"))
    train = None if config["train"] is None else LabelTrainConfig.model_validate(config["train"])
    seed = None if train is None else train.seed
    module = saved.fresh(config, context, seed)
    history, robust = [], {}
    if config.get("checkpoint"):
        saved.refuse_changed(Path(config["checkpoint"]), config["checkpoint_sha256"], context)
        load_checkpoint(saved.inner(module), Path(config["checkpoint"]))
    if train is not None:
        said = {"kind": "cross_entropy", "smoothing": train.label_smoothing}
        heads = [None, *context.task.heads]
        labels = [LossConfig.model_validate({**said, "head": head}) for head in heads]
        if context.task.vector:
            labels.append(LossConfig(kind="contrastive", head=VECTOR))
        splits, spec = context.task.splits, context.task.input_spec
        data = TrainingSet(
            splits["train"],
            spec,
            None,
            1,
            _views_seed(context.seed, seed),
            order_seed=seed,
            val=splits["val"],
            num_classes=context.task.num_classes,
            num_judged=context.task.num_judged,
        )
        history = fit(
            module,
            data,
            Objective(labels, "fixed", None, columns=context.task.parts),
            train,
            what=node.label,
            display=context.display,
            checkpoint=context.store.partial(node.stage, node.key),
            watch=context.watch,
            watched=judged.watched(node, context),
        )
        robust = saved.robust_accuracy(module, train, context)
    architecture: dict[str, Any] = {key: config[key] for key in saved.BUILT_FROM if key in config}
    result = saved.save(folder, module, context, architecture)
    if config["train"] is None:
        judged.refuse_chance(config["role"], np.load(folder / VAL_SCORES), context)
    if config["role"] != "student":
        scores = np.load(folder / TEST_SCORES)[:, : context.task.num_classes]
        refuse_probabilities(config["role"], scores, config["outputs"])
    return {**result, **robust, "history": history}


def _views_seed(seed: int, own: int | None) -> int:
    """Of the views that a teacher trains on: others than it is asked about, and its own in an ensemble."""
    return int(np.random.SeedSequence([seed, 0 if own is None else 1 + own]).generate_state(1)[0])
