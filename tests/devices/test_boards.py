"""The agent on an Arm board, through a real sshd and a real adbd: its answers are those of this computer."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import boards
import numpy as np
import pytest
from boards import PYTHON
from model_files import linear_onnx
from runs import ROOT
from typer.testing import CliRunner

from edgekd import cli
from edgekd.config import load_target
from edgekd.devices import board as board_module
from edgekd.devices import ssh
from edgekd.devices.board import Board
from edgekd.devices.known import Device
from edgekd.devices.local import run_agent
from edgekd.errors import MeasurementError


def left_behind(root, device):
    folder = "data/local/tmp" if device.scheme == "adb" else "tmp"
    return [path.name for path in (root / folder).glob("edgekd-*")]


def predict(path, inputs, tmp_path, name="scores.npy"):
    np.save(tmp_path / "inputs.npy", inputs)
    runtime = "litert" if path.suffix == ".tflite" else "onnxruntime"
    return {
        "mode": "predict",
        "model": {
            "id": path.stem,
            "path": str(path),
            "runtime": runtime,
            "delegate": "cpu",
            "num_threads": 1,
        },
        "inputs": str(tmp_path / "inputs.npy"),
        "outputs": str(tmp_path / name),
        "batch_size": 8,
    }


def test_a_board_tells_what_it_is(device, root):
    with Board("arm", device) as board:
        found = board.machine()
        assert board.kind(found, load_target("raspberry-pi-5")) == "emulated"
    assert (found["isa"], found["cores"]) == ("aarch64", 2)
    assert found["cpu"] == "aarch64 implementer 0x41 part 0xd0b"
    assert "asimddp" in found["all_features"] and found["runtimes"]["onnxruntime"]
    assert found["runtimes"]["tflite_runtime"] is None
    assert left_behind(root, device) == []


def test_scores_of_an_int8_file_are_those_of_this_computer(device, root, data_root, tmp_path):
    path = data_root / "models/mlperf_tiny/pretrainedResnet_quant.tflite"
    inputs = np.random.default_rng(0).standard_normal((20, 32, 32, 3)).astype(np.float32)
    with Board("arm", device) as board:
        events = board.run(predict(path, inputs, tmp_path))
    assert [e["backend"] for e in events if e["event"] == "session"] == ["xnnpack+builtin"]
    run_agent(predict(path, inputs, tmp_path, "here.npy"))
    there, here = np.load(tmp_path / "scores.npy"), np.load(tmp_path / "here.npy")
    assert there.shape == (20, 10) and np.ptp(here) > 0.5
    np.testing.assert_array_equal(there, here)
    assert left_behind(root, device) == [] and boards.processes_of(root) == []


def test_a_file_by_hand_and_an_error_in_the_agents_words(device, tmp_path):
    path = linear_onnx(tmp_path / "one.onnx", [[1, -2], [0.5, 3]], [10, 20])
    with Board("arm", device) as board:
        board.run(predict(path, np.array([[1, 2]], np.float32), tmp_path))
        assert np.load(tmp_path / "scores.npy").tolist() == [[1 + 1 + 10, -2 + 6 + 20]]
        with pytest.raises(MeasurementError, match="takes samples of shape"):
            board.run(predict(path, np.ones((1, 3), np.float32), tmp_path))
        # After an error the board is asked on.
        board.run(predict(path, np.array([[0, 0]], np.float32), tmp_path))
    assert np.load(tmp_path / "scores.npy").tolist() == [[10, 20]]


def test_what_takes_too_long_is_ended_there_too(device, root, tmp_path):
    path = linear_onnx(tmp_path / "one.onnx", [[1, -2], [0.5, 3]], [10, 20])
    job = predict(path, np.ones((1, 2), np.float32), tmp_path)
    endless = {"mode": "latency", "models": [job["model"]], "seed": 0}
    endless |= {"warmup_runs": 1, "min_runs": 10**9, "min_seconds": 0.0}
    with Board("arm", device) as board:
        with pytest.raises(MeasurementError, match="not finished within 6 s"):
            board.run(endless, time_limit_s=6)
        gone_within(root, 10)
        # And the board is asked on.
        board.run(job)
    assert np.load(tmp_path / "scores.npy").tolist() == [[11.5, 21.0]]
    assert left_behind(root, device) == []


def gone_within(root, seconds):
    end = time.monotonic() + seconds
    while boards.processes_of(root):
        assert time.monotonic() < end, "the agent lives on"
        time.sleep(0.2)


def test_a_key_of_another_host_is_refused(over_ssh, tmp_path):
    known = tmp_path / "known"
    kept = Path(over_ssh.known_hosts).read_text()
    other = [*kept.split()[:-1], "AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43]
    for text in ("", " ".join(other) + "\n"):
        known.write_text(text)
        with pytest.raises(MeasurementError, match="its host key is not known, or is another than it was"):
            Board("arm", over_ssh.model_copy(update={"known_hosts": str(known)})).__enter__()


def test_a_key_that_changed_is_not_taken_for_a_new_one(over_ssh, tmp_path):
    kept = Path(over_ssh.known_hosts).read_text()
    other = " ".join([*kept.split()[:2], "AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43]) + "\n"
    known = tmp_path / "known"
    device = over_ssh.model_copy(update={"known_hosts": str(known)})
    known.write_text("elsewhere ssh-ed25519 AAAA\n" + other)
    with pytest.raises(MeasurementError, match="another host key is known of it; it shows SHA256:"):
        ssh.accept(device)
    assert known.read_text().endswith(other)
    known.write_text("elsewhere ssh-ed25519 AAAA\n")
    assert ssh.accept(device) == ssh.accept(device)
    assert known.read_text() == "elsewhere ssh-ed25519 AAAA\n" + kept


def test_no_file_of_settings_lets_another_host_in(over_ssh, tmp_path, monkeypatch):
    """The user's own ~/.ssh/config would have it so."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Host *\n  UserKnownHostsFile none\n  StrictHostKeyChecking no\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MeasurementError, match="its host key is not known"):
        Board("arm", over_ssh.model_copy(update={"known_hosts": None})).__enter__()


