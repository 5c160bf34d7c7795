"""Files on a GPU: Mesa's lavapipe, which is a real Vulkan driver; on NVIDIA's, where there is one."""

import os
import sys

import gpus
import numpy as np
import pytest
from model_files import conv_by_hand, conv_onnx, linear_onnx, linear_tflite, write_onnx
from runs import TINY, Commands

from edgekd.cli import main
from edgekd.config import EmissionConfig, Processor, ProtocolConfig, RuntimeConfig, Target
from edgekd.devices import known
from edgekd.devices.board import Board
from edgekd.devices.known import Device
from edgekd.devices.local import run_agent
from edgekd.errors import MeasurementError, ParityError
from edgekd.measure.bench import bench
from edgekd.measure.parity import check_parity, output_range, parity
from edgekd.runtimes import _gpus

# What rounding to 11 and to 24 bits can change, as a share of the value.
HALF, SINGLE = 2.0**-11, 2.0**-24
LAVAPIPE = "llvmpipe"
ON_GPU = TINY.replace('["x86-onnx", "host"]', '["android-gpu"]').replace("x86-onnx", "android-gpu")


@pytest.fixture(scope="module")
def lavapipe():
    if told := gpus.obstacle():
        pytest.skip(f"no software GPU here: {told}")
    return gpus.environment()


def litert(environment):
    return Device(via="local", python=sys.executable, environment=environment)


def webgpu(environment):
    return Device(via="local", python=sys.executable, packages=str(gpus.webgpu()), environment=environment)


def predict(device, path, inputs, tmp_path, delegate):
    """(scores, session event); of this computer's processor where no device is given."""
    runtime = "litert" if path.suffix == ".tflite" else "onnxruntime"
    np.save(tmp_path / "inputs.npy", inputs)
    model = {"id": path.name, "path": str(path), "runtime": runtime, "delegate": delegate, "num_threads": 1}
    job = {
        "mode": "predict",
        "model": model,
        "inputs": str(tmp_path / "inputs.npy"),
        "batch_size": len(inputs),
    }
    job["outputs"] = str(tmp_path / "scores.npy")
    if device is None:
        events = run_agent(job)
    else:
        with Board("gpu", device) as board:
            events = board.run(job)
    return np.load(tmp_path / "scores.npy"), events[0]


def public(data_root, name, shape, low, high):
    """A public file, and real values as its inputs."""
    inputs = np.random.default_rng(0).uniform(low, high, (16, *shape)).astype(np.float32)
    return data_root / "models/mlperf_tiny" / name, inputs


FLOATS = {  # inputs, layers that round one after the other
    "ad01_fp32.tflite": ((640,), -5, 5, 10),
    "pretrainedResnet.tflite": ((32, 32, 3), 0, 255, 9),
}


@pytest.mark.parametrize("name", FLOATS)
def test_a_float_tflite_file_in_half_and_in_single_precision(lavapipe, data_root, tmp_path, name):
    *given, layers = FLOATS[name]
    path, inputs = public(data_root, name, *given)
    expected, here = predict(None, path, inputs, tmp_path, "xnnpack")
    # A softmax moves by half of what its logits move, which lie as far apart as the logarithms.
    span = np.ptp(np.log(expected)) / 2 if name == "pretrainedResnet.tflite" else np.ptp(expected)
    half, event = predict(litert(lavapipe), path, inputs, tmp_path, "gpu")
    assert event["backend"] == "gpu, WebGpu" and here["backend"] == "xnnpack"
    assert LAVAPIPE in event["gpu"] and event["software_gpu"] and here["gpu"] is None
    single, event = predict(litert(lavapipe), path, inputs, tmp_path, "gpu-fp32")
    assert event["backend"] == "gpu-fp32, WebGpu"
    taken = event["operators_delegated"], event["partitions"]
    assert taken == (event["operators_total"], 1) and event["operators_total"] == here["operators_total"]
    # A layer sums hundreds of products, each of which rounds; in half precision the GPU sums in more bits.
    limit = layers * 64 * SINGLE * span
    assert np.abs(single - expected).max() < limit
    assert limit < np.abs(half - expected).max() < layers * HALF * span


