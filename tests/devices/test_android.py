"""Android without Python. The phone is an emulated adbd, its getprop and benchmark_model scripts.

benchmark_model prints what it printed on real devices, recorded by others, each with where it stands.
Not tested for want of a phone: benchmark_model itself, Android's own shell, getprop and SELinux.
"""

import json
import os

import boards
import pytest
from model_files import linear_onnx
from typer.testing import CliRunner

from edgekd import cli
from edgekd.config import build, load_target
from edgekd.devices import android, known, machine
from edgekd.devices.board import Board
from edgekd.devices.known import Device
from edgekd.errors import MeasurementError, UsageError
from edgekd.measure.native import bench_natively

# A phone over `adb shell`, on its GPU, version of 2020: github.com/tensorflow/tensorflow/issues/43541
PHONE_GPU = """STARTING!
Log parameter values verbosely: [0]
Min num runs: [50]
Num threads: [4]
Min warmup runs: [1]
Graph: [/data/local/tmp/tflite/denoising_32bit.tflite]
Enable op profiling: [1]
#threads used for CPU inference: [4]
Use gpu: [1]
Loaded model /data/local/tmp/tflite/denoising_32bit.tflite
INFO: Initialized TensorFlow Lite runtime.
INFO: Created TensorFlow Lite delegate for GPU.
INFO: Initialized OpenCL-based API.
INFO: Created 1 GPU delegate kernels.
Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.
The input model file size (MB): 7.07479
Initialized session in 870.557ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=4 first=130565 curr=120829 min=117370 max=130565 avg=122373 std=4930

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=119212 curr=118055 min=113737 max=124776 avg=119375 std=1948

Inference timings in us: Init: 870557, First inference: 130565, Warmup (avg): 122373, Inference (avg): 119375
"""
# An AM62x board, XNNPACK in part: TI's Processor SDK guide, chapter "TensorFlow Lite (LiteRT)", of 2.20
BOARD_XNNPACK = """INFO: STARTING!
INFO: Use xnnpack: [1]
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: XNNPACK delegate created.
INFO: Explicitly applied XNNPACK delegate, and the model graph will be partially executed by the delegate w/ 1 delegate kernels.
INFO: The input model file size (MB): 67.3128
INFO: Initialized session in 614.333ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=1 curr=905463 p5=905463 median=905463 p95=905463
INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=900416 curr=898333 min=898007 max=906121 avg=899641 std=1549 p5=898333 median=899281 p95=904305
INFO: Inference timings in us: Init: 614333, First inference: 905463, Warmup (avg): 905463, Inference (avg): 899641
INFO: Memory footprint delta from the start of the tool (MB): init=146.363 overall=150.141
"""  # noqa: E501
# The same board on built-in kernels; its average has an exponent
BOARD_BUILTIN = """INFO: STARTING!
INFO: Use xnnpack: [0]
INFO: Initialized session in 5.579ms.
INFO: count=1 curr=1357602 p5=1357602 median=1357602 p95=1357602

INFO: count=50 first=1249964 curr=1240143 min=1238588 max=1252566 avg=1.24027e+06 std=2565 p5=1238753 median=1239807 p95=1247415

INFO: Inference timings in us: Init: 5579, First inference: 1357602, Warmup (avg): 1.3576e+06, Inference (avg): 1.24027e+06
INFO: Memory footprint delta from the start of the tool (MB): init=6.36328 overall=109.832
"""  # noqa: E501
# A Chromebook with --report_peak_memory_footprint=true: ChromiumOS, tast-tests, the notes of mlbenchmark
CHROMEBOOK = """INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
VERBOSE: Replacing 58 out of 58 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 1 partitions for the whole graph.
INFO: Initialized session in 3.337ms.
INFO: count=9 first=81913 curr=55502 min=55502 max=81913 avg=58984.7 std=8115
INFO: count=1061 first=56576 curr=56299 min=54669 max=60236 avg=56265.8 std=982
INFO: Inference timings in us: Init: 3337, First inference: 81913, Warmup (avg): 58984.7, Inference (avg): 56265.8
INFO: Overall peak memory footprint (MB) via periodic monitoring: 93.2383
"""  # noqa: E501
# A delegate that took nothing, while all went on: github.com/tensorflow/tensorflow/issues/56301, of NNAPI
NOT_TAKEN = PHONE_GPU.replace(
    "Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.",
    "Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate.",
)


def test_a_phone_s_gpu():
    assert android.parse(PHONE_GPU, "gpu") == android.NativeTimes(
        num_runs=50,
        init_ms=870.557,
        first_ms=130.565,
        mean_ms=119.375,
        min_ms=113.737,
        max_ms=124.776,
        std_ms=1.948,
        peak_memory_bytes=None,
        backend="gpu",
    )