def test_an_adb_link_that_is_cut_in_a_job_is_opened_again(root, over_adb, tmp_path, monkeypatch):
    path = linear_onnx(tmp_path / "one.onnx", [[1, -2], [0.5, 3]], [10, 20])
    job = predict(path, np.ones((1, 2), np.float32), tmp_path)
    serial = over_adb.via.removeprefix("adb://")
    cut = []

    def disconnect():
        while not boards.processes_of(root):
            time.sleep(0.05)
        cut.append(subprocess.run(["adb", "disconnect", serial], check=True, capture_output=True))

    with Board("arm", over_adb) as board:
        thread = threading.Thread(target=disconnect)
        thread.start()
        board.run(job)
        thread.join()
    assert cut and np.load(tmp_path / "scores.npy").tolist() == [[11.5, 21.0]]
    assert left_behind(root, over_adb) == [] and board.left == ""


class Freezer:
    """A way to a port that can fall silent, its connections open, as when a cable is pulled."""

    def __init__(self, port):
        self.frozen, self._port, self._pairs = threading.Event(), port, []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            came, _ = self._server.accept()
            on = socket.create_connection(("127.0.0.1", self._port))
            first = not self._pairs
            self._pairs.append((came, on))
            for source, to in ((came, on), (on, came)):
                threading.Thread(target=self._pass, args=(source, to, first), daemon=True).start()

    def _pass(self, source, to, may_freeze):
        while block := source.recv(1 << 16):
            while may_freeze and self.frozen.is_set():
                time.sleep(0.1)
            to.sendall(block)


def test_an_agent_whose_link_is_frozen_has_ended_before_the_next_begins(root, tmp_path):
    path = linear_onnx(tmp_path / "one.onnx", [[1, -2], [0.5, 3]], [10, 20])
    job = predict(path, np.ones((1, 2), np.float32), tmp_path)
    long = {"mode": "latency", "models": [job["model"]], "seed": 0}
    long |= {"warmup_runs": 1, "min_runs": 1, "min_seconds": 6.0}
    (tmp_path / "ssh").mkdir()
    most = 0
    with boards.sshd(root, tmp_path / "ssh") as (port, key, _):
        freezer = Freezer(port)
        via = f"ssh://root@127.0.0.1:{freezer.port}"
        device = Device(via=via, identity=str(key), known_hosts=str(tmp_path / "k"), **PYTHON)
        (tmp_path / "k").write_text(
            f"[127.0.0.1]:{freezer.port} " + (tmp_path / "ssh/host.pub").read_text().rsplit(" ", 1)[0] + "\n"
        )
        over = threading.Event()

        def watch():
            nonlocal most
            while not over.wait(0.05):
                running = len(boards.processes_of(root))
                most = max(most, running)
                if running:
                    freezer.frozen.set()

        thread = threading.Thread(target=watch)
        thread.start()
        with Board("arm", device) as board:
            board.run(long)
            over.set()
            thread.join()
        assert freezer.frozen.is_set() and most == 1
        gone_within(root, 10)


