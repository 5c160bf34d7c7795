"""Tables of the real runtimes: what is timed and kept. How long things take is for `benchmarks/`."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from runs import READERS, TINY, TRAINING, WITHOUT, Commands
from typer.testing import CliRunner

from edgekd import cli
from edgekd.config import load_target
from edgekd.devices import agent, turns
from edgekd.errors import MeasurementError, UsageError
from edgekd.latency import profile as profiling
from edgekd.latency import timing
from edgekd.latency.costs import Costs, base_chains, chains_of
from edgekd.latency.table import Table, load
from edgekd.layers import Layer
from edgekd.pipeline import resolve
from edgekd.store import Store

CONV = Layer("conv", 8, 8, 12, 12, 3, 1, 1)
LAYERS = (CONV, Layer("depthwise", 8, 8, 8, 8, 3, 2, 1), Layer("linear", 1, 1, 8, 3))


@pytest.fixture(autouse=True)
def disturbed(monkeypatch):
    """Other tests run meanwhile: every turn counts, however slow."""
    monkeypatch.setattr(timing, "FULL_SPEED", 1e9)
    monkeypatch.setattr(timing, "MAX_ROUNDS", 3)


@pytest.mark.parametrize("name", ["host", "x86-onnx"])
def test_a_target_gets_its_table_and_a_second_call_times_nothing(tmp_path, monkeypatch, name):
    target, store = load_target(name), Store(tmp_path)
    table = profiling.profile(target, LAYERS, store)
    path = profiling.path_of(table.clock, store)
    assert load(path) == table
    assert table.clock.runtime == target.runtime.name
    assert table.fastest_ms > 0
    costs = Costs(table)
    assert costs.of(CONV).value >= 0 and costs.overhead.fixed >= 0
    monkeypatch.setattr(timing, "run_agent", None)
    assert profiling.profile(target, LAYERS, store) == table


@pytest.mark.parametrize("name", ["host", "x86-onnx"])
def test_layers_are_timed_in_integers_and_in_float_at_their_own_widths_alone(tmp_path, monkeypatch, name):
    target, store = load_target(name), Store(tmp_path)
    table = profiling.in_either(target, LAYERS, store)
    beside = [chain for chain in table.ratios if chain not in base_chains()]
    both = [*LAYERS, *(replace(layer, in_float=True) for layer in LAYERS)]
    assert sorted(beside) == sorted({chain for layer in both for chain in chains_of(layer)})
    assert table.grids == {}
    monkeypatch.setattr(timing, "run_agent", None)
    assert profiling.in_either(target, LAYERS, store) == table == load(profiling.path_of(table.clock, store))


def test_a_table_is_saved_batch_by_batch(tmp_path, monkeypatch):
    target, store = load_target("host"), Store(tmp_path)
    monkeypatch.setattr(timing, "BATCH", 10)
    real, calls = timing.run_agent, []

    def killed(job, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append([model["id"] for model in job["models"]])
        return real(job, **options)

    monkeypatch.setattr(timing, "run_agent", killed)
    with pytest.raises(KeyboardInterrupt):
        profiling.profile(target, LAYERS, store)
    path = profiling.path_of(profiling.clock_here(target), store)
    assert len(load(path).ratios) == 20
    monkeypatch.setattr(timing, "run_agent", real)
    table = profiling.profile(target, LAYERS, store)
    assert len(table.ratios) > 40


def test_a_scheme_without_probes_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"'android-gpu'.*'fp16'"):
        profiling.profile(load_target("android-gpu"), LAYERS, Store(tmp_path))


def run_here(job, **_):
    """The agent's job in this process, where its patience can be set."""
    events = []
    agent.MODES[job["mode"]](job, lambda event, **fields: events.append({"event": event, **fields}))
    return tuple(events)