@pytest.mark.parametrize(
    ("text", "delegate", "backend", "num_runs", "mean_ms", "peak"),
    [
        (PHONE_GPU, "gpu-fp32", "gpu-fp32", 50, 119.375, None),
        (BOARD_XNNPACK, "xnnpack", "xnnpack+builtin", 50, 899.641, None),
        (BOARD_BUILTIN, "cpu", "builtin", 50, 1240.27, None),
        (CHROMEBOOK, "cpu", "xnnpack", 1061, 56.2658, 97_767_444),  # 93.2383 x 1024 x 1024
        (
            CHROMEBOOK.replace("58 out of 58", "57 out of 58"),
            "cpu",
            "xnnpack+builtin",
            1061,
            56.2658,
            97_767_444,
        ),
        (PHONE_GPU.replace("GPU", "OTHER"), "cpu", "builtin", 50, 119.375, None),
    ],
)
def test_other_devices(text, delegate, backend, num_runs, mean_ms, peak):
    found = android.parse(text, delegate)
    assert (found.backend, found.num_runs, found.peak_memory_bytes) == (backend, num_runs, peak)
    assert found.mean_ms == pytest.approx(mean_ms, rel=1e-9)


@pytest.mark.parametrize(
    ("text", "delegate", "message"),
    [
        ("", "cpu", "benchmark_model told no times: it printed nothing"),
        (
            "\x1b[2JFailed to load model x.tflite\n",
            "cpu",
            r"told no times: \?\[2JFailed to load model x\.tflite",
        ),
        (PHONE_GPU.split("Inference timings")[0], "gpu", "benchmark_model told no times"),
        (NOT_TAKEN, "gpu", "does not say that the gpu delegate took the graph"),
        (PHONE_GPU.replace("completely", "partially"), "gpu", "took only a part of the graph to the GPU"),
        (PHONE_GPU.replace("completely", "partially"), "gpu-fp32", "took only a part of the graph"),
        (PHONE_GPU, "xnnpack", "does not say that the xnnpack delegate took the graph"),
        (PHONE_GPU.replace("(avg): 119375", "(avg): 119"), "gpu", "told times that are none"),
        (PHONE_GPU.replace("min=113737", "min=999999"), "gpu", "told times that are none"),
        (PHONE_GPU.replace("min=113737", "min=0"), "gpu", "told times that are none"),
        (PHONE_GPU.replace("count=50", "count=1"), "gpu", "told times that are none"),
        (PHONE_GPU.replace("Init: 870557", "Init: 1e+999"), "gpu", "told times that are none"),
        (PHONE_GPU.replace("avg=119375", "avg=1.1.9"), "gpu", "told times that are none"),
    ],
)
def test_what_is_none_of_its_answers(text, delegate, message):
    with pytest.raises(MeasurementError, match=message) as caught:
        android.parse(text, delegate)
    assert "\n" not in str(caught.value)


def test_the_command_there():
    options = {"num_threads": 4, "warmup_runs": 10, "num_runs": 200, "min_seconds": 1.0}
    words = android.command("/data/b m", "/data/g.tflite", delegate="gpu", **options)
    assert words == [
        "/data/b m",
        "--graph=/data/g.tflite",
        "--num_threads=4",
        "--warmup_runs=10",
        "--num_runs=200",
        "--min_secs=1",
        "--report_peak_memory_footprint=true",
        "--use_gpu=true",
    ]
    exact = android.command("/data/b m", "/data/g.tflite", delegate="gpu-fp32", cores=(4, 7, 4), **options)
    # Bits 4 and 7; TensorFlow's guide to the program has `taskset f0` for the cores 4 to 7.
    assert exact == ["taskset", "90", *words, "--gpu_precision_loss_allowed=false"]


def test_a_device_has_it_over_adb_only():
    with pytest.raises(UsageError, match="benchmark_model is for devices over ADB"):
        build(Device, {"via": "ssh://pi@pi", "benchmark_model": "/data/b"}, "device pi")
    with pytest.raises(UsageError, match="a path from the root"):
        build(Device, {"via": "adb://serial", "benchmark_model": "b"}, "device pi")


