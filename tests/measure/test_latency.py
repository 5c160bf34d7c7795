import contextlib
import hashlib
from dataclasses import replace

import numpy as np
import pytest
from model_files import linear_onnx, linear_tflite
from nets import Tracking

from edgekd.errors import MeasurementError
from edgekd.measure.latency import Subject, kind_on_gpu, measure_latency, subject
from edgekd.measurements import Protocol
from edgekd.types import Artifact, File, InputSpec

PROTOCOL = Protocol(warmup_runs=2, min_runs=25, min_seconds=0.05, num_processes=2, num_threads=1)


def test_measurements_of_two_files_from_fresh_processes(tmp_path):
    subjects = [
        Subject("onnx", linear_onnx(tmp_path / "m.onnx", np.eye(3), np.zeros(3)), "onnxruntime"),
        Subject("tflite", linear_tflite(tmp_path / "m.tflite", np.eye(3)), "litert", "xnnpack"),
    ]
    display = Tracking()
    found = measure_latency(subjects, PROTOCOL, "host", device="desk", display=display)
    assert display.tracked == [("latency", PROTOCOL.num_processes), ("memory", len(subjects))]
    assert [m.artifact_id for m in found] == ["onnx", "tflite"]
    assert [m.delegate for m in found] == ["CPUExecutionProvider", "xnnpack"]
    for m in found:
        assert (m.device, m.kind, m.protocol) == ("desk", "host", PROTOCOL)
        assert len(m.first_ms) == len(m.init_ms) == len(m.process_medians_ms) == 2
        # 25 runs and 50 ms in all: 13 and 25 in each process
        assert all((m.process == p).sum() >= 13 for p in (0, 1))
        assert all(m.latency_ms[m.process == p].sum() >= 25 - 1e-3 for p in (0, 1))
        assert (np.diff(m.process) >= 0).all()
        assert 10e6 < m.peak_memory_bytes < 1e9


def events_of(job):
    """What an agent would tell: runs of 1, 2, ... ms, each process 10 ms slower than the one before."""
    events_of.calls.append(job)
    if job["mode"] == "memory":
        return ({"event": "memory", "id": job["model"]["id"], "peak_memory_bytes": 111}, {"event": "done"})
    events = []
    late = 10.0 * sum(j["mode"] == "latency" for j in events_of.calls)
    for number, model in enumerate(job["models"]):
        name = {"id": model["id"]}
        session = {"version": "9", "backend": "b", "num_threads": model["num_threads"], "init_ms": late}
        events.append({"event": "session", **name, **session})
        events.append({"event": "first", **name, "first_ms": late + number})
        runs = [late + number, late + number + 1.0]
        events.append({"event": "latency", **name, "values_ms": runs[: 1 + number]})
    before = {"throttled_ms": 5.0, "hot_events": None, "firmware": [], "clock_khz": 9, "temperature_c": 50.5}
    after = {**before, "throttled_ms": 5.0 + late, "firmware": ["throttled"], "temperature_c": 60.0}
    told = {"event": "conditions", "cores": [2, 3], "before": before, "after": after}
    return (*events, told, {"event": "done"})


@pytest.fixture
def fake_agent():
    events_of.calls = []
    return lambda job, time_limit_s: events_of(job)


def test_raw_values_are_kept_with_their_process(fake_agent, tmp_path):
    subjects = [Subject("a", tmp_path / "a", "litert"), Subject("b", tmp_path / "b", "litert")]
    a, b = measure_latency(subjects, PROTOCOL, "measured", device="d", run=fake_agent)
    assert a.latency_ms.tolist() == [10, 20] and a.process.tolist() == [0, 1]
    assert b.latency_ms.tolist() == [11, 12, 21, 22] and b.process.tolist() == [0, 0, 1, 1]
    assert b.first_ms == (11, 21) and b.init_ms == (10, 20)
    assert b.process_medians_ms == (11.5, 21.5) and b.median_ms == 16.5
    assert a.peak_memory_bytes == 111 and a.runtime_version == "9"
    first, second = a.conditions
    assert (first.throttled_ms, second.throttled_ms, first.hot_events) == (10.0, 20.0, None)
    assert first.cores == (2, 3) and first.firmware == ("throttled",)
    assert (first.clock_khz, first.temperature_c) == ((9, 9), (50.5, 60.0))
    calls = events_of.calls
    modes = [job["mode"] for job in calls]
    assert modes == ["latency", "latency", "memory", "memory"]
    assert [job["model"]["id"] for job in calls[2:]] == ["a", "b"]
    assert calls[0]["min_runs"] == 13 and calls[0]["min_seconds"] == 0.025


