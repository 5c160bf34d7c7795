"""Stage: run an artifact on the test split in its own runtime, here or on a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.devices import places
from edgekd.devices.events import Event, RunJob
from edgekd.devices.kept import KeptJobs
from edgekd.devices.local import run_agent
from edgekd.errors import MeasurementError
from edgekd.measure.accuracy import head_accuracy, predict
from edgekd.measure.parity import output_range, parity
from edgekd.nodes import TEST_SCORES, Node
from edgekd.stages import judged
from edgekd.stages.context import Context, artifact_of
from edgekd.stages.export import layout_of
from edgekd.types import Artifact

# Of the samples of one job on a device: a link that is cut loses one job's work, and a board's disk is small.
_MOST_SAMPLES, _MOST_BYTES = 1000, 64 * 2**20


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the file's scores on the test split; says why there are none for a file that is absent.

    What came from a device is held beside what the same file gives here.
    """
    absent = context.parent(node, "export").result.get("absent")
    if absent is not None:
        return {"absent": absent}
    artifact = artifact_of(context.parent(node, "export"), node.parents["export"], context.task)
    test, backends = context.task.splits["test"], set[str]()
    with opened(node, context) as run_job:

        def noted(job: Mapping[str, Any], *, time_limit_s: float = 600.0) -> tuple[Event, ...]:
            events = run_job(job, time_limit_s=time_limit_s)
            backends.update(str(event["backend"]) for event in events if event["event"] == "session")
            return events

        found = predict(
            artifact,
            test,
            node.config["runtime"],
            num_threads=1,
            workdir=folder,
            layout=layout_of(artifact.format),
            delegate=node.config["delegate"],
            run=noted,
            most_samples=_most_samples(artifact) if "device" in node.config else None,
        )
    heads = head_accuracy(found.scores, context.task)
    outputs = found.scores[:, : context.task.num_judged]
    np.save(folder / TEST_SCORES, outputs)
    right = judged.predictions("test", outputs, context).correct
    result = {"accuracy": float(right.mean() * 100), "head_accuracy": heads}
    if "device" not in node.config:
        return result
    if len(backends) != 1:
        ran = ", ".join(sorted(backends)) or "nothing"
        raise MeasurementError(
            f"{artifact.id} on {node.config['device']['name']}: ran on {ran}",
            hint="one backend must run all samples",
        )
    here = np.load(context.parent(node, "here").file(TEST_SCORES), allow_pickle=False)
    exported = context.parent(node, "export").result["parity"] or {}
    classes = (slice(0, context.task.num_classes),)
    compared = parity(here, {256: outputs}, artifact.scheme, classes, exported.get("own_steps"))
    return {
        **result,
        "backend": backends.pop(),
        "parity": asdict(compared),
        "output_range": output_range(here),
    }


@contextmanager
def opened(node: Node, context: Context) -> Iterator[RunJob]:
    """What does a node's jobs: this computer, or a device, whose answers are kept until the node is done."""
    place = node.config.get("device")
    if place is None:
        yield run_agent
        return
    context.display.line(f"  on {place['name']}")
    with places.opened(place, context.display.line) as run_there:
        yield KeptJobs(run_there, context.store.partial(node.stage, node.key))


def _most_samples(artifact: Artifact) -> int:
    size = 4 * int(np.prod(artifact.input_spec.shape))
    return max(1, min(_MOST_SAMPLES, _MOST_BYTES // size))