def test_a_computer_that_became_slower_for_good_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "FULL_SPEED", 1.08)
    monkeypatch.setattr(turns, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(timing, "run_agent", run_here)
    table = Table(profiling.clock_here(load_target("host")), fastest_ms=1e-6)
    with pytest.raises(MeasurementError, match=r"1e-06 ms when the table was begun") as caught:
        timing.measure_here(table, tmp_path / "t.json")([(CONV,)], "widths")
    assert "delete the old one" in caught.value.hint


def test_two_runs_do_not_measure_into_one_table_at_once(tmp_path):
    target, store = load_target("host"), Store(tmp_path)
    path = profiling.path_of(profiling.clock_here(target), store)
    path.parent.mkdir(parents=True)
    other = FileLock(path.with_suffix(".lock"))
    other.acquire()
    waiting = threading.Thread(target=profiling.profile, args=(target, LAYERS[2:], store))
    waiting.start()
    waiting.join(1.0)
    assert waiting.is_alive() and not path.exists()
    other.release()
    waiting.join(120)
    assert load(path).ratios


def test_a_delegate_that_is_not_here_is_an_error(tmp_path):
    target = load_target("host")
    gpu = target.model_copy(update={"runtime": target.runtime.model_copy(update={"delegate": "gpu"})})
    with pytest.raises(MeasurementError, match="gpu"):
        profiling.profile(gpu, LAYERS, Store(tmp_path))


def test_the_command_shows_steps_and_where_the_table_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path))
    monkeypatch.setattr(profiling, "common_layers", lambda: list(LAYERS))
    shown = CliRunner().invoke(cli.app, ["profile", "--target", "host"])
    assert shown.exit_code == 0, shown.output
    assert "conv 8x8 k3 s1 p1 out" in shown.stdout and "linear 1x1 k1 s1 p0 in" in shown.stdout
    copied = tmp_path / "given" / "host.json"
    command = ["profile", "--target", "host", "--json", "--output", str(copied)]
    told = json.loads(CliRunner().invoke(cli.app, command).stdout)
    assert (told["table"], told["kind"]) == (str(copied), "measured")
    refused = CliRunner().invoke(cli.app, ["profile", "--target", "host", "--output", str(copied.parent)])
    assert "is a folder" in str(refused.exception)
    told = json.loads(CliRunner().invoke(cli.app, ["profile", "--target", "host", "--json"]).stdout)
    assert load(copied) == load(Path(told["table"]))
    path = tmp_path / "latency"
    assert told["table"] == str(next(path.glob("*.json")))  # its lock lies beside it
    assert told["steps"]["conv 8x8 k3 s1 p1 out"][0][0] == 4
    assert told["steps"]["conv 8x8 k3 s1 p1 out"][-1][0] == 12
    for widths in told["steps"].values():
        assert [w for w, _ in widths] == sorted({w for w, _ in widths})
        assert all(ms >= 0 for _, ms in widths)


# The command with few layers to time, where every turn counts.
PROFILE = """
from edgekd.latency import profile, timing
from edgekd.layers import parse
timing.FULL_SPEED, timing.MAX_ROUNDS = 1e9, 3
profile.common_layers = lambda: [parse("linear 1x1 k1 s1 p0 8-3")]
"""


def test_a_tflite_target_is_profiled_without_the_training_half(tmp_path):
    forbidden, main = WITHOUT.format(names=(*TRAINING, *READERS)).split("from edgekd.cli")
    script = f"{forbidden}{PROFILE}from edgekd.cli{main}"
    run = Commands(tmp_path, tmp_path / "store")
    found = run("profile", "--target", "host", "--json", python=["-c", script])
    assert found.returncode == 0, found.stderr
    assert load(Path(json.loads(found.stdout)["table"])).ratios
    assert "XNNPACK" not in found.stderr  # what a runtime says while it loads belongs in the log


def test_the_students_layers_are_those_of_the_recipe(tmp_path):
    (tmp_path / "r.toml").write_text(TINY)
    recipe, _ = resolve(str(tmp_path / "r.toml"), {}, {}, None, None)
    found = profiling.student_layers(recipe)
    # 8x8 pixels, two hidden layers, ten digits.
    assert found == (
        Layer("linear", 1, 1, 64, 32),
        Layer("linear", 1, 1, 32, 32),
        Layer("linear", 1, 1, 32, 10),
    )


def test_common_layers_hold_what_reference_networks_hold():
    import torch

    from edgekd.latency.network import layers_of
    from edgekd.models import mobilenet, resnet

    widest = {}
    for layer in profiling.common_layers():
        a, b = widest.get(layer.shape, (0, 0))
        widest[layer.shape] = max(a, layer.in_channels), max(b, layer.out_channels)
    for side, channels in ((32, 3), (28, 1)):
        nets = [
            resnet.build((channels, side, side), 10, blocks=(2, 2, 2), width=32),
            mobilenet.build((channels, side, side), 10, width=16, expand=4),
        ]
        for net in nets:
            for layer in layers_of(net, torch.zeros(1, channels, side, side)):
                inner, outer = widest[layer.shape]
                assert layer.in_channels <= 2 * inner and layer.out_channels <= 2 * outer, layer
