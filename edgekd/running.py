"""Runs the stages of a plan that the store does not have yet."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import demands, gate, judgement, judgement_log, processes
from edgekd.errors import UsageError
from edgekd.metric_values import check_metric
from edgekd.nodes import STAGES, TEST_SCORES, VAL_SCORES, WATCHED, Node
from edgekd.stages import judged
from edgekd.stages.context import Context
from edgekd.store import Entry


def run_stages(context: Context, until: str | None = None) -> None:
    """Runs every node of the plan that the store does not have yet, in order.

    Where several processes were started together, all go through the plan side by side: the first does
    what there is to do, and in training the others take their share of each step.

    Raises:
        UsageError: `until` names no stage of this plan.
    """
    plan, nodes = context.plan, context.plan.nodes
    if until is not None:
        last = [i for i, n in enumerate(nodes) if until in (n.label, n.stage)]
        if not last:
            names = ", ".join(dict.fromkeys(n.stage for n in nodes))
            raise UsageError(f"--until {until!r}: no such stage in this recipe", hint=f"stages: {names}")
        nodes = nodes[: last[-1] + 1]
    processes.join()
    found = processes.tell([n.label for n in nodes if context.store.get(n.stage, n.key) is not None])
    if found:
        context.display.line(f"from earlier runs: {'all' if len(found) == len(nodes) else ', '.join(found)}")
    # What the samples are is known: what could not be trained, or pass, is told before anything is.
    sampled = "data" if plan.recipe.task.columns is None else "columns"
    for node in nodes:
        if node.label in found:
            entry = _stored(node, context)
        elif processes.rank() == 0:
            entry = _first(node, context)
        else:
            entry = _along(node, context)
        context.entries[node.label] = entry
        if node.label == sampled:
            demands.check(context.plan.recipe, context.task)
            _check_policy(context)
            left = [node for node in nodes if node.label not in found]
            if any("teacher" in n.parents for n in left):
                importlib.import_module(STAGES["distill"].module).check(context, left)
            if any(n.stage == "export" for n in left):
                importlib.import_module(STAGES["export"].module).check(context, left)
            if any(n.stage == "prune" for n in left):
                importlib.import_module(STAGES["prune"].module).check(context, left)
            if any(n.stage == "quantize" for n in left):
                importlib.import_module(STAGES["quantize"].module).check(context, left)
        if history := entry.result.get("history"):
            context.watch(node.label, history)


def _check_policy(context: Context) -> None:
    """Says before any training where a lossless file would hardly pass."""
    task, recipe = context.task, context.plan.recipe
    labels, on_val = (task.splits[name].labels for name in ("test", "val"))
    assert labels is not None and on_val is not None  # the data stage refuses such splits without labels
    if gate.is_nearest(recipe.gate.judged) and not task.vector:
        raise UsageError(
            f"gate.metric = {recipe.gate.metric!r} is of vectors, and networks of this task give none",
            hint='task.vector gives their width, in tasks of kind "text"',
        )
    split = context.entries["data"].result["splits"]["test"]["sha256"]
    asked = 1 + judgement_log.count(context.store.root, split)
    unsure: dict[float, list[str]] = {}
    for target in context.plan.targets:
        policy = recipe.gate.on(target.gate).spent(asked)
        joint = judgement.plan(
            policy, np.asarray(labels), task.class_names, context.columns, smoke=recipe.smoke
        )
        if joint is not None and joint < gate.WARNED:
            unsure.setdefault(joint, []).append(target.name)
    check_metric(recipe.gate, np.asarray(on_val), task.class_names, "val")
    if not judged.has_queries("val", context):
        _refuse_watching(context)
    for joint, names in unsure.items():
        context.display.line(
            f"  gate.slices: a file for {', '.join(names)} that lost nothing passes all with probability "
            f"{joint:.0%} only"
        )


def _refuse_watching(context: Context) -> None:
    """Nothing may go by a metric on val whose queries val does not tell."""
    gate_, going = context.plan.recipe.gate, [n.label for n in context.plan.nodes if n.config.get(WATCHED)]
    if going:
        raise UsageError(
            f"gate.query = {gate_.query!r}: the split 'val' has no such column, and {going[0]} goes by "
            f"{gate_.metric} on it",
            hint="give val the column too, or leave out patience, sensitivity, max_val_drop and weights",
        )


def _stored(node: Node, context: Context) -> Entry:
    entry = context.store.get(node.stage, node.key)
    if entry is None:
        raise UsageError(
            f"the result of {node.label!r} is gone from {context.store.root}",
            hint="run again; processes that train together need the same store",
        )
    return entry


def _first(node: Node, context: Context) -> Entry:
    shared = not node.targets or len(node.targets) == len(context.plan.targets)
    context.display.line(f"[bold]{node.label}[/]" + ("" if shared else f" for {', '.join(node.targets)}"))
    told = False

    def make(folder: Path) -> Mapping[str, Any]:
        nonlocal told
        told = processes.tell(True)
        return _run(node, context, folder)

    entry = context.store.put(
        node.stage,
        node.key,
        make,
        on_wait=lambda: context.display.line("  another run is making it: waiting"),
    )
    if not told:
        processes.tell(False)  # another run has made it meanwhile
    processes.tell("stored")
    context.display.line(f"  done in {entry.seconds:.1f} s{_news(node, entry, context)}")
    return entry


def _along(node: Node, context: Context) -> Entry:
    """In a process that is not the first: the same training, whose result the first one keeps."""
    if processes.tell(False) and node.trainings:
        with tempfile.TemporaryDirectory() as folder:
            _run(node, context, Path(folder))
    processes.tell("stored")
    return _stored(node, context)


def _run(node: Node, context: Context, folder: Path) -> Mapping[str, Any]:
    stage = importlib.import_module(STAGES[node.stage].module)
    result: Mapping[str, Any] = stage.run(folder, node, context)
    return result


def _news(node: Node, entry: Entry, context: Context) -> str:
    """How well what a stage left does by what is judged: on val, or of a file on test."""
    for split, name in (("val", VAL_SCORES), ("test", TEST_SCORES)):
        if name in entry.files:
            scores = np.load(entry.file(name), allow_pickle=False)
            return ", " + judged.text(split, scores, context)
    return ""
