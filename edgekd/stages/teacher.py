"""What a teacher says, whatever it is: a network, a file, a function or several of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekd.config import FunctionConfig
from edgekd.errors import ExportError, UsageError
from edgekd.folding import fold_batch_norm
from edgekd.measure.accuracy import head_accuracy
from edgekd.memory_format import lay_out
from edgekd.nodes import TEST_SCORES, VAL_SCORES
from edgekd.stages import judged, saved
from edgekd.stages.context import Context
from edgekd.stages.guessing import refuse_probabilities
from edgekd.teachers import Teacher, ensemble, open_path
from edgekd.teachers.function import fit_function, open_function

BATCH = 256


def of_node(label: str, context: Context) -> Teacher:
    """The teacher that a stage left, on inputs (B, *shape); its outputs are logits.

    `context` shows the modality that it looks at.
    """
    node, entry = context.plan.node(label), context.entries[label]
    if node.stage == "ensemble":
        members = [of_node(parent, context) for role, parent in node.parents.items() if role != "data"]
        columns = tuple(context.task.columns.values())
        return ensemble.combine(members, node.config["combine"], entry.result["weights"], columns)
    if node.stage == "file":
        for name in entry.files:
            entry.file(name)  # verified
        return of_source(entry.folder, entry.result, context)
    return of_module(saved.load(entry, context), context.task.input_spec.shape)


def of_module(module: nn.Module, shape: tuple[int, ...]) -> Teacher:
    """A network as a teacher, which only answers: batch norms are folded away where that can be done."""
    try:
        module = fold_batch_norm(module)
    except ExportError:  # its forward cannot be traced: it answers the same, and slower
        pass
    layout = lay_out(module.eval(), shape)

    @torch.no_grad()
    def network(x: NDArray[np.float32]) -> NDArray[np.float32]:
        fed = torch.from_numpy(x).contiguous(memory_format=layout)
        return module(fed).float().numpy()  # type: ignore[no-any-return]

    return network


def of_source(folder: Path, result: Mapping[str, Any], context: Context) -> Teacher:
    """The teacher of a `file` stage by what it says of it: a file in `folder`, or a function."""
    if result["function"] is not None:
        chosen: FunctionConfig | None = FunctionConfig.model_validate(result["function"], strict=False)
        assert chosen is not None
        teacher = _fitted(chosen, context) if chosen.fit else open_function(chosen.kind, chosen.options)
    else:
        chosen = None
        teacher = open_path(folder / result["file"], context.task.input_spec.shape)
    teacher = teacher if result["outputs"] == "logits" else ensemble.logits_of(teacher)
    if chosen is not None and chosen.fit:
        _refuse_another(chosen.kind, teacher, folder, context)
    return teacher


def _fitted(config: FunctionConfig, context: Context) -> Teacher:
    """A function that is fitted on train; nothing of it is kept but its outputs."""
    train = context.task.splits["train"]
    if train.labels is None:
        raise UsageError(
            f"teacher function {config.kind!r} cannot be fitted: the split 'train' has no labels",
            hint="give a teacher that is trained already",
        )
    inputs = context.task.input_spec.preprocess(np.asarray(train.inputs))
    return fit_function(config.kind, config.options, inputs, np.asarray(train.labels), context.seed)


def _refuse_another(kind: str, teacher: Teacher, folder: Path, context: Context) -> None:
    """What is fitted anew must say what it said when its outputs on val were kept."""
    if not (folder / VAL_SCORES).is_file():
        return  # it is fitted for the first time
    before = np.load(folder / VAL_SCORES, allow_pickle=False)[:BATCH]
    val = np.asarray(context.task.splits["val"].inputs[:BATCH])
    again = teacher(context.task.input_spec.preprocess(val))[:, : context.task.num_judged]
    if not np.allclose(again, before, rtol=1e-4, atol=1e-4):
        raise UsageError(
            f"teacher function {kind!r}: fitted on the same samples again it gives other outputs, off by up "
            f"to {np.abs(again - before).max():.3g}",
            hint="draw all that is random from the seed that it is given",
        )


def prove(
    folder: Path, shown: str, teacher: Teacher, context: Context, outputs: str = "logits"
) -> Mapping[str, Any]:
    """Runs a teacher on test and val; writes its scores and returns its accuracy on val.

    Raises:
        UsageError: it gives another number of outputs than the task has classes, probabilities where
            logits are due or the other way round, or knows nothing of the task.
    """
    found, on_val = (_outputs_on(name, teacher, context) for name in ("test", "val"))
    task = context.task
    if found.shape[1] != task.num_outputs:
        raise UsageError(f"{shown}: gives {found.shape[1]} outputs, the task has {task.num_outputs} classes")
    heads = head_accuracy(found, task)
    found, on_val = found[:, : task.num_judged], on_val[:, : task.num_judged]
    if not shown.startswith("student"):
        refuse_probabilities(shown, found[:, : task.num_classes], outputs)
    labels = task.splits["val"].labels
    assert labels is not None  # a task without them was refused
    judged.refuse_chance(shown, on_val, context)
    np.save(folder / TEST_SCORES, found)
    np.save(folder / VAL_SCORES, on_val)
    accuracy = float((on_val[:, : task.num_classes].argmax(axis=1) == labels).mean() * 100)
    return {"val_accuracy": accuracy, "head_accuracy": heads}


def _outputs_on(split_name: str, teacher: Teacher, context: Context) -> NDArray[np.float32]:
    task = context.task
    raw = task.splits[split_name].inputs
    starts = range(0, len(raw), BATCH)
    shown = context.display.track(starts, f"teacher on {split_name}", len(starts))
    parts = [teacher(task.input_spec.preprocess(np.asarray(raw[i : i + BATCH]))) for i in shown]
    return np.concatenate(parts)
