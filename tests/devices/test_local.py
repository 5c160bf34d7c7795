import json
import os
import platform
from pathlib import Path

import numpy as np
import psutil
import pytest
from model_files import linear_onnx

from edgekd.config import EmissionConfig, Processor, RuntimeConfig, Target
from edgekd.devices import local
from edgekd.devices.local import local_kind, run_agent
from edgekd.devices.machine import clocks, host_info
from edgekd.errors import MeasurementError

X86_CPUINFO = """processor\t: 0
model name\t: Some Processor @ 2.50GHz
flags\t\t: fpu sse2 avx2 fma avx512f avx512_vnni

processor\t: 1
model name\t: Some Processor @ 2.50GHz
flags\t\t: fpu sse2 avx2 fma avx512f avx512_vnni
"""
ARM_CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 asimdhp asimddp

processor\t: 1
Features\t: fp asimd evtstrm crc32
"""


@pytest.fixture
def proc(tmp_path):
    def make(cpuinfo, board=None):
        (tmp_path / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
        if board is not None:
            (tmp_path / "device-tree").mkdir()
            (tmp_path / "device-tree" / "model").write_bytes(board.encode() + b"\0")
        return tmp_path

    return make


def target(**processor):
    return Target(
        name="t",
        description="",
        processor=Processor(**processor),
        runtime=RuntimeConfig(name="litert", delegate="cpu"),
        artifact=EmissionConfig(format="tflite", scheme="fp32", layout="NHWC"),
    )


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "board", "processor", "kind"),
    [
        ("x86_64", X86_CPUINFO, None, {"isa": "any"}, "measured"),
        ("x86_64", X86_CPUINFO, None, {"isa": "x86_64"}, "measured"),
        ("x86_64", X86_CPUINFO, None, {"isa": "x86_64", "features": ("avx512_vnni", "fma")}, "measured"),
        ("x86_64", X86_CPUINFO, None, {"isa": "x86_64", "features": ("amx_int8",)}, "host"),
        ("x86_64", X86_CPUINFO, None, {"isa": "any", "features": ("amx_int8",)}, "host"),
        # avx512_vnni must not pass for vnni: names count whole
        ("x86_64", X86_CPUINFO, None, {"isa": "x86_64", "features": ("vnni",)}, "host"),
        ("x86_64", X86_CPUINFO, None, {"isa": "aarch64"}, "host"),
        ("aarch64", ARM_CPUINFO, None, {"isa": "aarch64", "features": ("asimd",)}, "measured"),
        # only one of the two cores has it
        ("aarch64", ARM_CPUINFO, None, {"isa": "aarch64", "features": ("asimddp",)}, "host"),
        ("aarch64", ARM_CPUINFO, "Raspberry Pi 5 Model B", {"isa": "aarch64", "board": "Pi 5"}, "measured"),
        ("aarch64", ARM_CPUINFO, "Raspberry Pi 4 Model B", {"isa": "aarch64", "board": "Pi 5"}, "host"),
        ("aarch64", ARM_CPUINFO, None, {"isa": "aarch64", "board": "Pi 5"}, "host"),
        ("x86_64", X86_CPUINFO, None, {"isa": "any", "board": "android"}, "host"),
    ],
)
def test_measured_only_where_this_computer_is_the_target(
    monkeypatch, proc, machine, cpuinfo, board, processor, kind
):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert local_kind(target(**processor), proc(cpuinfo, board)) == kind


def test_this_computer_is_of_its_own_isa_and_no_board():
    assert local_kind(target(isa="any")) == "measured"
    assert local_kind(target(isa="any", board="a board that nobody makes")) == "host"


def test_host_info_tells_the_hardware(proc):
    info = host_info(proc(X86_CPUINFO))
    assert info["cpu"] == "Some Processor @ 2.50GHz"
    assert info["features"] == ["avx2", "fma", "avx512f", "avx512_vnni"]
    assert info["cores"] == os.cpu_count()
    assert info["memory_bytes"] == psutil.virtual_memory().total
    json.dumps(info)


def test_host_info_names_the_board_where_there_is_one(proc):
    assert host_info(proc(ARM_CPUINFO, "Raspberry Pi 5 Model B"))["cpu"] == "Raspberry Pi 5 Model B"


def test_arm_processors_without_a_name_are_told_apart(proc, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert host_info(proc(ARM_CPUINFO))["cpu"] == "aarch64"
    little, big = (f"CPU implementer\t: 0x41\nCPU part\t: {part}\n" for part in ("0xd05", "0xd0b"))
    found = host_info(proc(little * 2 + big))["cpu"]
    assert found == "aarch64 implementer 0x41 part 0xd05 part 0xd0b"


def test_host_info_names_neither_host_nor_user(monkeypatch):
    monkeypatch.setenv("USER", "somebody-unlikely")
    monkeypatch.setattr(platform, "node", lambda: "host-unlikely")
    monkeypatch.setattr(platform, "release", lambda: "6.1.0-host-unlikely")
    text = json.dumps(host_info())
    assert "unlikely" not in text and str(Path.home()) not in text


@pytest.fixture
def endless(tmp_path):
    model = {
        "id": "slow-one",
        "path": str(linear_onnx(tmp_path / "m.onnx", np.eye(2), np.zeros(2))),
        "runtime": "onnxruntime",
        "delegate": "cpu",
        "num_threads": 1,
    }
    return {
        "mode": "latency",
        "models": [model],
        "warmup_runs": 0,
        "min_runs": 1,
        "min_seconds": 1e6,
        "seed": 0,
    }


def test_time_limit_kills_the_process(endless, monkeypatch):
    started = []
    real = local.subprocess.Popen

    def spy(*args, **options):
        started.append(real(*args, **options))
        return started[-1]

    monkeypatch.setattr(local.subprocess, "Popen", spy)
    with pytest.raises(MeasurementError, match=r"latency of slow-one: not finished within 2 s.*killed"):
        run_agent(endless, time_limit_s=2)
    (process,) = started
    assert process.returncode == -9
    assert not psutil.pid_exists(process.pid)


def fake_agent(monkeypatch, code):
    """Makes run_agent start `code` in place of the agent."""
    real = local.subprocess.Popen
    monkeypatch.setattr(local.subprocess, "Popen", lambda command, **o: real([command[0], "-c", code], **o))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('no json')", "wrote what is no event: 'no json'"),
        ("print('[1]')", "wrote what is no event"),
        ('print(\'{"event": "surprise"}\')', "wrote what is no event"),
        ("import os; os.abort()", "latency of slow-one: the process was ended by SIGABRT"),
        ("raise SystemExit('out of paper')", "ended early with code 1: out of paper"),
        ('print(\'{"event": "session"}\')', "event 'session' has id = 'None', no text"),
        ("", "ended early with code 0"),
        ('print(\'{"event": "done"}\'); raise SystemExit(3)', "ended early with code 3"),
        (
            'print(\'{"event": "error", "message": "no luck", "hint": "try again"}\')',
            r"latency of slow-one: no luck \(try again\)",
        ),
    ],
)
def test_whatever_goes_wrong_is_a_measurement_error(monkeypatch, endless, code, message):
    fake_agent(monkeypatch, code)
    with pytest.raises(MeasurementError, match=message):
        run_agent(endless, time_limit_s=60)


def test_agent_starts_in_an_empty_folder_with_the_package_at_hand(monkeypatch, endless):
    code = """
