"""What a finished run leaves to find its results again by: its plan, its host, its store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekd import config as configs
from edgekd.config import CalibrationPolicy, Recipe, Target
from edgekd.errors import UsageError
from edgekd.nodes import Emission, Node, Plan, library_version
from edgekd.store import Store, write_atomic

RUN_FILE = "run.json"
LIBRARIES = tuple(
    "edgekd torch nncf torch-pruning lightning-fabric litert-torch onnx onnxruntime ai-edge-litert "
    "ai-edge-quantizer numpy scipy scikit-learn".split()
)


def versions() -> dict[str, str]:
    """Of the libraries that a run depends on, as installed here and now."""
    return {name: library_version(name) for name in LIBRARIES}


def write(workdir: Path, plan: Plan, host: Mapping[str, Any], store: Store) -> None:
    """Leaves the record of a run in its folder."""
    record = _record(plan, host, store)
    write_atomic(workdir / RUN_FILE, json.dumps(record, indent=1, sort_keys=True))


def read(workdir: Path) -> tuple[Plan, Mapping[str, Any], Mapping[str, str], Store]:
    """The plan, the host, the versions and the store of a finished run.

    Raises:
        UsageError: `workdir` holds no finished run, or its record is damaged.
    """
    path = workdir / RUN_FILE
    if not path.is_file():
        raise UsageError(f"{workdir}: holds no finished run", hint=f"edgekd run RECIPE --workdir {workdir}")
    try:
        record = json.loads(path.read_text())
        return _plan(record, path), record["host"], record["versions"], Store(Path(record["store"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: damaged: {error!r}", hint="run the recipe again") from None


def _record(plan: Plan, host: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """What `edgekd report` needs to find the same results again, on whatever became of data and libraries."""
    return {
        "recipe": plan.recipe.model_dump(mode="json"),
        "targets": [t.model_dump(mode="json") for t in plan.targets],
        "calibration": plan.policy.model_dump(mode="json"),
        "nodes": [asdict(node) for node in plan.nodes],
        "emissions": {name: asdict(emission) for name, emission in plan.emissions.items()},
        "host": dict(host),
        "versions": versions(),
        "store": str(store.root.resolve()),
    }


def _plan(record: Mapping[str, Any], path: Path) -> Plan:
    nodes = tuple(Node(**{**node, "targets": tuple(node["targets"])}) for node in record["nodes"])
    return Plan(
        configs.build(Recipe, record["recipe"], str(path)),
        tuple(configs.build(Target, target, str(path)) for target in record["targets"]),
        configs.build(CalibrationPolicy, record["calibration"], str(path)),
        nodes,
        {name: Emission(**emission) for name, emission in record["emissions"].items()},
    )
