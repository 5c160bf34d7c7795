"""Accuracy of the shipped file: its own outputs, in its own runtime, on the samples of a split."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.devices.events import RunJob
from edgekd.devices.local import run_agent
from edgekd.errors import DataError, MeasurementError
from edgekd.layouts import Layout, to_layout
from edgekd.store import reserved_memmap
from edgekd.types import Artifact, InputSpec, Predictions, Split, Task

_CHUNK = 1024


def predict(
    artifact: Artifact,
    split: Split,
    runtime: str,
    num_threads: int,
    workdir: Path,
    *,
    layout: Layout = "NCHW",
    delegate: str = "cpu",
    batch_size: int = 256,
    time_limit_s: float = 1800.0,
    run: RunJob = run_agent,
    most_samples: int | None = None,
) -> Predictions:
    """Outputs of a file on every sample of a labelled split.

    Args:
        artifact: what is shipped; its `input_spec` says how raw samples become inputs.
        split: raw samples with labels.
        runtime: a name of `edgekd.runtimes.RUNTIMES`.
        num_threads: threads for inference.
        workdir: where inputs and outputs stand while the agent runs.
        layout: of image inputs in the file.
        delegate: backend in the runtime.
        batch_size: samples a run, where the file leaves its batch open.
        time_limit_s: for each job.
        run: does the agent's jobs, here or on a device.
        most_samples: of one job; None for all in one.

    Raises:
        DataError: the split has no labels or no samples.
        MeasurementError: the file does not run, or gives NaN, infinity or another shape.
    """
    if split.labels is None or len(split) == 0:
        raise DataError(
            f"split {split.name!r} has no {'labels' if len(split) else 'samples'}: nothing to judge"
        )
    inputs, most = _Inputs(artifact.input_spec, split.inputs, layout), most_samples or len(split)
    pieces = [
        run_batches(
            artifact.path,
            inputs.part(start, start + most),
            runtime,
            num_threads,
            workdir,
            name=artifact.id,
            delegate=delegate,
            batch_size=batch_size,
            time_limit_s=time_limit_s,
            run=run,
        )
        for start in range(0, len(split), most)
    ]
    scores = np.concatenate(pieces)
    wanted = (len(split), artifact.num_outputs or len(artifact.class_names))
    if scores.shape != wanted:
        raise MeasurementError(f"{artifact.id}: gave scores of shape {scores.shape}, not {wanted}")
    return Predictions(split.ids, split.labels, scores)


def head_accuracy(scores: NDArray[np.float32], task: Task) -> dict[str, float]:
    """Accuracy in percent of each further head, from outputs (N, all heads) on the test split."""
    labels = task.splits["test"].head_labels
    return {
        head: float((scores[:, columns].argmax(axis=1) == labels[head]).mean() * 100)
        for head, columns in task.columns.items()
        if head
    }


class _Inputs:
    """Raw samples as the file takes them, made piece by piece so that a split need not fit twice."""

    def __init__(self, spec: InputSpec, raw: NDArray[np.generic], layout: Layout) -> None:
        self._spec, self._raw, self._layout = spec, raw, layout

    def __len__(self) -> int:
        return len(self._raw)

    def part(self, start: int, end: int) -> _Inputs:
        """Some of them."""
        return _Inputs(self._spec, self._raw[start:end], self._layout)

    def __getitem__(self, part: slice) -> NDArray[Any]:
        return to_layout(self._spec.preprocess(self._raw[part]), self._layout)


def run_batches(
    path: Path,
    inputs: _Inputs | NDArray[Any],
    runtime: str,
    num_threads: int,
    workdir: Path,
    *,
    name: str,
    delegate: str = "cpu",
    batch_size: int = 256,
    time_limit_s: float = 1800.0,
    run: RunJob = run_agent,
) -> NDArray[np.float32]:
    """Scores (N, classes) of inputs (N, ...) that are in the file's layout already.

    Raises:
        MeasurementError: the file does not run, or gives NaN or infinity.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="predict-", dir=workdir) as folder:
        fed, given = Path(folder).resolve() / "inputs.npy", Path(folder).resolve() / "scores.npy"
        _write(fed, inputs)
        job = {
            "mode": "predict",
            "model": {
                "id": name,
                "path": str(path.resolve()),
                "runtime": runtime,
                "delegate": delegate,
                "num_threads": num_threads,
            },
            "inputs": str(fed),
            "outputs": str(given),
            "batch_size": batch_size,
        }
        run(job, time_limit_s=time_limit_s)
        scores: NDArray[np.float32] = np.load(given, allow_pickle=False)
    if len(scores) != len(inputs):
        raise MeasurementError(f"{name}: gave {len(scores)} outputs for {len(inputs)} samples")
    broken = int((~np.isfinite(scores)).any(axis=1).sum())
    if broken:
        raise MeasurementError(f"{name}: {broken} of {len(scores)} outputs hold NaN or infinity")
    return scores


def _write(path: Path, inputs: _Inputs | NDArray[Any]) -> None:
    first = inputs[:1]
    file = reserved_memmap(path, first.dtype, (len(inputs), *first.shape[1:]))
    for start in range(0, len(inputs), _CHUNK):
        file[start : start + _CHUNK] = inputs[start : start + _CHUNK]
    del file  # writes it out