@pytest.mark.parametrize(
    ("name", "given"),
    [("ad01_int8.tflite", ((640,), -5, 5)), ("kws_ref_model.tflite", ((49, 10, 1), -100, 30))],
)
def test_an_int8_tflite_file_within_one_step(lavapipe, data_root, tmp_path, name, given):
    path, inputs = public(data_root, name, *given)
    expected, _ = predict(None, path, inputs, tmp_path, "xnnpack")
    found, event = predict(litert(lavapipe), path, inputs, tmp_path, "gpu-fp32")
    step = np.diff(np.unique(expected)).min()
    assert event["backend"] == "gpu-fp32, WebGpu" and len(np.unique(expected)) > 20
    assert np.abs(found - expected).max() <= 1.001 * step


def test_tiny_scales_are_lost_in_half_precision_and_parity_says_so(lavapipe, tmp_path):
    """The smallest number of float16 is 6e-8: activations in steps of 1e-9 keep 7 bits' worth at most."""
    rng = np.random.default_rng(0)
    weight, steps = rng.integers(-127, 128, (8, 16)), (1e-9, 1e-2, 1e-8)
    path = linear_tflite(tmp_path / "tiny.tflite", weight, kind="int8", steps=steps)
    inputs = rng.integers(-128, 128, (64, 16))
    # x @ w.T in whole numbers, then in steps of the output.
    whole = np.rint(inputs @ weight.T * (steps[0] * steps[1] / steps[2]))
    expected = np.clip(whole, -128, 127) * steps[2]
    scheme, span = "static_wi8_ai8", output_range(expected)
    real = (inputs * steps[0]).astype(np.float32)
    exact, _ = predict(litert(lavapipe), path, real, tmp_path, "gpu-fp32")
    found = parity(expected, {64: exact}, scheme)
    check_parity(found, scheme, span)
    assert found.mean_steps < 0.1
    lost, event = predict(litert(lavapipe), path, real, tmp_path, "gpu")
    assert event["backend"] == "gpu, WebGpu"
    with pytest.raises(ParityError, match=r"mean error .* output steps, limit 1"):
        check_parity(parity(expected, {64: lost}, scheme), scheme, span)


def test_what_a_gpu_computes_wrongly_does_not_pass(lavapipe, data_root, tmp_path):
    """LiteRT 2.3.0 says that the GPU took all of it; at its 1x1 convolutions of stride 2 it goes astray.

    A newer LiteRT may compute it rightly: then this test has nothing to show any more, and can go.
    """
    path, inputs = public(data_root, "pretrainedResnet_quant.tflite", (32, 32, 3), 0, 255)
    expected, _ = predict(None, path, inputs, tmp_path, "xnnpack")
    found, event = predict(litert(lavapipe), path, inputs, tmp_path, "gpu-fp32")
    assert event["operators_delegated"] == event["operators_total"]
    with pytest.raises(ParityError, match=r"mean error .* output steps, limit 1"):
        check_parity(
            parity(expected, {16: found}, "static_wi8_ai8"), "static_wi8_ai8", output_range(expected)
        )


def test_an_operator_that_litert_s_gpu_lacks_is_named(lavapipe, tmp_path):
    path = linear_tflite(tmp_path / "wide.tflite", np.eye(4), kind="int16")
    with pytest.raises(
        MeasurementError, match=r"wide.*'gpu'.*cannot run the whole graph: FULLY_CONNECTED: .*INT16"
    ):
        predict(litert(lavapipe), path, np.ones((1, 4), np.float32), tmp_path, "gpu")


def test_a_gpu_of_several_of_which_one_is_a_program():
    """With Mesa's drivers beside a real one a runtime takes one of them, and does not tell which."""
    real, other, program = (
        _gpus.Gpu("Intel", software=False),
        _gpus.Gpu("AMD", software=False),
        _gpus.Gpu("llvmpipe", software=True),
    )
    assert _gpus.one_of((real, program)) == ("Intel or llvmpipe", None)
    assert _gpus.one_of((program, program)) == ("llvmpipe", True)
    assert _gpus.one_of((real, other)) == ("Intel or AMD", False)
    assert _gpus.one_of((real,)) == real and _gpus.one_of(()) is None


@pytest.fixture
def image_weight():
    rng = np.random.default_rng(1)
    return rng.standard_normal((4, 2, 6, 6)).astype(np.float32), rng.standard_normal((8, 2, 3, 3)) / 8


