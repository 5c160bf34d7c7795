"""What a plan is made of: the table of stages, nodes with their keys, a target's way to its file."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekd import processes
from edgekd.config import CalibrationPolicy, Recipe, Target
from edgekd.store import Store, hash_of

STATIC = "static_wi8_ai8"
# Scores (N, classes) of a network, teacher or file, in the folder of the stage that left it.
TEST_SCORES, VAL_SCORES = "test_scores.npy", "val_scores.npy"
WATCHED = "watched"  # in a stage's settings: what it goes by on val, where that is not accuracy
BOTH = "both-"  # begins the label of a teacher and a student in float, of whom QAT learns together
BYTES_PER_WEIGHT = {STATIC: 1, "dynamic_wi8_afp32": 1, "weight_only_wi8_afp32": 1, "fp16": 2, "fp32": 4}

_TORCH = ("torch", "lightning-fabric")
_EXPORT = ("torch", "nncf", "onnx", "onnxscript", "onnxruntime", "litert-torch", "ai-edge-quantizer")


@dataclass(frozen=True)
class Stage:
    """Where a stage's code lies, its version, what its result depends on, and a guess of its cost.

    The version is part of the key of the stage's results: raise it when their meaning
    changes, and older results are no longer found.
    """

    module: str
    version: int
    libraries: tuple[str, ...]
    seconds: float


STAGES = {
    "data": Stage("edgekd.stages.data", 2, ("numpy", "pillow", "scikit-learn"), 2),
    "columns": Stage("edgekd.stages.columns", 1, ("numpy",), 1),
    "calibration": Stage("edgekd.stages.calibration", 1, ("numpy",), 1),
    "network": Stage("edgekd.stages.network", 5, (*_TORCH, "keras", "transformers"), 5),
    "file": Stage(
        "edgekd.stages.file", 3, ("onnxruntime", "ai-edge-litert", "tensorflow", "scikit-learn"), 5
    ),
    "ensemble": Stage("edgekd.stages.ensemble", 2, _TORCH, 5),
    "outputs": Stage("edgekd.stages.outputs", 3, _TORCH, 5),
    "distill": Stage("edgekd.stages.distill", 5, _TORCH, 30),
    "prune": Stage("edgekd.stages.prune", 9, (*_TORCH, "torch-pruning"), 20),
    "sensitivity": Stage("edgekd.stages.sensitivity", 3, (*_TORCH, "nncf"), 30),
    "quantize": Stage("edgekd.stages.quantize", 9, (*_TORCH, "nncf"), 30),
    "export": Stage("edgekd.stages.export", 8, _EXPORT, 8),
    "evaluate": Stage("edgekd.stages.evaluate", 3, ("onnxruntime", "ai-edge-litert"), 4),
    "measure": Stage("edgekd.stages.measure", 4, ("onnxruntime", "ai-edge-litert"), 12),
}


@dataclass(frozen=True)
class Node:
    """One stage of a run.

    Attributes:
        label: unique in the plan, readable: `distill`, `prune-8`, `export-tflite-static_wi8_ai8`.
        stage: name in the table of stages.
        config: settings of this stage alone, JSON-able.
        parents: role -> label of the nodes whose results it reads.
        key: hash of stage, version, config, libraries and the parents' keys.
        targets: targets whose files descend from it.
    """

    label: str
    stage: str
    config: Mapping[str, Any]
    parents: Mapping[str, str]
    key: str
    targets: tuple[str, ...] = ()

    @property
    def trainings(self) -> list[Mapping[str, Any]]:
        """The settings of what is trained here: none where weights are loaded or scales measured."""
        sections = [self.config.get(name) for name in ("train", "distill", "prune", "quantize")]
        return [s for s in sections if isinstance(s, Mapping) and s.get("method") != "ptq"]


@dataclass(frozen=True)
class Emission:
    """The nodes behind one target's file."""

    export: str
    evaluate: str
    measure: str
    teacher_float: str | None
    student_float: str


@dataclass(frozen=True)
class Plan:
    """All nodes in an order in which they can run, and where each target's file comes from."""

    recipe: Recipe
    targets: tuple[Target, ...]
    policy: CalibrationPolicy
    nodes: tuple[Node, ...]
    emissions: Mapping[str, Emission]

    def node(self, label: str) -> Node:
        """The node with this label."""
        return next(n for n in self.nodes if n.label == label)


@dataclass
class Builder:
    """Collects nodes; asking twice for the same node gives the same one.

    Attributes:
        seed: the recipe's.
        store: remembers the hashes of source files.
        watched: the judged metric where it is not accuracy, for the settings of stages that go by it.
        nodes: by label.
    """

    seed: int
    store: Store
    watched: Mapping[str, Any] | None = None
    nodes: dict[str, Node] = field(default_factory=dict)

    def add(
        self,
        label: str,
        stage: str,
        config: Mapping[str, Any],
        parents: Mapping[str, str | None],
        target: str | None = None,
    ) -> str:
        """Adds a node (or another target to one that is there) and returns its label."""
        if self.watched is not None and _goes_by_val(stage, config):
            config = {**config, WATCHED: self.watched}
        real = {role: parent for role, parent in parents.items() if parent is not None}
        spec = STAGES[stage]
        trained = Node(label, stage, config, real, "").trainings
        key = hash_of(
            {
                # A step has this many times the batch size.
                **({"processes": processes.count()} if trained and processes.count() > 1 else {}),
                "stage": stage,
                "version": spec.version,
                "config": config,
                "seed": self.seed,
                "libraries": {name: library_version(name) for name in spec.libraries},
                "parents": {role: self.nodes[parent].key for role, parent in real.items()},
            }
        )
        known = self.nodes.get(label)
        assert known is None or known.key == key, f"two different nodes are called {label}"
        targets = known.targets if known else ()
        if target is not None and target not in targets:
            targets = (*targets, target)
        self.nodes[label] = Node(label, stage, config, real, key, targets)
        if target is not None:
            for parent in real.values():
                self._pass_up(parent, target)
        return label

    def _pass_up(self, label: str, target: str) -> None:
        node = self.nodes[label]
        if target not in node.targets:
            self.nodes[label] = Node(
                node.label, node.stage, node.config, node.parents, node.key, (*node.targets, target)
            )
            for parent in node.parents.values():
                self._pass_up(parent, target)


def _goes_by_val(stage: str, config: Mapping[str, Any]) -> bool:
    """Whether a stage's result is a matter of how the judged metric stands on val."""
    if stage == "ensemble":
        return bool(config["weights"] == "val_metric")
    if stage == "quantize" and config["quantize"]["max_val_drop"] is not None:
        return True
    trained = Node("", stage, config, {}, "").trainings
    return stage == "sensitivity" or any(settings.get("patience") is not None for settings in trained)


@functools.cache  # a plan asks some hundred times, and each answer parses a file
def library_version(name: str) -> str:
    """Installed version of a distribution, or "absent"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
