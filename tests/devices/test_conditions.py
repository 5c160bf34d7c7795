"""What slows timed runs from outside: quotas of this kernel, recorded files of what is not here."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from model_files import write_onnx
from runs import ROOT

from edgekd.devices.conditions import pin, snapshot, throttled_ms
from edgekd.errors import MeasurementError
from edgekd.measure.latency import Subject
from edgekd.measure.sustained import Sustained, Window, measure_sustained, slowed_at_s
from edgekd.report import over_time

CPU_V1 = Path("/sys/fs/cgroup/cpu")
TICKS = os.sysconf("SC_CLK_TCK")
CPU_V2 = Path("/sys/fs/cgroup/cgroup.controllers")


def recorded(folder, cgroup, mounts, files):
    """A /proc as kernels write it (proc(5), cgroups(7)); its cgroups lie in the folder."""
    own = folder / "proc/self"
    own.mkdir(parents=True)
    (own / "cgroup").write_text(cgroup)
    (own / "mountinfo").write_text(mounts.format(here=folder))
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "proc"


def test_version_2_is_read_up_to_the_root(tmp_path):
    """Recorded: the cpu controller of version 2 is not to be had on every machine of tests."""
    stat = "usage_usec 9\nnr_periods 8\nnr_throttled 3\nthrottled_usec {}\nnr_bursts 0\n"
    mounts = "29 23 0:26 / {here}/cg rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    files = {
        "cg/cpu.stat": "usage_usec 9\n",  # the root has no quota
        "cg/user/cpu.stat": stat.format(1500),
        "cg/user/app/cpu.stat": stat.format(2000),
        "cg/other/cpu.stat": stat.format(999_000),
    }
    assert throttled_ms(recorded(tmp_path, "0::/user/app\n", mounts, files)) == 3.5


def test_version_1_inside_a_container_beside_version_2(tmp_path):
    mounts = (
        "31 29 0:28 /docker/abc {here}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        "32 29 0:29 / {here}/memory rw - cgroup cgroup rw,memory\n"
        "33 29 0:30 / {here}/unified rw - cgroup2 cgroup2 rw\n"
    )
    files = {
        "cpu/cpu.stat": "nr_periods 3\nnr_throttled 2\nthrottled_time 7000000\n",
        "cpu/job/cpu.stat": "nr_periods 3\nnr_throttled 2\nthrottled_time 2500000\n",
        "memory/cpu.stat": "throttled_time 1000000000\n",
        "unified/cpu.stat": "usage_usec 3\n",
    }
    proc = recorded(tmp_path, "4:memory:/x\n2:cpu,cpuacct:/docker/abc/job\n0::/\n", mounts, files)
    assert throttled_ms(proc) == 9.5


def test_a_kernel_that_tells_nothing(tmp_path):
    assert throttled_ms(recorded(tmp_path, "0::/\n", "", {})) is None
    found = snapshot(tmp_path / "proc", tmp_path / "sys")
    assert found.pop("firmware") == [] and set(found.values()) == {None} and len(found) == 4


def test_heat_clocks_and_a_raspberry_pis_firmware(tmp_path):
    """Recorded: this machine has none of these files."""
    for name, text in {
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
        "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2400000\n",
        "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "2\n",
        "devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "5\n",
        "class/thermal/thermal_zone0/temp": "48312\n",
        "class/thermal/thermal_zone1/temp": "61200\n",
        "devices/platform/soc/soc:firmware/get_throttled": "50005\n",  # 0x5: now; 0x50000: it has been
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = snapshot(tmp_path / "none", tmp_path)
    assert (found["clock_khz"], found["temperature_c"], found["hot_events"]) == (2_400_000, 61.2, 7)
    assert found["firmware"] == ["undervoltage", "throttled"]


def test_cores_are_set_and_read_back():
    mine = sorted(os.sched_getaffinity(0))
    code = f"from edgekd.devices.conditions import pin; print(pin([{mine[-1]}]), pin([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"[{mine[-1]}]"] * 2
    assert pin([]) == mine


@pytest.fixture
def group():
    """A cgroup of a quarter of a core, as a folder."""
    name = f"edgekd-{uuid.uuid4().hex[:8]}"
    if os.access(CPU_V1, os.W_OK) and (CPU_V1 / "cpu.cfs_quota_us").parent.is_dir():
        group, settings = CPU_V1 / name, {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "25000"}
    elif CPU_V2.is_file() and "cpu" in CPU_V2.read_text().split() and os.access(CPU_V2.parent, os.W_OK):
        group, settings = CPU_V2.parent / name, {"cpu.max": "25000 100000"}
    else:
        pytest.skip("no board here: this kernel gives no cgroup with a CPU quota")
    group.mkdir()
    for key, value in settings.items():
        (group / key).write_text(value)
    yield group
    group.rmdir()


def slow_onnx(tmp_path):
    """Some milliseconds an inference."""
    weights = {f"w{i}": np.eye(1024, dtype=np.float32) for i in range(6)}
    names = ["x", *(f"h{i}" for i in range(5)), "y"]
    nodes = [("MatMul", [names[i], f"w{i}"], [names[i + 1]], {}) for i in range(6)]
    return write_onnx(tmp_path / "slow.onnx", nodes, [("x", [64, 1024])], [("y", [64, 1024])], weights)


def test_a_device_that_slows_down_under_load_is_seen_and_drawn(group, tmp_path):
    """The agent's process is given a quota once it has worked for some seconds."""
    file = Subject("slow", slow_onnx(tmp_path), "onnxruntime")

    def slow_down():
        worked: dict[str, float] = {}
        while not any(seconds > 4 for seconds in worked.values()):
            time.sleep(0.1)
            agents = [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"edgekd.devices.agent" in read(p)]
            stats = {p.parent.name: read(p.parent / "stat").rpartition(b")")[2].split() for p in agents}
            mine = {pid: stat for pid, stat in stats.items() if stat and int(stat[1]) == os.getpid()}
            worked = {pid: (int(stat[11]) + int(stat[12])) / TICKS for pid, stat in mine.items()}
        (group / "cgroup.procs").write_text(max(worked, key=worked.__getitem__))

    thread = threading.Thread(target=slow_down)
    thread.start()
    found = measure_sustained(file, 15.0, num_threads=1, window_s=0.25)
    thread.join()
    assert found.slowed_at_s is not None and found.slowed_at_s > 1
    assert found.last_ms > 1.3 * found.first_ms > 0
    text = over_time.page(found, "slow.onnx", "this computer", "host", ["another runtime"])
    assert f"The device slowed down after {found.slowed_at_s:.0f} s" in text and 'class="slowed"' in text
    assert "this computer (on another computer, standing in)" in text and "another runtime" in text


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_quota_on_the_process_makes_its_latency_inconclusive(group, tmp_path):
    """What takes some milliseconds an inference is held up for three quarters of each tenth of a second."""
    path = slow_onnx(tmp_path)
    command = [sys.executable, "-m", "edgekd", "bench", str(path), "--target", "x86-onnx", "--json"]
    command += ["--max-latency-ms", "10000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def bench(started):
        done = subprocess.run(started, capture_output=True, text=True, env=environment, check=False)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    inside = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group)]
    code, held = bench([*inside, *command])
    assert code == 3 and held["checks"][0]["status"] == "INCONCLUSIVE"
    assert held["median_ms"] >= 3
    assert held["p95_ms"] > 1.5 * held["median_ms"]
    assert "a CPU quota of its cgroup held it for" in held["checks"][0]["detail"]
    assert "noisy: the 95th percentile is" in held["checks"][0]["detail"]
    _, free = bench(command)
    assert "quota" not in free["checks"][0]["detail"]