def test_a_gpu_that_is_a_program_on_the_processor_has_no_measured_times(fake_agent, tmp_path):
    subjects = [Subject("a", tmp_path / "a", "litert", "gpu")]
    for software, kind in ((True, "emulated"), (False, "measured"), (None, "host")):
        told = {
            "gpu": "g",
            "software_gpu": software,
            "operators_delegated": 3,
            "operators_total": 4,
            "partitions": 2,
        }
        (found,) = measure_latency(
            subjects,
            PROTOCOL,
            "measured",
            device="d",
            run=lambda job, time_limit_s, told=told: [{**e, **told} for e in events_of(job)],
        )
        assert (found.kind, found.gpu) == (kind, "g")
        assert (found.operators_delegated, found.operators_total, found.partitions) == (3, 4, 2)


def test_where_it_is_unknown_whether_a_gpu_is_a_program_on_the_processor():
    for kind, delegate, software, expected in (
        ("measured", "cpu", [None, None], "measured"),
        ("measured", "xnnpack", [None], "measured"),
        ("measured", "gpu-fp32", [None], "host"),
        ("measured", "cuda", [False, None], "host"),
        ("host", "gpu", [False], "host"),
        ("emulated", "gpu", [None], "emulated"),
        ("host", "gpu", [None, True], "emulated"),
    ):
        assert kind_on_gpu(kind, delegate, software) == expected


@pytest.mark.parametrize(
    ("cores", "after", "words"),
    [
        ((2, 3), {}, None),
        ((3, 2, 3), {}, None),
        ((2,), {}, r"a: cores \[2\] were asked for, it was timed on \[2, 3\]"),
        ((), {"throttled_ms": 4.5}, "a: throttled_ms shrank from 5.0 to 4.5"),
        ((), {"before_hot": 3, "hot_events": 2}, "a: hot_events shrank from 3 to 2"),
    ],
)
def test_conditions_that_contradict_what_was_asked(fake_agent, tmp_path, cores, after, words):
    after = dict(after)
    hot = after.pop("before_hot", None)

    def run(job, time_limit_s):
        events = events_of(job)
        return tuple(
            {**e, "before": {**e["before"], "hot_events": hot}, "after": {**e["after"], **after}}
            if e["event"] == "conditions"
            else e
            for e in events
        )

    protocol = replace(PROTOCOL, cores=cores)
    with contextlib.nullcontext() if words is None else pytest.raises(MeasurementError, match=words):
        measure_latency([Subject("a", tmp_path / "a", "litert")], protocol, "host", device="d", run=run)


def test_one_id_twice_is_an_error(tmp_path):
    twice = [Subject("a", tmp_path / "a", "litert")] * 2
    with pytest.raises(MeasurementError, match="under one id: a, a"):
        measure_latency(twice, PROTOCOL, "host", device="d")


def test_threads_that_the_runtime_did_not_take_are_an_error(fake_agent, tmp_path):
    def stubborn(job, time_limit_s):
        return tuple({**e, "num_threads": 7} for e in events_of(job))

    with pytest.raises(MeasurementError, match="a: the runtime did not take 1 threads"):
        measure_latency([Subject("a", tmp_path / "a", "litert")], PROTOCOL, "host", device="d", run=stubborn)


def test_what_an_agent_leaves_out_is_an_error(fake_agent, tmp_path):
    for left in ("session", "first", "latency", "conditions", "memory"):
        with pytest.raises(MeasurementError, match=f"a: the agent said nothing of its {left}"):
            measure_latency(
                [Subject("a", tmp_path / "a", "litert")],
                PROTOCOL,
                "host",
                device="d",
                run=lambda job, time_limit_s, left=left: [e for e in events_of(job) if e["event"] != left],
            )


def test_sample_is_fed_in_the_files_layout(tmp_path):
    """A sample of the wrong shape stops the run, so a run shows that it arrived."""
    file = linear_onnx(tmp_path / "m.onnx", np.eye(4), np.zeros(4))
    one = Protocol(warmup_runs=1, min_runs=1, min_seconds=0.0, num_processes=1, num_threads=1)
    good = Subject("a", file, "onnxruntime", sample=np.zeros((1, 4), np.float32))
    assert len(measure_latency([good], one, "host", device="d")) == 1
    bad = Subject("a", file, "onnxruntime", sample=np.zeros((1, 5), np.float32))
    with pytest.raises(MeasurementError, match=r"Got invalid dimensions for input: x.*Got: 5 Expected: 4"):
        measure_latency([bad], one, "host", device="d")


def test_subject_of_an_artifact_transposes_its_sample(tmp_path):
    file = File(tmp_path / "m.tflite", hashlib.sha256(b"").hexdigest(), 0)
    spec = InputSpec("x", (2, 3, 4), "NCHW", "uint8", (0, 255), 255.0, (0.0, 0.0), (1.0, 1.0))
    made = Artifact("art", (file,), "tflite", "fp32", spec, ("a",))
    sample = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    one = subject(made, "litert", layout="NHWC", sample=sample)
    assert (one.id, one.path, one.sample.shape) == ("art", file.path, (1, 3, 4, 2))
    assert one.sample[0, 2, 3, 1] == sample[0, 1, 2, 3]
    assert subject(made, "litert").sample is None
