"""Instructions of an inference, counted by qemu's plugin in the arm64 tree of the tests."""

import json
import os
import shutil

import boards
import numpy as np
import pytest
from model_files import conv_onnx, linear_onnx, write_onnx
from typer.testing import CliRunner

from edgekd import cli
from edgekd.devices import instructions, known
from edgekd.devices.board import Board
from edgekd.devices.known import Device
from edgekd.devices.local import run_agent
from edgekd.errors import MeasurementError, UsageError

WIDTH = 256


@pytest.fixture(scope="module")
def arm():
    if told := boards.obstacle():
        pytest.skip(f"no board here: {told}")
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64, the one that takes plugins, is not installed (apt-get install qemu-user)")
    via = f"qemu://{boards.tree()}"
    return Device(via=via, cpu=boards.CPU, python="python3.11", packages="/opt/site")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "a cache, with a comma"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "edgekd" / "qemu"


def model(path, runtime="onnxruntime", num_threads=1):
    told = {"runtime": runtime, "delegate": "cpu", "num_threads": num_threads}
    return {"id": path.stem, "path": str(path), **told}


def layers(path, number):
    """`number` layers of WIDTH x WIDTH with ReLUs between, float32."""
    rng = np.random.default_rng(0)
    nodes, constants = [], {}
    for n in range(number):
        constants[f"w{n}"] = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)
        nodes.append(("MatMul", [f"x{n}", f"w{n}"], [f"y{n}"], {}))
        nodes.append(("Relu", [f"y{n}"], [f"x{n + 1}"], {}))
    return write_onnx(path, nodes, [("x0", [1, WIDTH])], [(f"x{number}", [1, WIDTH])], constants)


def test_two_counts_differ_by_less_than_a_thousandth(arm, data_root, tmp_path):
    path = data_root / "models/mlperf_tiny/ad01_int8.tflite"
    other = tmp_path / ("of_a_longer_name" * 8 + ".tflite")
    shutil.copy(path, other)
    first, second = (instructions.count(arm, model(each, "litert")) for each in (path, other))
    assert abs(first.per_inference - second.per_inference) <= 0.001 * first.per_inference
    # 264,192 multiply-adds with int8; an instruction of the dot product does 16 of them.
    assert 264_192 / 16 < first.per_inference < 264_192
    assert first.least <= first.per_inference <= first.most and first.num_runs == 21
    assert first.processor == "cortex-a76" and first.emulator.startswith("qemu-aarch64 ")


def test_a_network_twice_as_deep_takes_what_its_layers_take(arm, tmp_path):
    one = instructions.count(arm, model(layers(tmp_path / "one.onnx", 8))).per_inference
    two = instructions.count(arm, model(layers(tmp_path / "two.onnx", 16))).per_inference
    # Eight layers more: an instruction on 128 bits does four multiply-adds of float32.
    least = 8 * WIDTH * WIDTH / 4
    assert least < two - one < 3 * least
    assert 1.8 < two / one < 2.1


def test_int8_takes_fewer_than_float(arm, tmp_path):
    weight = np.random.default_rng(0).integers(-64, 64, (64, 32, 3, 3)) / 64

    def taken(name, zero):
        path = conv_onnx(tmp_path / name, weight, zero, size=24)
        return instructions.count(arm, model(path)).per_inference

    # The dot product does 16 multiply-adds an instruction, where float does four.
    # From -128 the ReLU is the range itself, which lets ONNX Runtime fuse the convolution.
    assert taken("int8.onnx", np.int8(-128)) < 0.6 * taken("float.onnx", None)


def test_the_device_is_a_board_like_any_other(arm, tmp_path):
    path = linear_onnx(tmp_path / "one.onnx", [[1, -2], [0.5, 3]], [10, 20])
    np.save(tmp_path / "inputs.npy", np.array([[1, 2]], np.float32))
    job = {"mode": "predict", "model": model(path), "batch_size": 8, "inputs": str(tmp_path / "inputs.npy")}
    places = [tmp_path / "there.npy", tmp_path / "here.npy"]
    (tmp_path / "jobs").mkdir()
    with Board("arm", arm.model_copy(update={"folder": str(tmp_path / "jobs")})) as board:
        found = board.machine()
        board.run({**job, "outputs": str(places[0])})
        assert board.kind(found, None) == "emulated"
    run_agent({**job, "outputs": str(places[1])})
    assert [np.load(place).tolist() for place in places] == [[[12.0, 24.0]]] * 2
    assert (found["isa"], found["cpu"]) == ("aarch64", "aarch64 implementer 0x41 part 0xd0b")
    assert list((tmp_path / "jobs").iterdir()) == []