# What a phone's getprop and benchmark_model say, in scripts: these two are no Android.
GETPROP = """#!/bin/sh
case $1 in
ro.product.model) echo Pixel 4a;;
ro.build.version.release) echo 13;;
esac
"""
BENCHMARK = """#!/bin/sh
taskset -p $$ >/data/affinity
echo "$@" >>/data/asked
[ -s "${1#--graph=}" ] || { echo Failed to load model; exit 1; }
cat /data/said
"""
# In place of toybox's, with the words that it has. The affinity is the kernel's own.
TASKSET = """#!/usr/bin/python3.11
import os, sys
first, *rest = sys.argv[1:]
if first == "-p":
    mask = sum(1 << core for core in os.sched_getaffinity(int(rest[0])))
    print(f"pid {rest[0]}'s current affinity mask: {mask:x}")
else:
    os.sched_setaffinity(0, [core for core in range(1024) if int(first, 16) >> core & 1])
    os.execvp(rest[0], rest)
"""


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    if told := boards.obstacle():
        pytest.skip(f"no board here: {told}")
    folder = tmp_path_factory.mktemp("phone")
    root = boards.copy(folder)
    scripts = (
        ("usr/bin/getprop", GETPROP),
        ("usr/bin/taskset", TASKSET),
        ("data/benchmark_model", BENCHMARK),
    )
    for path, text in scripts:
        (root / path).unlink(missing_ok=True)  # a link to the file of all trees
        (root / path).write_text(text)
        (root / path).chmod(0o755)
    (root / "system/build.prop").write_text("ro.product.model=of another name\n")
    with boards.adbd(root, folder) as (port, bin_, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(bin_), prepend=os.pathsep)
        device = Device(via=f"adb://127.0.0.1:{port}", emulated=True, benchmark_model="/data/benchmark_model")
        yield root, device


def left_behind(root):
    return [path.name for path in (root / "data/local/tmp").glob("edgekd-*")]


def test_bench_by_the_phone_s_own_program(phone, data_root):
    root, device = phone
    (root / "data/said").write_text(BOARD_XNNPACK)
    (root / "data/asked").write_text("")
    path = data_root / "models/mlperf_tiny/ad01_int8.tflite"
    found = bench_natively(path, "phone", device, load_target("android-cpu")).as_dict()
    asked = (root / "data/asked").read_text().split()
    assert asked[0].startswith("--graph=/data/local/tmp/edgekd-") and asked[-1] == "--use_xnnpack=true"
    assert (found["kind"], found["runtime"], found["backend"]) == (
        "emulated",
        "benchmark_model",
        "xnnpack+builtin",
    )
    assert (found["mean_ms"], found["num_runs"], found["size_bytes"]) == (899.641, 50, path.stat().st_size)
    assert found["notes"] == [
        "average of 50 runs, by benchmark_model on random inputs: no percentiles, no outputs; "
        "nothing is judged by it",
        "target android-cpu names litert: it ran in benchmark_model",
    ]
    assert not {"median_ms", "p90_ms", "p99_ms"} & set(found)
    assert (found["host"]["board"], found["host"]["os"]) == ("Android Pixel 4a", "Android 13")
    assert found["host"]["isa"] == "aarch64" and "asimddp" in found["host"]["all_features"]
    assert found["host"]["cores"] == 2 and left_behind(root) == []


def test_where_the_phone_is_not_the_target_s(phone, data_root):
    root, device = phone
    (root / "data/said").write_text(BOARD_XNNPACK)
    path = data_root / "models/mlperf_tiny/ad01_int8.tflite"
    real = device.model_copy(update={"emulated": False})
    found = bench_natively(path, "phone", real, load_target("raspberry-pi-5"))
    assert found.kind == "host"
    assert found.notes[1] == (
        "phone is not what target raspberry-pi-5 stands for: "
        "its board is 'Android Pixel 4a', not 'Raspberry Pi 5'"
    )
    # Another runtime than the target's is no measurement of the target.
    assert bench_natively(path, "phone", real, load_target("android-cpu")).kind == "host"
    (root / "data/said").write_text(CHROMEBOOK)
    assert bench_natively(path, "phone", real).kind == "measured"


def target_of(delegate, cores=()):
    target = load_target("android-cpu")
    return target.model_copy(
        update={
            "runtime": target.runtime.model_copy(update={"delegate": delegate}),
            "protocol": target.protocol.model_copy(update={"cores": tuple(cores)}),
        }
    )


def test_delegates_of_the_phone_s_own_program(phone, data_root):
    root, device = phone
    path = data_root / "models/mlperf_tiny/ad01_int8.tflite"
    (root / "data/said").write_text(PHONE_GPU)
    (root / "data/asked").write_text("")
    assert bench_natively(path, "phone", device, target_of("gpu-fp32")).times.backend == "gpu-fp32"
    said = (root / "data/asked").read_text()
    assert said.endswith("--use_gpu=true --gpu_precision_loss_allowed=false\n")
    nowhere = device.model_copy(update={"via": "adb://of-no-phone"})
    with pytest.raises(UsageError, match="benchmark_model on phone has no delegate 'cuda'"):
        bench_natively(path, "phone", nowhere, target_of("cuda"))