def test_a_link_that_breaks_is_opened_again_and_done_jobs_stay_done(root, tmp_path, monkeypatch):
    """The sshd of the connection is killed in the middle of a job; its parent goes on."""
    monkeypatch.setattr(board_module, "_PAUSE_S", 0.5)
    path = linear_onnx(tmp_path / "one.onnx", [[1, -2], [0.5, 3]], [10, 20])
    inputs = np.random.default_rng(1).standard_normal((4, 2)).astype(np.float32)
    (tmp_path / "ssh").mkdir()
    with boards.sshd(root, tmp_path / "ssh") as (port, key, server):
        device = Device(
            via=f"ssh://root@127.0.0.1:{port}", identity=str(key), known_hosts=str(tmp_path / "k"), **PYTHON
        )
        ssh.accept(device)
        began = []

        def cut():
            while not boards.processes_of(root):
                time.sleep(0.05)
            began.append(True)
            for pid in children(server.pid):
                boards.end(pid)

        with Board("arm", device) as board:
            thread = threading.Thread(target=cut)
            thread.start()
            board.run(predict(path, inputs, tmp_path))
            thread.join()
        assert began
        np.testing.assert_allclose(np.load(tmp_path / "scores.npy")[:, 0], inputs @ [1, 0.5] + 10, rtol=1e-6)
        gone_within(root, 10)
        assert left_behind(root, device) == []
        # The whole server gone: an error that says so, after three tries.
        with Board("arm", device) as board:
            board.run(predict(path, inputs, tmp_path))
            for pid in (*children(server.pid), server.pid):
                boards.end(pid)
            with pytest.raises(MeasurementError, match="on arm: the link broke 3 times"):
                board.run(predict(path, inputs, tmp_path))


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_commands(over_ssh, data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path / "devices.json"))
    run = CliRunner()
    options = ["--via", over_ssh.via, "--python", "python3.11", "--packages", "/opt/site", "--emulated"]
    options += ["--identity", over_ssh.identity, "--known-hosts", over_ssh.known_hosts]
    added = run.invoke(cli.app, ["devices", "add", "arm", *options])
    assert added.exit_code == 0 and "aarch64" in added.stdout, added.output
    assert added.stdout.count("ran a model") == 2
    assert "arm" in run.invoke(cli.app, ["devices", "list"]).stdout
    found = run.invoke(cli.app, ["devices", "check", "arm", "--json"])
    told = json.loads(found.stdout)
    assert (told["isa"], told["trouble"]) == ("aarch64", {"litert": "", "onnxruntime": ""})
    model = str(data_root / "models/mlperf_tiny/ad01_int8.tflite")
    found = run.invoke(cli.app, ["bench", model, "--device", "arm", "--json"], catch_exceptions=False)
    bench = json.loads(found.stdout)
    assert (bench["kind"], bench["device"], bench["host"]["isa"]) == ("emulated", "arm", "aarch64")
    assert bench["num_processes"] == 3 and bench["median_ms"] > 0 and bench["peak_memory_bytes"] > 10**7
    assert run.invoke(cli.app, ["devices", "remove", "arm"]).exit_code == 0
    assert "arm" not in run.invoke(cli.app, ["devices", "list"]).stdout


def test_an_interrupted_bench_leaves_nothing_behind(root, over_ssh, data_root, tmp_path):
    """Ctrl-C while the board computes: no traceback, no process and no file there."""
    before = set(left_behind(root, over_ssh))  # of tests that lose a board for good
    devices = tmp_path / "devices.json"
    devices.write_text(json.dumps({"arm": over_ssh.model_dump(exclude_defaults=True)}))
    model = str(data_root / "models/mlperf_tiny/pretrainedResnet_quant.tflite")
    # Tests that were started in the background ignore SIGINT, and so would what they start.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "edgekd"]
    command += ["bench", model, "--device", "arm", "--sustained", "10m"]
    environment = {**os.environ, "EDGEKD_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
    bench = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while len(boards.processes_of(root)) == 0:
        assert time.monotonic() < end and bench.poll() is None
        time.sleep(0.2)
    time.sleep(2)
    bench.send_signal(signal.SIGINT)
    _, said = bench.communicate(timeout=60)
    assert bench.returncode == 130, said
    assert "Traceback" not in said and "never retrieved" not in said
    gone_within(root, 10)
    assert set(left_behind(root, over_ssh)) <= before, said