def test_a_float_onnx_file(lavapipe, tmp_path, image_weight):
    images, weight = image_weight
    path = conv_onnx(tmp_path / "conv.onnx", weight)
    found, event = predict(webgpu(lavapipe), path, images, tmp_path, "gpu")
    assert event["backend"] == "WebGpuExecutionProvider" and event["version"].startswith("1.27")
    assert LAVAPIPE in event["gpu"] and event["software_gpu"]
    # Convolution with the ReLU in it, mean, flatten, and what changes the layout.
    assert 3 <= event["operators_delegated"] == event["operators_total"] <= 5 and event["partitions"] == 1
    expected = conv_by_hand(images.astype(np.float64), np.float32(weight).astype(np.float64))
    assert np.abs(found - expected).max() < 18 * SINGLE * np.abs(expected).max()


def test_a_half_precision_onnx_file(lavapipe, tmp_path):
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(2)
    inputs, weight = rng.standard_normal((4, 64)), rng.standard_normal((64, 8)).astype(np.float16)
    half = onnx.TensorProto.FLOAT16
    path = write_onnx(
        tmp_path / "half.onnx",
        [("MatMul", ["x", "w"], ["y"], {})],
        [("x", ["N", 64], half)],
        [("y", ["N", 8], half)],
        {"w": weight},
    )
    found, event = predict(webgpu(lavapipe), path, inputs.astype(np.float32), tmp_path, "gpu")
    assert event["backend"] == "WebGpuExecutionProvider"
    expected = inputs.astype(np.float16).astype(np.float64) @ weight.astype(np.float64)
    # 64 sums that are rounded to 11 bits each, at worst all the same way.
    assert SINGLE * 64 < np.abs(found - expected).max() < 64 * HALF * np.abs(expected).max()


def test_operators_that_onnxruntime_would_run_on_the_processor_are_named(lavapipe, tmp_path, image_weight):
    images, weight = image_weight
    path = conv_onnx(tmp_path / "q.onnx", weight, np.uint8(0))
    words = r"WebGpuExec.* takes \d+ of \d+ operators, in \d+ parts; it leaves \d x QuantizeLinear on CPU"
    with pytest.raises(MeasurementError, match=words):
        predict(webgpu(lavapipe), path, images, tmp_path, "gpu")


@pytest.mark.parametrize("missing", ["driver", "vulkan"])
@pytest.mark.parametrize(("make", "suffix"), [(litert, "tflite"), (webgpu, "onnx")])
def test_without_a_gpu_nothing_runs_on_the_processor_instead(lavapipe, tmp_path, make, suffix, missing):
    """onnxruntime-webgpu would: it falls back without a word, or with one that names the wrong cause."""
    environment = {**lavapipe, **gpus.NONE} if missing == "driver" else dict(gpus.NONE)
    write = linear_tflite if suffix == "tflite" else lambda path, weight: linear_onnx(path, weight, [0, 0])
    path = write(tmp_path / f"one.{suffix}", np.eye(2))
    with pytest.raises(MeasurementError, match=r"one\..*there is no usable GPU here.* no .*driver names one"):
        predict(make(environment), path, np.ones((1, 2), np.float32), tmp_path, "gpu")
    assert not (tmp_path / "scores.npy").exists()