def test_cores_on_the_phone(phone, data_root):
    root, device = phone
    path = data_root / "models/mlperf_tiny/ad01_int8.tflite"
    (root / "data/said").write_text(CHROMEBOOK)
    last = max(os.sched_getaffinity(0))
    bench_natively(path, "phone", device, target_of("cpu", [last]))
    assert (root / "data/affinity").read_text().endswith(f"affinity mask: {1 << last:x}\n")
    with pytest.raises(
        MeasurementError, match=rf"cores \[{last}, 900\] were asked for, the device says: pid"
    ):
        bench_natively(path, "phone", device, target_of("cpu", [last, 900]))
    assert left_behind(root) == []


def test_errors_of_the_phone_s_own_program(phone, data_root, tmp_path):
    root, device = phone
    (root / "data/said").write_text(PHONE_GPU)
    path = data_root / "models/mlperf_tiny/ad01_int8.tflite"
    with pytest.raises(MeasurementError, match="does not say that the xnnpack delegate took the graph"):
        bench_natively(path, "phone", device, load_target("android-cpu"))
    absent = device.model_copy(update={"benchmark_model": "/data/absent"})
    with pytest.raises(MeasurementError, match=r"/data/absent on the device: code 127: .*not found"):
        bench_natively(path, "phone", absent)
    with pytest.raises(UsageError, match="its format is onnx, benchmark_model on phone takes tflite"):
        bench_natively(linear_onnx(tmp_path / "m.onnx", [[1]], [0]), "phone", device)
    (root / "data/said").write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(MeasurementError, match="wrote more than 1,048,576 bytes"):
        bench_natively(path, "phone", device)
    assert left_behind(root) == []


def test_the_commands(phone, data_root, tmp_path, monkeypatch):
    root, device = phone
    (root / "data/said").write_text(CHROMEBOOK)
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path / "devices.json"))
    run = CliRunner()
    options = ["--via", device.via, "--emulated", "--benchmark-model", "/data/benchmark_model"]
    added = run.invoke(cli.app, ["devices", "add", "phone", *options], catch_exceptions=False)
    assert "Android Pixel 4a" in added.stdout
    assert known.device("phone") == device
    path = str(data_root / "models/mlperf_tiny/ad01_int8.tflite")
    command = ["bench", path, "--device", "phone", "--threads", "2"]
    found = json.loads(run.invoke(cli.app, [*command, "--json"], catch_exceptions=False).stdout)
    assert (found["num_runs"], found["num_threads"], found["peak_memory_bytes"]) == (1061, 2, 97_767_444)
    shown = run.invoke(cli.app, command, catch_exceptions=False).stdout
    assert "nothing is judged by it" in " ".join(shown.replace("│", " ").split()) and "56.27" in shown


def test_android_with_python_is_named_by_its_model(phone):
    """The agent of a board that has a Python, as Termux has: `measured` for targets of phones."""
    _, device = phone
    python = {"python": "python3.11", "packages": "/opt/site", "benchmark_model": None, "emulated": False}
    with Board("phone", device.model_copy(update=python)) as board:
        found = board.machine()
        assert (found["board"], found["cpu"]) == ("Android Pixel 4a", "Android Pixel 4a")
        assert board.kind(found, load_target("android-cpu")) == "measured"
        assert board.kind(found, load_target("raspberry-pi-5")) == "host"


def test_what_is_android(tmp_path, monkeypatch):
    monkeypatch.delenv("ANDROID_ROOT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.android(tmp_path) == ""
    # The file where getprop is not there; getprop where the file may not be read, as of apps.
    (tmp_path / "build.prop").write_text("ro.build.id=X\nro.product.model=Pixel 4a\n")
    assert machine.android(tmp_path) == "Android Pixel 4a"
    (tmp_path / "build.prop").unlink()
    (tmp_path / "getprop").write_text('#!/bin/sh\n[ "$1" = ro.product.model ] && echo Pixel 5\n')
    (tmp_path / "getprop").chmod(0o755)
    assert machine.android(tmp_path) == ""
    monkeypatch.setenv("ANDROID_ROOT", "/system")
    assert machine.android(tmp_path) == "Android Pixel 5"
    (tmp_path / "getprop").unlink()
    assert machine.android(tmp_path) == ""
