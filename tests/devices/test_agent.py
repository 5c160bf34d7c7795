import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from model_files import linear_onnx, linear_tflite

import edgekd
from edgekd.devices import agent, turns
from edgekd.devices.local import run_agent
from edgekd.errors import MeasurementError

WEIGHT, BIAS = [[1, -2], [0.5, 3]], [10, 20]


def job_model(path, **more):
    runtime = "litert" if path.suffix == ".tflite" else "onnxruntime"
    model = {"id": path.stem, "path": str(path), "runtime": runtime, "delegate": "cpu", "num_threads": 1}
    return {**model, **more}


@pytest.fixture
def onnx_file(tmp_path):
    return linear_onnx(tmp_path / "one.onnx", WEIGHT, BIAS)


@pytest.fixture
def tflite_file(tmp_path):
    return linear_tflite(tmp_path / "two.tflite", np.transpose(WEIGHT))


def predict_job(tmp_path, file, batch, **more):
    np.save(tmp_path / "in.npy", batch)
    return {
        "mode": "predict",
        "model": job_model(file),
        "inputs": str(tmp_path / "in.npy"),
        "outputs": str(tmp_path / "out.npy"),
        "batch_size": 2,
        **more,
    }


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_predict_writes_scores_in_order_at_any_batch_size(tmp_path, onnx_file, batch_size):
    batch = np.arange(10, dtype=np.float32).reshape(5, 2)
    events = run_agent(predict_job(tmp_path, onnx_file, batch, batch_size=batch_size))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), batch @ np.array(WEIGHT) + BIAS)
    assert [e["event"] for e in events] == ["session", "scores", "done"]
    assert events[1]["shape"] == [5, 2]
    assert not list(tmp_path.glob("*.part"))


def test_predict_that_fails_leaves_no_outputs(tmp_path, onnx_file):
    job = predict_job(tmp_path, onnx_file, np.zeros((3, 7), np.float32))
    with pytest.raises(MeasurementError, match="takes samples of shape 2, got 7"):
        run_agent(job)
    assert not (tmp_path / "out.npy").exists()


