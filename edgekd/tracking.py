"""How training goes, for people: CSV always, TensorBoard and MLflow where they are asked for."""

from __future__ import annotations

import csv
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, get_args

from edgekd.errors import TrackingError, UsageError
from edgekd.report.schema import Report

Place = Literal["tensorboard", "mlflow"]
FOLDER = "logs"
EXPERIMENT = "edgekd"
HINT = "pip install 'edgekd[tracking]'"
# What an MLflow server takes.
MAX_PARAM, MAX_BATCH = 500, 100

History = Sequence[Mapping[str, float]]


class _Sink(Protocol):
    def epochs(self, label: str, history: History) -> None:
        """Writes those epochs of a stage that it does not have yet."""

    def verdict(self, report: Report) -> None:
        """Writes how the run was judged."""

    def close(self, failed: bool) -> None:
        """The run is over."""


class Tracker:
    """The logs of one run, below `folder`/logs."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any], to: Sequence[str] = ()) -> None:
        for name in to:
            if name not in get_args(Place):
                raise UsageError(
                    f"--log-to {name!r}: not known", hint=f"choose among {', '.join(get_args(Place))}"
                )
        self.folder = folder / FOLDER
        self._sinks: list[_Sink] = []
        if "tensorboard" in to:
            self._sinks.append(_TensorBoard(self.folder / "tensorboard"))
        if "mlflow" in to:
            self._sinks.append(_MLflow(recipe))

    def epochs(self, label: str, history: History) -> None:
        """All epochs of a stage so far: logs/<stage>.csv is written anew, others get what is new."""
        self.folder.mkdir(parents=True, exist_ok=True)
        first = [
            "epoch",
            "loss",
            "lr",
            *(n for n in history[0] if n.startswith("val_")),
        ]  # the store sorts keys
        names = [n for n in first if n in history[0]] + [n for n in history[0] if n not in first]
        path = self.folder / f"{label}.csv"
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(history)
        temporary.replace(path)
        for sink in self._sinks:
            sink.epochs(label, history)

    def verdict(self, report: Report) -> None:
        """How the run was judged."""
        for sink in self._sinks:
            sink.verdict(report)

    def __enter__(self) -> Tracker:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Says that the run is over, and whether by an error."""
        for sink in self._sinks:
            # A server that fails too must not hide what the run failed of.
            with suppress(TrackingError) if error is not None else nullcontext():
                sink.close(error is not None)


def _figures(report: Report) -> dict[str, float]:
    """What a run is compared by: of each target's file its size, drop and median latency."""
    found: dict[str, float] = {}
    for artifact in report.artifacts:
        if artifact.role != "target":
            continue
        found[f"{artifact.id}.size_bytes"] = artifact.size_bytes
        for metric in artifact.metrics:
            found[f"{artifact.id}.{metric.name}"] = metric.value
        if (drop := artifact.metrics[0].drop) is not None:  # of what is judged
            found[f"{artifact.id}.drop"] = drop
    for measured in report.measurements:
        if f"{measured.artifact_id}.size_bytes" in found:
            found[f"{measured.artifact_id}.median_ms"] = measured.median_ms
    return found


class _TensorBoard:
    """One folder of event files a stage; figures of the whole run in the folder itself."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError("--log-to tensorboard: TensorBoard is not installed", hint=HINT) from None
        self._make = SummaryWriter
        self._folder = folder
        self._writers: dict[str, tuple[Any, int]] = {}
        shutil.rmtree(folder, ignore_errors=True)  # an earlier run's: what it did stands in the store

    def epochs(self, label: str, history: History) -> None:
        writer, done = self._writers.get(label) or (self._make(str(self._folder / label)), 0)
        for record in history[done:]:
            for name, value in record.items():
                if name != "epoch":
                    writer.add_scalar(name, value, int(record["epoch"]))
        writer.flush()
        self._writers[label] = writer, len(history)

    def verdict(self, report: Report) -> None:
        writer = self._make(str(self._folder))
        writer.add_text("verdict", report.verdict.status)
        for name, value in _figures(report).items():
            writer.add_scalar(name, value)
        writer.close()

    def close(self, failed: bool) -> None:
        for writer, _ in self._writers.values():
            writer.close()


class _MLflow:
    """One run on the server that MLFLOW_TRACKING_URI names, in the experiment `edgekd`."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri.startswith(("http://", "https://")):
            raise UsageError(
                f"--log-to mlflow: MLFLOW_TRACKING_URI = {uri!r} names no server",
                hint="export MLFLOW_TRACKING_URI=http://host:port",
            )
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
        except ImportError:
            raise UsageError("--log-to mlflow: MLflow is not installed", hint=HINT) from None
        self._metric, self._uri, self._done = Metric, uri, dict[str, int]()
        self._client = MlflowClient(uri)
        params = [Param(k, v) for k, v in _flat(recipe).items()]
        with _told_clearly(self._uri):
            known = self._client.get_experiment_by_name(EXPERIMENT)
            experiment = known.experiment_id if known else self._client.create_experiment(EXPERIMENT)
            self._run = self._client.create_run(experiment, run_name=recipe["name"]).info.run_id
            for start in range(0, len(params), MAX_BATCH):
                self._client.log_batch(self._run, params=params[start : start + MAX_BATCH])

    def epochs(self, label: str, history: History) -> None:
        for record in history[self._done.get(label, 0) :]:
            self._log({f"{label}.{k}": v for k, v in record.items() if k != "epoch"}, int(record["epoch"]))
        self._done[label] = len(history)

    def verdict(self, report: Report) -> None:
        self._log(_figures(report), 0)
        with _told_clearly(self._uri):
            self._client.set_tag(self._run, "verdict", report.verdict.status)

    def close(self, failed: bool) -> None:
        with _told_clearly(self._uri):
            self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        with _told_clearly(self._uri):
            metrics = [self._metric(name, value, now, step) for name, value in values.items()]
            self._client.log_batch(self._run, metrics=metrics)


@contextmanager
def _told_clearly(uri: str) -> Iterator[None]:
    """A server that does not answer, or refuses, as an error that says which."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        said = " ".join(str(error).split())[:200]
        raise TrackingError(
            f"MLflow at {uri}: {said}",
            hint="mend it, or leave --log-to mlflow out: the run goes on where it stopped",
        ) from error


def _flat(config: Any, prefix: str = "") -> dict[str, str]:
    """Nested keys as dotted ones, values as text."""
    if isinstance(config, Mapping):
        return {k: v for key, value in config.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
    if isinstance(config, list | tuple) and any(isinstance(value, Mapping) for value in config):
        return {k: v for i, value in enumerate(config) for k, v in _flat(value, f"{prefix}{i}.").items()}
    return {} if config is None else {prefix.rstrip("."): str(config)[:MAX_PARAM]}
