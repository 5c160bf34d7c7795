import json
import sys

import numpy as np
import pytest
from model_files import MLPERF, linear_onnx, linear_tflite, needs_mlperf, write_onnx
from nets import Tracking

from edgekd.cli import main
from edgekd.config import EmissionConfig, Processor, ProtocolConfig, RuntimeConfig, Target
from edgekd.errors import MeasurementError, UsageError
from edgekd.measure.bench import bench, sniff
from edgekd.measurements import Protocol

SHORT = Protocol(warmup_runs=1, min_runs=10, min_seconds=0.02, num_processes=2, num_threads=1)


def target(**processor):
    return Target(
        name="desk",
        description="",
        processor=Processor(**processor),
        runtime=RuntimeConfig(name="litert", delegate="xnnpack", num_threads=2),
        artifact=EmissionConfig(format="tflite", scheme="fp32", layout="NHWC"),
        protocol=ProtocolConfig(warmup_runs=1, num_processes=2),
    )


def test_onnx_file(tmp_path):
    file = linear_onnx(tmp_path / "m.onnx", np.eye(3), np.zeros(3))
    display = Tracking()
    found = bench(file, protocol=SHORT, display=display).as_dict()
    assert [what for what, _ in display.tracked] == ["latency", "memory"]
    assert found["format"] == "onnx" and found["size_bytes"] == file.stat().st_size
    assert (found["runtime"], found["backend"]) == ("onnxruntime", "CPUExecutionProvider")
    assert (found["int8_ops"], found["float_ops"]) == (0, 1)
    assert (found["kind"], found["num_threads"], found["num_processes"]) == ("host", 1, 2)
    assert 0 < found["median_ms"] <= found["p90_ms"]
    json.dumps(found)


@needs_mlperf
def test_public_int8_file_on_its_target():
    found = bench(MLPERF / "pretrainedResnet_quant.tflite", target(isa="any")).as_dict()
    assert found["size_bytes"] == 98496
    assert (found["target"], found["kind"], found["num_threads"]) == ("desk", "measured", 2)
    assert found["backend"] == "xnnpack+builtin"
    assert found["operators"]["CONV_2D int8"] == 9
    assert found["int8_ops"] == 15


@needs_mlperf
@pytest.mark.parametrize(
    ("name", "size_bytes", "int8_ops"),
    [("pretrainedResnet_quant.tflite", 98_496, 15), ("vww_96_int8.tflite", 333_288, 30)],
)
def test_the_command_on_files_that_were_not_made_here(name, size_bytes, int8_ops, monkeypatch, capsys):
    def said(*options):
        monkeypatch.setattr(sys, "argv", ["edgekd", "bench", str(MLPERF / name), *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    found = json.loads(said("--json"))
    assert (found["size_bytes"], found["int8_ops"], found["float_ops"]) == (size_bytes, int8_ops, 0)
    assert 0 < found["median_ms"] <= found["p90_ms"] and found["num_runs"] >= 1000
    table = said("--threads", "2")
    assert str(size_bytes) in table and "num_threads" in table and "median_ms" in table
    taken, total, parts = found["operators_delegated"], found["operators_total"], found["partitions"]
    # XNNPACK takes all that computes but the pool and the softmax.
    assert taken == total - 2 and total == sum(found["operators"].values()) and found["gpu"] is None
    assert f"{taken} of {total} operators in {parts} parts" in table


def test_threads_can_be_asked_for_and_a_stand_in_is_host(tmp_path):
    file = linear_tflite(tmp_path / "m.tflite", np.eye(3))
    there = target(isa="any", board="a board that nobody makes")
    found = bench(file, there, num_threads=1)
    assert found.measurement.protocol.num_threads == 1
    assert found.measurement.kind == "host"


def test_format_is_known_by_content_whatever_the_name(tmp_path):
    swapped = linear_tflite(tmp_path / "model.onnx", np.eye(3))
    assert sniff(swapped) == "tflite"
    assert bench(swapped, protocol=SHORT).measurement.runtime == "litert"
    assert sniff(linear_onnx(tmp_path / "model.tflite", np.eye(3), np.zeros(3))) == "onnx"


def test_several_inputs_of_several_types(tmp_path):
    onnx = pytest.importorskip("onnx")
    file = write_onnx(
        tmp_path / "t.onnx",
        [("Gather", ["table", "ids"], ["rows"], {}), ("Add", ["rows", "x"], ["y"], {})],
        [("ids", ["N", 4], onnx.TensorProto.INT64), ("x", ["N", 4, 5])],
        [("y", ["N", 4, 5])],
        {"table": np.ones((2, 5), np.float32)},
    )
    assert bench(file, protocol=SHORT).inventory.float_ops == 1


def test_target_of_another_format_is_a_usage_error(tmp_path):
    file = linear_onnx(tmp_path / "m.onnx", np.eye(3), np.zeros(3))
    with pytest.raises(UsageError, match=r"m\.onnx: its format is onnx, target desk takes tflite"):
        bench(file, target(isa="any"))


def test_missing_file_and_folder_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.onnx: no such file"):
        bench(tmp_path / "absent.onnx")
    with pytest.raises(UsageError, match="a folder, not a file"):
        bench(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"once upon a time", "neither a TFLite nor an ONNX file"),
        (b"\x08\x09", r"m\.bin: onnxruntime cannot load it"),
        (b"\x1c\0\0\0TFL3", r"m\.bin: litert cannot load it"),
        (b"\x1c\0\0\0TFL3" + bytes(range(256)) * 8, r"m\.bin: litert cannot load it"),
    ],
)
def test_what_is_no_model_is_one_line(tmp_path, content, message):
    file = tmp_path / "m.bin"
    file.write_bytes(content)
    with pytest.raises(MeasurementError, match=message) as caught:
        bench(file, protocol=SHORT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sustained", "20s", "--max-latency-ms", "1"], "nothing else is judged"),
        (["--sustained", "20s", "--strict"], "nothing else is judged"),
        (["--sustained", "20"], "no span of time"),
        (["--sustained", "5s"], "too short to see a device slow down"),
        (["--output", "x.html"], "--output is the page of --sustained"),
        (["--sustained", "20s", "--output", "."], "a folder, not a file"),
        (["--max-latency-ms", "0"], "no positive number"),
        (["--max-latency-ms", "nan"], "no positive number"),
        (["--max-instructions", "5"], "give both"),
    ],
)
def test_options_that_do_not_go_together_are_told_at_once(tmp_path, capsys, monkeypatch, options, words):
    path = linear_onnx(tmp_path / "m.onnx", [[1.0]], [0.0])
    monkeypatch.setattr(sys, "argv", ["edgekd", "bench", str(path), *options])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code in (2, 4)
    assert words in capsys.readouterr().err
