"""Logs of training, read by those who read them: csv, TensorBoard's own reader, a real MLflow server."""

import csv
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from runs import TINY

STAGES = {"teacher", "student", "prune-8", "quantize-prune-8"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An MLflow server on SQLite, from an environment of its own: it does not install beside ours."""
    command = os.environ.get("EDGEKD_MLFLOW")
    if not command:
        pytest.skip("EDGEKD_MLFLOW names no mlflow command (of an environment with the whole of mlflow)")
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    arguments = ["server", "--backend-store-uri", f"sqlite:///{folder}/runs.db", "--workers", "1"]
    arguments += ["--artifacts-destination", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([command, *arguments], stdout=log, stderr=log, start_new_session=True)
        try:
            for _ in range(600):
                assert process.poll() is None, (folder / "log").read_text()
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 15)
            process.wait(20)


def histories(commands):
    """Stage -> epochs, as the store has them."""
    nodes = json.loads((commands.folder / "runs/tiny-smoke/run.json").read_text())["nodes"]
    found = {}
    for node in nodes:
        entry = commands.store / f"{node['stage']}-{node['key'][:24]}" / "result.json"
        if history := json.loads(entry.read_text())["result"].get("history"):
            found[node["label"]] = history
    return found


def test_every_run_leaves_its_losses_as_csv(finished):
    folder = finished.folder / "runs/tiny-smoke/logs"
    assert {p.name for p in folder.iterdir()} == {f"{stage}.csv" for stage in STAGES}
    for stage, history in histories(finished).items():
        with (folder / f"{stage}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [{k: float(v) for k, v in row.items()} for row in rows] == history
        assert list(rows[0])[:3] == ["epoch", "loss", "lr"]


def test_tensorboard_and_mlflow(finished, tmp_path, server, monkeypatch):
    """A finished run told again: what the store has is logged like what has just been trained."""
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    copied = finished.copy(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    done = copied("run", "recipe.toml", "--log-to", "tensorboard", "--log-to", "mlflow")
    assert done.returncode == 3, done.stderr
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("edgekd")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "tiny" and run.info.status == "FINISHED"
    assert run.data.tags["verdict"] == "INCONCLUSIVE"
    assert run.data.params["student.model.hidden"] == "[32, 32]"
    assert run.data.params["distill.losses.1.kind"] == "kd"
    report = copied.report()
    artifact = next(a for a in report["artifacts"] if a["id"] == "host")
    assert run.data.metrics["host.size_bytes"] == artifact["size_bytes"]
    assert run.data.metrics["host.drop"] == pytest.approx(artifact["metrics"][0]["drop"])
    (timed,) = [m for m in report["measurements"] if m["artifact_id"] == "host"]
    assert run.data.metrics["host.median_ms"] == pytest.approx(timed["median_ms"])
    folder = Path(copied.folder / "runs/tiny-smoke/logs/tensorboard")
    for stage, history in histories(copied).items():
        board = EventAccumulator(str(folder / stage))
        board.Reload()
        assert set(board.Tags()["scalars"]) == set(history[0]) - {"epoch"}
        for name in board.Tags()["scalars"]:
            expected = [(record["epoch"], pytest.approx(record[name], rel=1e-5)) for record in history]
            assert [(event.step, event.value) for event in board.Scalars(name)] == expected
            told = client.get_metric_history(run.info.run_id, f"{stage}.{name}")
            assert sorted((m.step, m.value) for m in told) == expected


def test_places_that_cannot_be_logged_to_are_said_before_anything_runs(edgekd, monkeypatch):
    recipe = edgekd.write(TINY)
    done = edgekd("run", recipe, "--log-to", "wandb")
    assert (
        done.returncode == 2
        and "--log-to 'wandb': not known (choose among tensorboard, mlflow)" in done.stderr
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = edgekd("run", recipe, "--log-to", "mlflow")
    assert done.returncode == 2 and "MLFLOW_TRACKING_URI = '' names no server" in done.stderr
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = edgekd("run", recipe, "--log-to", "mlflow")
    assert done.returncode == 2 and "MLflow at http://127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr and not list(edgekd.store.glob("*-*/result.json"))
