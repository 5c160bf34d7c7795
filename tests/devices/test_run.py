"""Whole runs whose files are judged on an Arm board: outputs through a real sshd and a real adbd."""

import numpy as np
import pytest
from runs import TINY, Commands
from sklearn.datasets import load_digits

from edgekd.devices import known
from edgekd.devices.board import Board

pytestmark = pytest.mark.timeout(500)  # qemu beside other tests is slow
SSH, ADB = "raspberry-pi-5", "arm64-onnx"


@pytest.fixture(scope="module")
def named(over_ssh, over_adb, tmp_path_factory):
    """Both ways to the board, as devices that a user has added."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKD_DEVICES", str(tmp_path_factory.mktemp("named") / "devices.json"))
        known.add("by-ssh", over_ssh)
        known.add("by-adb", over_adb)
        yield


@pytest.fixture(scope="module")
def digits(named, tmp_path_factory):
    """The smallest chain on digits for two targets, each on the board: qemu is slow."""
    folder = tmp_path_factory.mktemp("digits")
    commands = Commands(folder, folder / "store")
    options = ["--targets", f"{SSH},{ADB}", "--device", f"{SSH}=by-ssh", "--device", f"{ADB}=by-adb"]
    recipe = commands.write(TINY.replace('required_targets = ["x86-onnx"]', f'required_targets = ["{SSH}"]'))
    done = commands("run", recipe, *options, "--workdir", "run", limit_s=400)
    return commands, done


def test_files_are_judged_by_what_the_board_computed(digits):
    commands, done = digits
    report = commands.report("run")
    assert done.returncode == 3, done.stdout + done.stderr  # latency on an emulator decides nothing
    files = {a["target"]: a for a in report["artifacts"] if a["role"] == "target"}
    assert (files[SSH]["format"], files[ADB]["format"]) == ("tflite", "onnx")
    for target, device in ((SSH, "by-ssh"), (ADB, "by-adb")):
        outputs = files[target]["outputs_from"]
        assert outputs["device"] == device
        assert outputs["parity"]["num_samples"] == report["data"]["splits"]["test"]["n"] > 50
        # Bit for bit on a Cortex-A76: see docs/decisions/014.
        assert outputs["parity"]["max_abs"] == 0 and outputs["parity"]["argmax_agreement"] == 1
        assert report["devices"][device]["isa"] == "aarch64" != report["host"]["isa"]
        timed = [m for m in report["measurements"] if m["target"] == target]
        assert {(m["kind"], m["device"]) for m in timed} == {("emulated", device)} and len(timed) == 3
        assert files[target]["speedup_over_teacher"] is None
    checks = {(c["name"], c["target"]): c for c in report["verdict"]["checks"] if c["slice"] is None}
    assert checks["device_parity", SSH]["status"] == checks["device_parity", ADB]["status"] == "PASS"
    assert "accuracy drop" in checks["accuracy", SSH]["detail"]
    assert checks["latency", SSH]["status"] == "INCONCLUSIVE"
    assert "kind emulated (an emulator: by-ssh)" in checks["latency", SSH]["detail"]


def test_the_stored_outputs_are_the_boards(digits):
    """Of the file in the run's folder, run once more on the board by hand, without the chain."""
    commands, _ = digits
    report = commands.report("run")
    file = next(a for a in report["artifacts"] if a["target"] == ADB)
    with np.load(commands.folder / "run" / file["predictions"]["path"]) as stored:
        scores = stored["scores"]
        ids = [int(name.rpartition("/")[2]) for name in stored["sample_ids"]]
    path = commands.folder / "run" / file["files"][0]["path"]
    spec = file["input_spec"]
    raw = load_digits().images[ids][:, None].astype(np.float32)
    inputs = (raw / spec["scale"] - np.float32(spec["mean"])) / np.float32(spec["std"])
    np.save(commands.folder / "x.npy", inputs[:40])
    job = {
        "mode": "predict",
        "model": {
            "id": "x",
            "path": str(path),
            "runtime": "onnxruntime",
            "delegate": "cpu",
            "num_threads": 1,
        },
        "inputs": str(commands.folder / "x.npy"),
        "outputs": str(commands.folder / "y.npy"),
        "batch_size": 8,
    }
    with Board("by-ssh", known.device("by-ssh")) as board:
        board.run(job)
    np.testing.assert_array_equal(np.load(commands.folder / "y.npy"), scores[:40])