import json, os, sys
import edgekd
names = [n for n in os.listdir() if n != "job.json"]
found = {"cwd": os.getcwd(), "names": names, "package": edgekd.__file__}
print(json.dumps({"event": "operators", "id": "m", "operators": [], **found}))
print('{"event": "done"}')
"""
    fake_agent(monkeypatch, code)
    first, _ = run_agent(endless)
    assert first["names"] == []
    assert not Path(first["cwd"]).exists()  # gone with its job
    assert first["package"] == str(Path(local.__file__).parents[1] / "__init__.py")


def test_what_a_kernel_does_not_give_is_not_told(tmp_path):
    zone = tmp_path / "class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").mkdir()  # reading it is an error, as of a sensor that is off
    (tmp_path / "class/thermal/thermal_zone1").mkdir()
    (tmp_path / "class/thermal/thermal_zone1/temp").write_text("41500\n")
    core = tmp_path / "devices/system/cpu/cpu0/cpufreq"
    core.mkdir(parents=True)
    (core / "scaling_governor").write_text("ondemand\n")
    (core / "scaling_cur_freq").write_text("1800000\n")
    (tmp_path / "devices/system/cpu/cpu1/cpufreq").mkdir(parents=True)
    (tmp_path / "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq").write_text("0\n")
    assert clocks(tmp_path) == {"governors": ["ondemand"], "clock_khz": [1800000], "temperature_c": [41.5]}