def test_outputs_that_were_not_written_to_the_end_do_not_stand_under_their_name(
    tmp_path, onnx_file, monkeypatch
):
    job = predict_job(tmp_path, onnx_file, np.zeros((3, 2), np.float32))

    def full_disk(file, scores, allow_pickle):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(agent.np, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        agent.predict(job, lambda event, **fields: None)
    assert not (tmp_path / "out.npy").exists()


def test_pickled_inputs_are_not_loaded(tmp_path, onnx_file):
    np.save(tmp_path / "in.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    model = job_model(onnx_file, input=str(tmp_path / "in.npy"))
    with pytest.raises(MeasurementError, match="allow_pickle=False"):
        run_agent({"mode": "memory", "model": model, "num_runs": 1, "seed": 0})


def test_latency_times_every_model_and_reports_first_and_init_apart(onnx_file, tflite_file):
    models = [job_model(onnx_file), job_model(tflite_file)]
    job = {"mode": "latency", "models": models, "warmup_runs": 2, "seed": 0}
    events = run_agent({**job, "min_runs": 30, "min_seconds": 0.05})
    assert [(e["event"], e.get("id")) for e in events[:-1]] == [
        ("session", "one"),
        ("first", "one"),
        ("session", "two"),
        ("first", "two"),
        ("conditions", None),
        ("latency", "one"),
        ("latency", "two"),
    ]
    for event in events[-3:-1]:
        assert len(event["values_ms"]) >= 30
        assert sum(event["values_ms"]) >= 50.0 - 1e-3
        assert min(event["values_ms"]) > 0
    assert events[0]["init_ms"] > 0 and events[1]["first_ms"] > 0
    assert events[0]["backend"] == "CPUExecutionProvider" and events[2]["backend"] == "xnnpack"


class Recorder(agent.Session):
    """A session that notes each of its runs in a shared log, and takes a set time on a set clock."""

    runtime = version = backend = "fake"
    num_threads = 1
    inputs = outputs = ()

    def __init__(self, name, log, clock, ms):
        self.name, self.log, self.clock, self.ms = name, log, clock, ms

    def prepare(self, arrays):
        return None

    def invoke(self, prepared):
        self.log.append(self.name)
        self.clock[0] += int(self.ms * 1e6)
        return []


def run_with_fakes(monkeypatch, job, times_ms):
    log, clock, events = [], [0], []
    fakes = {name: Recorder(name, log, clock, ms) for name, ms in times_ms.items()}
    monkeypatch.setattr(agent, "_loaded", lambda model: (fakes[model["id"]], 1.0))
    monkeypatch.setattr(agent.time, "perf_counter_ns", lambda: clock[0])
    agent.latency(
        {"models": [{"id": n} for n in times_ms], "seed": 0, **job}, lambda e, **f: events.append((e, f))
    )
    return log, {f["id"]: f["values_ms"] for e, f in events if e == "latency"}


def test_what_the_backend_took_is_asked_for_after_the_first_inference(monkeypatch):
    """A further session is loaded for it, which leaves compiled kernels behind."""
    monkeypatch.setattr(Recorder, "delegated", lambda self: self.log.append("asked"))
    log, _ = run_with_fakes(monkeypatch, {"warmup_runs": 0, "min_runs": 1, "min_seconds": 0.0}, {"a": 4.0})
    assert log[:3] == ["a", "asked", "a"] and log.count("asked") == 1


def test_models_take_turns_and_only_timed_runs_are_reported(monkeypatch):
    job = {"warmup_runs": 3, "min_runs": 12, "min_seconds": 0.0}
    log, values = run_with_fakes(monkeypatch, job, {"a": 4.0, "b": 10.0})
    # First inferences, warm-up, then turns: one uncounted run, then 20 ms but at least 5 runs.
    turn_a, turn_b = ["a"] * 6, ["b"] * 6
    assert log == ["a", "b"] + ["a"] * 3 + ["b"] * 3 + (turn_a + turn_b) * 3
    assert values == {"a": [4.0] * 15, "b": [10.0] * 15}


def test_a_model_alone_needs_no_run_to_settle(monkeypatch):
    job = {"warmup_runs": 1, "min_runs": 1, "min_seconds": 0.0}
    log, values = run_with_fakes(monkeypatch, job, {"a": 1.0})
    assert len(values["a"]) == 20  # a turn of 20 ms
    assert len(log) == 1 + 1 + 20


def test_turns_go_on_until_every_model_has_its_seconds(monkeypatch):
    job = {"warmup_runs": 0, "min_runs": 1, "min_seconds": 0.1}
    _, values = run_with_fakes(monkeypatch, job, {"fast": 1.0, "slow": 40.0})
    assert sum(values["fast"]) == 100.0
    assert sum(values["slow"]) == 200.0  # one turn of 5 runs


class Shared(Recorder):
    """A session on a processor that is slower while something else runs, by a factor of its own."""

    def __init__(self, clock, ms, slowdown, busy):
        super().__init__("shared", [], clock, ms)
        self.slowdown, self.busy = slowdown, busy

    def invoke(self, prepared):
        slow = self.busy(self.clock[0] / 1e6)
        self.clock[0] += int(self.ms * (self.slowdown if slow else 1.0) * 1e6)
        return []


def ratios_of(monkeypatch, busy, slowdowns=(2.0, 1.2, 3.0), **changes):
    """Reference of 0.1 ms, models of 0.2 and 1.7 ms, each slowed down by its own factor while `busy(ms)`."""
    clock, events = [0], []
    fakes = {
        name: Shared(clock, ms, slowdown, busy)
        for (name, ms), slowdown in zip({"r": 0.1, "a": 0.2, "b": 1.7}.items(), slowdowns, strict=True)
    }
    monkeypatch.setattr(agent, "_open", lambda model, emit: fakes[model["id"]])
    monkeypatch.setattr(agent.time, "perf_counter_ns", lambda: clock[0])
    monkeypatch.setattr(agent.time, "monotonic", lambda: clock[0] / 1e9)
    job = {
        "reference": {"id": "r"},
        "models": [{"id": "a"}, {"id": "b"}],
        "seed": 0,
        "min_rounds": 4,
        "max_rounds": 9,
        "precision": 0.01,
        "full_speed": 1.08,
        "slowest": 1.2,
        **changes,
    }
    agent.ratios(job, lambda event, **fields: events.append({"event": event, **fields}))
    return {e.pop("id"): e for e in events if e.pop("event") == "ratios"}, events[0]


def test_ratios_are_those_of_an_undisturbed_processor(monkeypatch):
    for busy in (lambda ms: ms % 40 > 12, lambda ms: ms < 100, lambda ms: ms % 90 < 50):
        found, reference = ratios_of(monkeypatch, busy)
        exact = {
            "standard_error": pytest.approx(0, abs=1e-9),
            "reference_ms": pytest.approx(0.1),
            "num_turns": 4,
        }
        assert found == {
            "a": {"value": pytest.approx(2.0), **exact},
            "b": {"value": pytest.approx(17.0), **exact},
        }
        assert reference == {"fastest_ms": pytest.approx(0.1)}


def test_without_a_bound_on_speed_disturbed_turns_count(monkeypatch):
    found, _ = ratios_of(monkeypatch, busy=lambda ms: ms % 40 > 12, full_speed=100.0)
    assert abs(found["a"]["value"] - 2) > 0.1 or abs(found["b"]["value"] - 17) > 1


def test_rounds_go_on_until_the_ratio_is_known_or_they_are_over(monkeypatch):
    def wavering(self, prepared):
        """The large model takes 1, 1.2 or 1.4 times its time, another one every 11 ms."""
        factor = 1.0 + 0.2 * (self.clock[0] // 11_000_000 % 3) * (self.ms > 1)
        self.clock[0] += int(self.ms * factor * 1e6)
        return []

    monkeypatch.setattr(Shared, "invoke", wavering)
    found, _ = ratios_of(monkeypatch, busy=None, precision=0.0001)
    assert (found["a"]["num_turns"], found["b"]["num_turns"]) == (4, 9)
    found, _ = ratios_of(monkeypatch, busy=None, precision=0.2)
    assert (found["a"]["num_turns"], found["b"]["num_turns"]) == (4, 4)


def test_a_processor_that_is_a_little_slower_as_a_whole_tells_the_same_ratios(monkeypatch):
    """After 20 ms, of which two turns came in time; before, all waited for the speed of the beginning."""
    found, reference = ratios_of(monkeypatch, lambda ms: ms > 20, slowdowns=(1.19, 1.19, 1.19))
    assert found["a"]["value"] == pytest.approx(2.0) and found["b"]["value"] == pytest.approx(17.0)
    assert found["b"]["reference_ms"] == pytest.approx(0.119)
    assert reference == {"fastest_ms": pytest.approx(0.1)}


def test_a_processor_that_is_much_slower_as_a_whole_is_waited_for(monkeypatch):
    found, _ = ratios_of(monkeypatch, lambda ms: 20 < ms < 90_000, slowdowns=(1.4, 1.2, 1.1))
    assert found["a"]["value"] == pytest.approx(2.0) and found["b"]["value"] == pytest.approx(17.0)
    assert found["b"]["reference_ms"] == pytest.approx(0.1)


def test_what_disturbs_now_and_then_is_not_taken_for_the_processors_speed(monkeypatch):
    """The reference is slowed by less than a slower processor may be, and layers by more."""
    found, _ = ratios_of(monkeypatch, lambda ms: ms % 4000 > 40, slowdowns=(1.15, 1.5, 2.0))
    assert found["a"]["value"] == pytest.approx(2.0) and found["b"]["value"] == pytest.approx(17.0)


# Never undisturbed; and for a moment only, in which the reference alone finds room.
@pytest.mark.parametrize("busy", [lambda ms: True, lambda ms: ms % 40 > 1.5], ids=["always", "nearly"])
def test_a_processor_that_is_never_ours_is_an_error(monkeypatch, busy):
    with pytest.raises(MeasurementError, match=r"for 240 s .* never undisturbed .* times as long") as caught:
        ratios_of(monkeypatch, busy, fastest_ms=0.1)
    assert "end other programs" in caught.value.hint


def test_patience_is_about_turns_that_count_not_about_all_of_them(monkeypatch):
    monkeypatch.setattr(turns, "_PATIENCE_S", 60.0)
    found, _ = ratios_of(monkeypatch, lambda ms: ms % 40 > 20, min_rounds=5000, max_rounds=5000)
    assert found["b"]["num_turns"] == 5000  # which takes more than 60 s of that clock


def test_the_standard_error_of_a_median_by_hand():
    kept = turns.Ratios("x")
    for value in (1.00, 1.02, 1.01, 1.04):
        kept.add(value, 0.1 * value)
    # Median 1.015; deviations 0.015, 0.005, 0.005, 0.025, their median 0.01, so 1.4826 * 0.01 / 2 * 1.2533
    assert kept.median() == pytest.approx((1.015, 0.0092906), rel=1e-4)
    assert kept.is_precise(0.00916) and not kept.is_precise(0.00915)
    kept.drop(lambda ms: ms > 0.1015)
    assert (kept.values, kept.slowest_ms()) == ([1.00, 1.01], pytest.approx(0.101))


def test_ratios_of_real_files_in_both_runtimes(onnx_file, tmp_path):
    from edgekd import probes
    from edgekd.layers import Layer

    layer = Layer("conv", 16, 16, 16, 16, 3, 1, 1)
    paths = {}
    for name, count in {"r": 2, "longer": 8, "same": 2}.items():
        paths[name] = tmp_path / f"{name}.tflite"
        content = probes.build(
            (layer,) * count, format="tflite", scheme="static_wi8_ai8", activations="signed"
        )
        paths[name].write_bytes(content)
    job = {
        "mode": "ratios",
        "reference": job_model(paths["r"]),
        "seed": 0,
        "models": [job_model(onnx_file), job_model(paths["longer"]), job_model(paths["same"])],
        # Whatever else runs here meanwhile counts too.
        "min_rounds": 9,
        "max_rounds": 9,
        "precision": 0.0,
        "full_speed": 1e9,
        "slowest": 1.0,
    }
    events = run_agent(job)
    found = {e["id"]: e["value"] for e in events if e["event"] == "ratios"}
    assert found["longer"] > 1.5 * found["same"]  # four times the layers
    assert [e["num_turns"] for e in events if e["event"] == "ratios"] == [9, 9, 9]
    assert next(e["fastest_ms"] for e in events if e["event"] == "reference") > 0


def test_memory_is_the_childs_own_and_not_its_parents(onnx_file):
    """Linux hands the parent's size down through getrusage; the file's own need is far below it."""
    ballast = np.ones(60_000_000)  # 480 MB
    job = {"mode": "memory", "model": job_model(onnx_file), "num_runs": 2, "seed": 0}
    peak = next(e["peak_memory_bytes"] for e in run_agent(job) if e["event"] == "memory")
    assert 10e6 < peak < 300e6 < ballast.nbytes


def test_threads_are_set_and_reported_back(onnx_file):
    job = {"mode": "memory", "model": job_model(onnx_file, num_threads=2), "num_runs": 1, "seed": 0}
    assert run_agent(job)[0]["num_threads"] == 2


def test_operators_are_listed(onnx_file):
    events = run_agent({"mode": "operators", "model": job_model(onnx_file)})
    (name, kind, dtypes), *_ = events[0]["operators"]
    assert kind == "Gemm" and dtypes[0] == "float32" and isinstance(name, str)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mode": "train"},
            "unknown mode 'train' .known: predict, latency, sustained, ratios, memory, operators",
        ),
        ({"outputs": None}, "TypeError"),
        ({"batch_size": "x"}, "ValueError"),
        ({"inputs": "/absent.npy"}, "FileNotFoundError.*absent.npy"),
    ],
)
def test_broken_job_is_an_error_in_the_agents_words(tmp_path, onnx_file, change, message):
    job = predict_job(tmp_path, onnx_file, np.zeros((1, 2), np.float32), **change)
    with pytest.raises(MeasurementError, match=message):
        run_agent(job)


