"""tflite_runtime 2.14, which needs numpy 1, in an environment of its own: a board that has nothing else."""

import json
import sys

import debian
import numpy as np
import pytest
from model_files import linear_onnx, linear_tflite
from typer.testing import CliRunner

from edgekd import cli
from edgekd.config import load_target
from edgekd.devices import known
from edgekd.devices.board import Board
from edgekd.devices.known import Device
from edgekd.devices.local import run_agent
from edgekd.errors import MeasurementError
from edgekd.measure.bench import bench
from edgekd.measurements import Protocol

PACKAGES = ("tflite-runtime==2.14.0", "numpy==1.26.4")
SHORT = Protocol(warmup_runs=1, min_runs=20, min_seconds=0.0, num_processes=2, num_threads=1)


def build(place):
    """Only its Python is started, so that it works wherever it is moved to."""
    debian.run(sys.executable, "-m", "venv", place)
    debian.run(place / "bin/python", "-m", "pip", "install", "--quiet", *PACKAGES)


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """This computer as a device whose Python has that runtime alone, built once."""
    place = debian.kept("tflite-runtime-2.14.0", build)
    # Its own packages and no others: a PYTHONPATH of the tests' would bring ours.
    empty = str(tmp_path_factory.mktemp("none"))
    return Device(via="local", python=str(place / "bin/python"), packages=empty)


def predict(runtime, path, inputs, outputs):
    model = {"id": path.stem, "path": str(path), "runtime": runtime, "delegate": "cpu", "num_threads": 1}
    return {
        "mode": "predict",
        "model": model,
        "batch_size": 8,
        "inputs": str(inputs),
        "outputs": str(outputs),
    }


def test_scores_are_litert_s_within_a_step(older, tmp_path):
    """Pixels from 0 to 16 as of the digits, 64 of them, to ten classes in int8.

    Deeper networks differ by more: 2.14 runs int8 in its own kernels, LiteRT in XNNPACK's, and each rounds.
    """
    rng = np.random.default_rng(0)
    weight, inputs = rng.integers(-127, 128, (10, 64)), rng.integers(0, 17, (20, 64)).astype(np.float32)
    path = linear_tflite(
        tmp_path / "digits.tflite", weight, kind="int8", steps=(1 / 8, 1 / 64, 1 / 2), zeros=(-128, 0)
    )
    np.save(tmp_path / "inputs.npy", inputs)
    with Board("older", older) as board:
        found = board.machine()["runtimes"]
        events = board.run(predict("tflite_runtime", path, tmp_path / "inputs.npy", tmp_path / "there.npy"))
    assert found == {"litert": None, "onnxruntime": None, "tflite_runtime": "2.14.0"}
    assert [e["version"] for e in events if e["event"] == "session"] == ["2.14.0"]
    run_agent(predict("litert", path, tmp_path / "inputs.npy", tmp_path / "here.npy"))
    there, here = np.load(tmp_path / "there.npy"), np.load(tmp_path / "here.npy")
    by_hand = np.clip(inputs @ weight.T / 64, -128 / 2, 127 / 2)
    assert there.shape == (20, 10) and (np.abs(by_hand) < 60).mean() > 0.5
    np.testing.assert_allclose(there, here, rtol=0, atol=1 / 2)
    np.testing.assert_allclose(there, by_hand, rtol=0, atol=1 / 2)


def test_bench_takes_the_runtime_that_is_there(older, data_root):
    path = data_root / "models/mlperf_tiny/ad01_int8.tflite"
    with Board("older", older) as board:
        found = bench(path, protocol=SHORT, board=board).as_dict()
    assert (found["runtime"], found["runtime_version"]) == ("tflite_runtime", "2.14.0")
    assert found["num_runs"] >= 20 and found["median_ms"] > 0 and found["notes"] == []
    assert found["operators"] == {"FULLY_CONNECTED int8": 10}


def test_another_runtime_than_the_target_s_is_said_and_measures_no_target(older, data_root):
    path = data_root / "models/mlperf_tiny/ad01_fp32.tflite"
    target = load_target("host")
    with Board("older", older) as board:
        assert board.kind(board.machine(), target) == "measured"  # but for its runtime
        found = bench(path, target, board=board).as_dict()
    assert (found["runtime"], found["kind"]) == ("tflite_runtime", "host")
    assert found["notes"] == [
        "target host names litert, which older does not have: it ran in tflite_runtime 2.14.0"
    ]


def test_a_format_that_nothing_there_runs(older, tmp_path):
    path = linear_onnx(tmp_path / "one.onnx", np.eye(2), [0, 0])
    with Board("older", older) as board, pytest.raises(MeasurementError) as caught:
        bench(path, protocol=SHORT, board=board)
    assert str(caught.value) == (
        "older: it has no runtime for onnx: not onnxruntime (pip install onnxruntime there)"
    )


def test_the_command_tells_which_ran(older, data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path / "devices.json"))
    known.add("older", older)
    file = str(data_root / "models/mlperf_tiny/ad01_fp32.tflite")
    command = ["bench", file, "--device", "older", "--target", "host"]
    said = CliRunner().invoke(cli.app, [*command, "--json"], catch_exceptions=False)
    assert json.loads(said.stdout)["runtime"] == "tflite_runtime"
    said = CliRunner().invoke(cli.app, command, catch_exceptions=False).output
    assert "it ran in tflite_runtime 2.14.0" in said