def test_nothing_of_the_tree_s_is_left_on_this_computer(arm, tmp_path):
    """Folders that the tree lacks qemu makes here: once bytecode came into this computer's own library."""
    packages = tmp_path / "packages"  # here, and not in the tree
    packages.mkdir()
    (packages / "sitecustomize.py").write_text("import beside\n")
    (packages / "beside.py").write_text("")
    device = arm.model_copy(update={"packages": f"/opt/site:{packages}", "folder": str(tmp_path)})
    with Board("arm", device) as board:
        board.machine()
    instructions.count(device, model(linear_onnx(tmp_path / "one.onnx", np.eye(2), [0, 0])))
    assert sorted(path.name for path in packages.iterdir()) == ["beside.py", "sitecustomize.py"]


def test_the_command_and_its_gate(arm, data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path / "devices.json"))
    known.add("emulated-arm", arm)
    file = str(data_root / "models/mlperf_tiny/ad01_int8.tflite")

    def bench(*options):
        command = ["bench", file, "--device", "emulated-arm", "--count-instructions", *options]
        return CliRunner().invoke(cli.app, command, catch_exceptions=False)

    passed = bench("--json", "--max-instructions", "264192")  # one a multiply-add: see above
    assert passed.exit_code == 0 and "PASS: " in passed.stderr
    found = json.loads(passed.stdout)
    taken = found["instructions_per_inference"]
    assert found["kind"] == "emulated" and found["instructions_processor"] == "cortex-a76"
    assert not any("ms" in key.split("_") for key in found if key.startswith("instructions"))
    failed = bench("--max-instructions", str(taken // 2))
    assert failed.exit_code == 1 and "FAIL: " in failed.output and "an inference" in failed.output
    with pytest.raises(UsageError, match="--max-instructions judges what --count-instructions counts"):
        CliRunner().invoke(cli.app, ["bench", file, "--max-instructions", "1"], catch_exceptions=False)
    with pytest.raises(UsageError, match="on one thread, not 2"):
        bench("--threads", "2")
    with pytest.raises(UsageError, match="instructions are counted on a device"):
        CliRunner().invoke(cli.app, ["bench", file, "--count-instructions"], catch_exceptions=False)


def test_what_cannot_be_counted(arm, tmp_path):
    path = linear_onnx(tmp_path / "one.onnx", np.eye(2), [0, 0])
    with pytest.raises(UsageError, match="local: instructions are counted in an arm64 tree"):
        instructions.count(Device(via="local"), model(path))
    with pytest.raises(UsageError, match="on one thread, not 2"):
        instructions.count(arm, model(path, num_threads=2))
    path.write_bytes(b"\x08\x09")
    with pytest.raises(MeasurementError, match=r"instructions of one: model\.onnx: onnxruntime cannot load"):
        instructions.count(arm, model(path))


def test_a_qemu_without_plugins_and_no_compiler_are_said(arm, tmp_path, monkeypatch):
    path = linear_onnx(tmp_path / "one.onnx", np.eye(2), [0, 0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("CC", "a-compiler-that-nobody-has -O3")
    with pytest.raises(UsageError, match=r"needs a C compiler, once: no a-compiler.*apt-get install gcc"):
        instructions.count(arm, model(path))
    monkeypatch.setenv("CC", "gcc --no-such-option")
    with pytest.raises(UsageError, match=r"count_instructions\.c: gcc does not build it"):
        instructions.count(arm, model(path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/qemu-aarch64").symlink_to(shutil.which("qemu-aarch64-static"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    with pytest.raises(UsageError, match=r"takes no plugins, .*apt-get install qemu-user"):
        instructions.count(arm, model(path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"qemu-aarch64 is not installed \(apt-get install qemu-user\)"):
        instructions.count(arm, model(path))


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ({"via": "qemu:///nowhere/at/all", "cpu": "cortex-a76"}, "/nowhere/at/all: no such folder"),
        ({"via": "qemu://relative/tree", "cpu": "cortex-a76"}, "with the folder's whole path"),
        ({"via": "qemu:///", "cpu": "-plugin evil"}, "is no processor of qemu's"),
        ({"via": "qemu:///"}, "cpu and qemu:/// go together"),
        ({"via": "local", "cpu": "cortex-a76"}, "cpu and qemu:/// go together"),
    ],
)
def test_trees_that_are_none(device, message):
    from edgekd.config import build

    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed (apt-get install qemu-user)")
    with pytest.raises(UsageError, match=message):
        Board("arm", build(Device, device, "device arm")).__enter__()


def test_a_tree_without_a_cpuinfo_of_its_own_is_refused(arm, tmp_path):
    root = tmp_path / "tree"
    (root / "proc").mkdir(parents=True)
    device = arm.model_copy(update={"via": f"qemu://{root}"})
    with pytest.raises(UsageError, match="tells of no Arm processor"):
        Board("arm", device).__enter__()
    (root / "proc/cpuinfo").write_text("model name : Some Processor\n")
    with pytest.raises(UsageError, match="tells of no Arm processor"):
        Board("arm", device).__enter__()
    (root / "proc/cpuinfo").write_text("CPU part : 0xd0b\n")
    with pytest.raises(UsageError, match=r"no .*/usr/bin/python3\.11 or .* in it"):
        Board("arm", device).__enter__()