def test_job_that_lacks_a_key_names_it(onnx_file):
    with pytest.raises(MeasurementError, match="the job lacks 'num_runs'"):
        run_agent({"mode": "memory", "model": job_model(onnx_file), "seed": 0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delegate": "npu"}, "onnxruntime has no delegate 'npu'.*known: cpu"),
        ({"runtime": "tvm"}, "unknown runtime 'tvm'"),
        ({"path": "/absent.onnx"}, "/absent.onnx: no such file"),
    ],
)
def test_model_that_does_not_open_is_an_error(onnx_file, change, message):
    job = {"mode": "memory", "model": {**job_model(onnx_file), **change}, "num_runs": 1, "seed": 0}
    with pytest.raises(MeasurementError, match=message):
        run_agent(job)


def start_agent(job_path, code="", **options):
    command = [sys.executable, "-m", "edgekd.devices.agent", *options.pop("arguments", []), str(job_path)]
    if code:
        command = [sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPATH": str(Path(edgekd.__file__).parents[1])}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_stdout_holds_events_only_whatever_libraries_print(tmp_path, onnx_file):
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"mode": "operators", "model": job_model(onnx_file)}), encoding="utf-8")
    code = f"""
import os
from edgekd.devices import agent
real = agent.MODES["operators"]
def chatty(job, emit):
    print("from python")
    os.write(1, b"from C\\n")
    real(job, emit)
agent.MODES["operators"] = chatty
raise SystemExit(agent.main([{str(job)!r}]))
"""
    with start_agent(job, code) as process:
        output, noise = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [json.loads(line)["event"] for line in output.splitlines()] == ["operators", "done"]
    assert b"from C" in noise and b"from python" in noise


def test_agent_ends_when_whoever_started_it_is_gone(tmp_path, onnx_file):
    job = tmp_path / "job.json"
    endless = {"mode": "latency", "models": [job_model(onnx_file)], "warmup_runs": 0, "seed": 0}
    job.write_text(json.dumps({**endless, "min_runs": 1, "min_seconds": 1e6}), encoding="utf-8")
    with start_agent(job, stdin=subprocess.PIPE, arguments=["--follow-stdin"]) as process:
        assert json.loads(process.stdout.readline())["event"] == "session"
        process.stdin.close()  # what the kernel does for a parent that was killed
        assert process.wait(timeout=20) == 1