def test_bench_for_a_phones_gpu_on_a_computer_without_one_says_so(tmp_path, monkeypatch, capsys):
    for name, value in gpus.NONE.items():
        monkeypatch.setenv(name, value)
    path = linear_tflite(tmp_path / "m.tflite", np.eye(2))
    monkeypatch.setattr(sys, "argv", ["edgekd", "bench", str(path), "--target", "android-gpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 4 and "median_ms" not in said.out
    assert "there is no usable GPU here" in said.err


def desk():
    return Target(
        name="desk",
        description="",
        processor=Processor(isa="any"),
        runtime=RuntimeConfig(name="litert", delegate="gpu-fp32"),
        artifact=EmissionConfig(format="tflite", scheme="fp32", layout="NHWC"),
        protocol=ProtocolConfig(warmup_runs=1, num_processes=1),
    )


def test_times_of_a_software_gpu_are_called_emulated(lavapipe, tmp_path):
    path = linear_tflite(tmp_path / "m.tflite", np.eye(2))
    with Board("gpu", litert(lavapipe)) as board:
        found = bench(path, desk(), board=board)
    told = found.as_dict()
    assert (told["kind"], told["backend"]) == ("emulated", "gpu-fp32, WebGpu")
    assert (told["operators_delegated"], told["operators_total"], told["partitions"]) == (1, 1, 1)
    assert LAVAPIPE in told["gpu"] and told["median_ms"] > 0
    assert told["notes"] == [f"{told['gpu']} is a program on the processor: these are no times of a GPU"]


def test_times_of_a_gpu_that_no_driver_tells_of_are_not_called_measured(lavapipe, tmp_path):
    path = linear_tflite(tmp_path / "m.tflite", np.eye(2))
    for gpu, words in ((None, "no driver names the GPU: it may"), ("A or B", "it ran on A or B: it may")):

        class Unsure(Board):
            """Lavapipe beside another driver, which this computer does not have."""

            def kind(self, machine, target):
                return "measured"

            def run(self, job, *, time_limit_s=600.0, gpu=gpu):
                found = super().run(job, time_limit_s=time_limit_s)
                return tuple({**e, "gpu": gpu, "software_gpu": None} for e in found)

        with Unsure("gpu", litert(lavapipe)) as board:
            told = bench(path, desk(), board=board).as_dict()
        assert told["kind"] == "host" and told["notes"][-1].startswith(words)


@pytest.fixture(scope="module")
def nvidia():
    """A device with NVIDIA's GPU; its onnxruntime-gpu is this Python's, or in the folder that is named."""
    if not _gpus.cuda():
        pytest.skip("no NVIDIA GPU here")
    folder = os.environ.get("EDGEKD_ONNXRUNTIME_GPU")
    return Device(via="local", python=sys.executable, packages=folder)


def test_cuda_in_single_precision(nvidia, tmp_path, image_weight):
    """Not run where this was written, nor in CI: no NVIDIA GPU. TF32 rounds 2 ** 13 times more coarsely."""
    images, weight = image_weight
    path = conv_onnx(tmp_path / "conv.onnx", weight)
    expected = conv_by_hand(images.astype(np.float64), np.float32(weight).astype(np.float64))
    for delegate in ("cuda", "gpu"):
        found, event = predict(nvidia, path, images, tmp_path, delegate)
        assert event["backend"] == "CUDAExecutionProvider" and not event["software_gpu"]
        assert event["gpu"] == _gpus.cuda()[0].name
        assert event["operators_delegated"] == event["operators_total"] >= 3
        assert np.abs(found - expected).max() < 18 * SINGLE * np.abs(expected).max()


def test_cuda_in_half_precision(nvidia, tmp_path):
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(2)
    inputs, weight = rng.standard_normal((4, 64)), rng.standard_normal((64, 8)).astype(np.float16)
    half = onnx.TensorProto.FLOAT16
    nodes = [("MatMul", ["x", "w"], ["y"], {})]
    ends = [("x", ["N", 64], half)], [("y", ["N", 8], half)]
    path = write_onnx(tmp_path / "half.onnx", nodes, *ends, {"w": weight})
    found, _ = predict(nvidia, path, inputs.astype(np.float32), tmp_path, "cuda")
    expected = inputs.astype(np.float16).astype(np.float64) @ weight.astype(np.float64)
    assert 0 < np.abs(found - expected).max() < 64 * HALF * np.abs(expected).max()


def test_a_run_on_a_computer_without_a_gpu_is_refused_before_anything_is_trained(tmp_path):
    commands = Commands(tmp_path, tmp_path / "store")
    recipe = commands.write(ON_GPU)
    done = commands("run", recipe, "--device", "android-gpu=local")
    assert done.returncode == 4, done.stderr
    assert "target android-gpu: litert with delegate 'gpu' does not work on device local" in done.stderr
    assert "probe.tflite: delegate 'gpu': there is no usable GPU here" in " ".join(done.stderr.split())
    assert not (tmp_path / "store/distill").exists()


def test_a_run_whose_file_is_judged_on_the_gpu(tmp_path, lavapipe, monkeypatch):
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path / "devices.json"))
    known.add("gpu", Device(via="local", python=sys.executable, environment=lavapipe))
    commands = Commands(tmp_path, tmp_path / "store")
    recipe = commands.write(ON_GPU)
    done = commands("run", recipe, "--device", "android-gpu=gpu")
    assert done.returncode == 0, done.stderr + done.stdout
    report = commands.report()
    file = next(a for a in report["artifacts"] if a["target"] == "android-gpu")
    assert file["outputs_from"]["backend"].startswith("gpu, ")
    assert 0 < file["outputs_from"]["parity"]["max_abs"]  # half precision is not what the processor computes
    timed = next(m for m in report["measurements"] if m["artifact_id"] == "android-gpu")
    assert timed["kind"] == "emulated" and LAVAPIPE in timed["gpu"]
    checks = {c["name"]: c["status"] for c in report["verdict"]["checks"] if c["slice"] is None}
    assert checks["device_parity"] == "PASS"
