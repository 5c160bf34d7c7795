"""What a board has done before the way to it broke is not done again."""

import hashlib
from pathlib import Path

import boards
import numpy as np
import pytest
from boards import PYTHON
from model_files import linear_onnx

from edgekd.devices import board as board_module
from edgekd.devices import ssh
from edgekd.devices.board import Board
from edgekd.devices.kept import KeptJobs
from edgekd.devices.known import Device
from edgekd.devices.local import run_agent
from edgekd.errors import MeasurementError
from edgekd.measure.accuracy import predict
from edgekd.types import Artifact, File, InputSpec, Split

TABLE = InputSpec("x", (2,), "NC", "float32", (-9, 9), 1.0, (0.0, 0.0), (1.0, 1.0))
WEIGHT, BIAS = np.array([[1, -2], [0.5, 3]]), np.array([10, 20])


class Counted:
    """A `RunJob` that counts, and does something after some of its jobs."""

    def __init__(self, run, after=None, then=lambda: None):
        self._run, self._after, self._then, self.done = run, after, then, 0

    def __call__(self, job, *, time_limit_s=600.0):
        found = self._run(job, time_limit_s=time_limit_s)
        self.done += 1
        if self.done == self._after:
            self._then()
        return found


def artifact(tmp_path):
    path = linear_onnx(tmp_path / "one.onnx", WEIGHT, BIAS)
    data = path.read_bytes()
    file = File(path, hashlib.sha256(data).hexdigest(), len(data))
    return Artifact("one", (file,), "onnx", "fp32", TABLE, ("a", "b"))


def split():
    raw = np.random.default_rng(0).standard_normal((20, 2)).astype(np.float32)
    return Split("test", np.array([str(i) for i in range(20)]), raw, np.zeros(20, np.int64))


def scores(tmp_path, run):
    found = predict(artifact(tmp_path), split(), "onnxruntime", 1, tmp_path / "w", run=run, most_samples=4)
    np.testing.assert_allclose(found.scores, split().inputs @ WEIGHT + BIAS, rtol=1e-5)
    return found.scores


def test_a_run_whose_board_was_lost_goes_on_where_it_was(root, tmp_path, monkeypatch):
    monkeypatch.setattr(board_module, "_PAUSE_S", 0.2)
    kept = tmp_path / "kept"
    kept.mkdir()
    done = []
    for folder, lost in (("first", True), ("second", False)):
        (tmp_path / folder).mkdir()
        with boards.sshd(root, tmp_path / folder) as (port, key, server):

            def lose(server=server):
                for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split():
                    boards.end(int(pid))
                boards.end(server.pid)

            via = f"ssh://root@127.0.0.1:{port}"
            device = Device(via=via, identity=str(key), known_hosts=str(tmp_path / "k"), **PYTHON)
            ssh.accept(device)
            with Board("arm", device) as board:
                counted = Counted(board.run, 2 if lost else None, lose)
                if lost:
                    with pytest.raises(MeasurementError, match="the link broke 3 times"):
                        scores(tmp_path, KeptJobs(counted, kept))
                else:
                    scores(tmp_path, KeptJobs(counted, kept))
            done.append(counted.done)
    assert done == [2, 3]  # five pieces of four samples


def test_equal_jobs_are_told_apart_and_other_files_are_other_jobs(tmp_path):
    """Three processes that time a file have one and the same job; each has an answer of its own."""
    kept = tmp_path / "kept"
    kept.mkdir()
    path = linear_onnx(tmp_path / "one.onnx", WEIGHT, BIAS)
    model = {"id": "one", "path": str(path), "runtime": "onnxruntime", "delegate": "cpu", "num_threads": 1}
    job = {"mode": "latency", "models": [model], "seed": 0, "warmup_runs": 1, "min_runs": 3, "min_seconds": 0}
    counted = Counted(run_agent)
    before = [KeptJobs(counted, kept)(job) for _ in range(1)]
    run = KeptJobs(counted, kept)
    after = [run(job), run(job)]
    assert counted.done == 2 and after[0] == before[0] != after[1]
    linear_onnx(path, WEIGHT + 1, BIAS)
    assert KeptJobs(counted, kept)(job) not in after and counted.done == 3


def changed(path):
    array = np.load(path)
    array[0, 0] += 1
    np.save(path, array)


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("npy", changed),
        ("npy", lambda path: path.write_bytes(b"")),  # its name was on the disk before its content
        ("npy", Path.unlink),
        ("json", lambda path: path.write_bytes(path.read_bytes()[:-5])),
        ("json", lambda path: path.write_bytes(b"\xff")),
        ("json", lambda path: path.write_text('["done"]')),
        ("json", lambda path: path.write_text('[{"event": "done"}]')),
    ],
)
def test_what_was_kept_and_is_damaged_is_done_anew(tmp_path, suffix, damage):
    kept = tmp_path / "kept"
    kept.mkdir()
    counted = Counted(run_agent)
    before = scores(tmp_path, KeptJobs(counted, kept))
    scores(tmp_path, KeptJobs(counted, kept))
    assert counted.done == 5
    damage(sorted(kept.glob(f"*.{suffix}"))[0])
    assert np.array_equal(scores(tmp_path, KeptJobs(counted, kept)), before) and counted.done == 6
    assert np.array_equal(scores(tmp_path, KeptJobs(counted, kept)), before) and counted.done == 6
    assert len(list(kept.iterdir())) == 10
