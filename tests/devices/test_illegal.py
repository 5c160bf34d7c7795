"""A processor that lacks what its cpuinfo, or a target, claims of it: said in words, and before it dies."""

import boards
import pytest

from edgekd.config import load_target
from edgekd.devices import ssh
from edgekd.devices.board import Board
from edgekd.devices.known import Device
from edgekd.devices.machine import denied, features
from edgekd.errors import MeasurementError
from edgekd.measure.bench import bench
from edgekd.measurements import Protocol
from edgekd.progress import Display

SHORT = Protocol(warmup_runs=1, min_runs=5, min_seconds=0.0, num_processes=1, num_threads=1)


class Lines(Display):
    """What was said, in order."""

    def __init__(self):
        from rich.console import Console

        super().__init__(Console(quiet=True))
        self.lines = []

    def line(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def a53(tmp_path_factory):
    """The tree of a Cortex-A76, on a Cortex-A53, which has no dot product."""
    if told := boards.obstacle():
        pytest.skip(f"no board here: {told}")
    folder = tmp_path_factory.mktemp("a53")
    root = boards.copy(folder)
    with boards.sshd(root, folder) as (port, key, _):
        device = Device(
            via=f"ssh://root@127.0.0.1:{port}",
            identity=str(key),
            known_hosts=str(folder / "known"),
            python="python3.11",
            packages="/opt/site",
            environment={"QEMU_CPU": "cortex-a53"},
            emulated=True,
        )
        ssh.accept(device)
        yield device


def test_an_illegal_instruction_is_said_in_words(a53, data_root):
    path = data_root / "models/mlperf_tiny/ad01_int8.tflite"
    with Board("pi", a53) as board:
        with pytest.raises(MeasurementError) as caught:
            bench(path, board=board, protocol=SHORT)
        # And the board is asked on.
        assert board.machine()["denied_features"] == ["asimddp", "asimdhp", "asimdrdm"]
    said = str(caught.value)
    assert said.startswith(
        "latency of ad01_int8.tflite: the process was ended by SIGILL, an illegal instruct"
    )
    assert "uses instructions that this processor does not have" in said
    assert "its /proc/cpuinfo claims asimddp, asimdhp, asimdrdm, its kernel denies that" in said


def test_what_a_target_claims_and_the_board_lacks_is_said_before_it_runs(a53, data_root):
    path = data_root / "models/mlperf_tiny/ad01_int8.tflite"
    target, display = load_target("raspberry-pi-5"), Lines()
    with Board("pi", a53) as board, pytest.raises(MeasurementError) as caught:
        bench(path, target, board=board, display=display)
    assert display.lines == [
        "pi is not what target raspberry-pi-5 stands for: its processor lacks asimddp, asimdhp; "
        "it names no board, not 'Raspberry Pi 5'"
    ]
    assert "processor.features of target raspberry-pi-5 name asimddp, asimdhp, it lacks them" in str(
        caught.value
    )


def test_what_the_processor_has_runs(a53, data_root):
    """The same board as what its cpuinfo says: nothing is denied, nothing dies."""
    path = data_root / "models/mlperf_tiny/ad01_int8.tflite"
    with Board("pi", a53.model_copy(update={"environment": {"QEMU_CPU": boards.CPU}})) as board:
        found = bench(path, load_target("raspberry-pi-5"), board=board)
    assert found.machine["denied_features"] == []
    assert found.notes == (
        "pi is not what target raspberry-pi-5 stands for: it names no board, not 'Raspberry Pi 5'",
    )


def test_what_the_kernel_denies(tmp_path, monkeypatch):
    """Words as Linux lays them: 16 is AT_HWCAP, its bit 20 the dot product; 26 AT_HWCAP2, its bit 13 i8mm."""
    (tmp_path / "self").mkdir()
    (tmp_path / "cpuinfo").write_text("Features : fp asimd asimddp i8mm\n")
    words = [(16, 0b10), (26, 1 << 13), (0, 0)]
    auxv = b"".join(value.to_bytes(8, "little") for pair in words for value in pair)
    (tmp_path / "self/auxv").write_bytes(auxv)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert denied(tmp_path) == {"asimddp"}
    assert features(tmp_path) == {"fp", "asimd", "i8mm"}
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert denied(tmp_path) == set()