@pytest.mark.parametrize(
    ("means", "at"),
    [
        ([10.0] * 40, None),
        ([10.0] * 20 + [12.0] * 20, 20.0),
        ([10.0] * 20 + [10.9] * 20, None),  # less than a tenth
        ([10.0] * 20 + [30.0] * 3 + [10.0] * 17, None),  # a hiccup
        ([10.0] * 20 + [30.0] * 3 + [10.0] * 7 + [12.0] * 10, 30.0),
        ([30.0] + [10.0] * 39, None),  # the first is no level by itself
    ],
)
def test_when_a_device_slowed_down(means, at):
    windows = [Window(float(i), 1, mean, mean, None, None, None) for i, mean in enumerate(means)]
    assert slowed_at_s(windows) == at


def test_what_is_slower_in_the_end_did_not_keep_its_speed():
    means = [1.0] * 35 + [50.0] * 5  # too short to be a level, and the tail all the same
    windows = tuple(Window(float(i), 1, mean, mean, None, None, None) for i, mean in enumerate(means))
    found = Sustained("xnnpack", "x", windows, slowed_at_s(windows))
    assert found.is_slower and "kept its speed" not in over_time.said(found)
    assert found.kind("measured") == "measured"
    on_gpu = replace(found, delegate="gpu")
    assert [replace(on_gpu, software_gpu=told).kind("measured") for told in (True, False, None)] == [
        "emulated",
        "measured",
        "host",
    ]


def test_windows_longer_than_asked_are_too_few(tmp_path):
    """One inference takes longer than a window: there are fewer of them."""
    file = Subject("slow", slow_onnx(tmp_path), "onnxruntime")
    with pytest.raises(MeasurementError, match=r"slow: only \d+ windows of 0\.001 s: too few"):
        measure_sustained(file, 0.04, num_threads=1, window_s=0.001)
