"""What a stage may look at: the recipe, the data, the results of the stages before it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekd import tasks
from edgekd.columns import columns_of, of_samples
from edgekd.nodes import Node, Plan
from edgekd.progress import Display
from edgekd.store import Entry, Store
from edgekd.types import Artifact, Column, File, Split, Task

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Context:
    """One run.

    Attributes:
        plan: all nodes.
        store: where results lie.
        display: shows progress.
        objects: teacher, student and task passed from Python, by role.
        entries: label -> result of every stage that is done.
        watch: told the epochs of a training so far, after each.
    """

    plan: Plan
    store: Store
    display: Display
    objects: Mapping[str, Any] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    watch: Callable[[str, Sequence[Mapping[str, float]]], None] = lambda what, history: None

    @property
    def seed(self) -> int:
        """The recipe's seed."""
        return self.plan.recipe.seed

    @functools.cached_property
    def task(self) -> Task:
        """The data, memory-mapped from the data stage's result, its checksums verified."""
        entry = self.entries["data"]
        for name in entry.files:
            entry.file(name)
        return tasks.load(entry.folder)

    @functools.cached_property
    def columns(self) -> Mapping[str, Column]:
        """What is known of the test samples beside their label."""
        if (entry := self.entries.get("columns")) is None:
            return columns_of(of_samples(self.task.splits["test"].columns, "split 'test'"))
        with np.load(entry.file("columns.npz"), allow_pickle=False) as found:
            named = {name: found[str(i)] for i, name in enumerate(entry.result["names"])}
        return columns_of(of_samples(named, "the task's columns"))

    def seen_as(self, modality: str | None) -> Context:
        """The same run for a teacher that looks at a modality of the task; itself for None."""
        if modality is None:
            return self
        seen = replace(self)
        seen.__dict__["task"] = self.task.seen_as(modality)
        return seen

    def parent(self, node: Node, role: str) -> Entry:
        """The result of one of a node's parents."""
        return self.entries[node.parents[role]]

    def teacher_outputs(self, node: Node) -> NDArray[np.float16]:
        """Cached teacher logits (views, N, classes), memory-mapped."""
        path: Path = self.parent(node, "outputs").file("logits.npy")
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]

    def training_split(self, unlabelled: bool) -> Split:
        """What is trained on: train, and behind it the samples without labels where they are wanted."""
        from edgekd.batches import with_unlabelled

        splits = self.task.splits
        return with_unlabelled(splits["train"], splits["unlabelled"]) if unlabelled else splits["train"]

    def object_of(self, role: str) -> nn.Module:
        """A copy of the module that was passed from Python for a role."""
        import copy

        return copy.deepcopy(self.objects[role])  # type: ignore[no-any-return]


def artifact_of(entry: Entry, label: str, task: Task) -> Artifact:
    """The file that an export stage wrote, as a value."""
    files = tuple(File(entry.file(f["name"]), f["sha256"], f["size_bytes"]) for f in entry.result["files"])
    result = entry.result
    return Artifact(
        label, files, result["format"], result["scheme"], task.input_spec, task.class_names, task.num_outputs
    )
