"""Pruning to what a target's clock shows, with real tables. How good they are is for `benchmarks/`."""

import json
import shutil
from dataclasses import replace

import pytest
from runs import TINY, Commands

import edgekd
from edgekd import config, processes, stage_facts
from edgekd.devices.machine import host_info
from edgekd.errors import MeasurementError, UsageError
from edgekd.latency import timing
from edgekd.latency.profile import clock_here, path_of
from edgekd.latency.table import load
from edgekd.plan import make_plan
from edgekd.stages import prune, quantize
from edgekd.store import Store


@pytest.fixture(scope="module", autouse=True)
def disturbed():
    """Other tests run meanwhile: every turn counts, however slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "FULL_SPEED", 1e9)
        patch.setattr(timing, "MAX_ROUNDS", 5)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The student and the tables are made once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    text = TINY.replace('goal = "macs"\nkeep = 0.7', 'goal = "latency_ms"\nkeep = 0.7')
    student = '[student.model]\nkind = "resnet"\nblocks = [1]\nwidth = 96\n'
    path.write_text(text.replace('[student.model]\nkind = "mlp"\nhidden = [32, 32]\n', student))
    return path


def plan_of(recipe, tmp_path, *targets):
    data, _ = config.read_toml(recipe)
    data["prune"]["stand_in"] = True
    chosen = config.Recipe.model_validate({**data, "targets": targets, "required_targets": targets[:1]})
    profiles = tuple(config.load_target(name) for name in targets)
    policy = config.load_calibration(chosen.calibration)
    return make_plan(chosen, profiles, policy, Store(tmp_path / "store"), host_info())


def test_targets_of_one_clock_share_a_network_and_others_branch_at_pruning(recipe, tmp_path):
    plan = plan_of(recipe, tmp_path, "host", "raspberry-pi-4", "x86-onnx")
    prunes = {n.targets: n for n in plan.nodes if n.stage == "prune"}
    assert set(prunes) == {("host", "raspberry-pi-4"), ("x86-onnx",)}
    assert {n.parents["network"] for n in prunes.values()} == {"student"}
    assert [n.targets for n in plan.nodes if n.stage == "quantize"] == list(prunes)


def test_processes_that_train_together_do_not_measure(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(UsageError, match=r"is for one process: what trains together would disturb the clock"):
        plan_of(recipe, tmp_path, "host")


def test_a_layer_that_tables_do_not_know_is_refused_before_the_teacher_is_trained(
    recipe, tmp_path, monkeypatch
):
    (tmp_path / "odd_nets.py").write_text(
        """
from torch import nn
def pooled(shape, classes):
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, classes))
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = recipe.read_text().replace('kind = "resnet"\nblocks = [1]\nwidth = 96', 'kind = "odd_nets:pooled"')
    recipe.write_text(text)
    store = tmp_path / "store"
    with pytest.raises(UsageError, match=r"avg_pool2d\S* .*is not in latency tables"):
        edgekd.compress(recipe, targets=["host"], until="prune", store=store, workdir=tmp_path / "work")
    assert [p.name.partition("-")[0] for p in store.glob("*-*")] == ["data"]


@pytest.mark.parametrize("goal", ["macs", "latency_ms", "nonzero_weights"])
def test_a_layer_path_that_does_not_exist_is_told_before_the_teacher_is_trained(recipe, tmp_path, goal):
    text = recipe.read_text().replace("latency_ms", goal)
    recipe.write_text(text.replace("keep = 0.7", 'keep = 0.7\nignored_layers = ["steem"]'))
    store = tmp_path / "store"
    with pytest.raises(UsageError, match=r"ignored_layers: no layer 'steem' .*stem"):
        edgekd.compress(recipe, targets=["host"], until="prune", store=store, workdir=tmp_path / "work")
    assert [p.name.partition("-")[0] for p in store.glob("*-*")] == ["data"]


def test_a_target_without_tables_is_refused_when_the_plan_is_made(recipe, tmp_path):
    with pytest.raises(UsageError, match=r"'android-gpu'.*no latency tables"):
        plan_of(recipe, tmp_path, "android-gpu")


@pytest.mark.parametrize(("target", "rounds"), [("host", 1), ("host", 2), ("x86-onnx", 1)])
def test_a_student_is_pruned_to_a_share_of_its_own_latency(recipe, tmp_path, store, target, rounds):
    recipe.write_text(recipe.read_text().replace("keep = 0.7", f"keep = 0.7\nrounds = {rounds}"))
    before = set(store.glob("prune-*/result.json"))
    edgekd.compress(recipe, targets=[target], until="prune", store=store, workdir=tmp_path / "work")
    (found,) = set(store.glob("prune-*/result.json")) - before
    result = json.loads(found.read_text())["result"]
    costs = [r["cost"] for r in result["rounds"]]
    assert len(costs) == rounds and costs[-1] == result["predicted_latency"]["pruned_ms"]
    if rounds == 2:
        assert costs[1] <= costs[0] <= 0.7**0.5 * result["predicted_latency"]["whole_ms"] * (1 + 1e-9)
    predicted = result["predicted_latency"]
    assert predicted["limit_ms"] == pytest.approx(0.7 * predicted["whole_ms"])
    assert 0 < predicted["pruned_ms"] <= predicted["limit_ms"]
    assert path_of(clock_here(config.load_target(target)), Store(store)).is_file()
    (student,) = store.glob("distill-*/result.json")
    assert result["macs"] < json.loads(student.read_text())["result"]["macs"]


@pytest.mark.parametrize(
    ("rounds", "shares", "expected"),
    [
        (1, (0.72, 0.72), ["prune", "quantize"]),
        (1, (0.72, 0.4), ["prune", "prune", "quantize", "quantize"]),
        (2, (0.72, 0.72), ["prune"] * 4 + ["quantize"]),
    ],
    ids=["the same widths", "other widths", "the same widths in two rounds"],
)
def test_clocks_that_want_the_same_widths_share_what_is_trained(
    recipe, tmp_path, store, monkeypatch, rounds, shares, expected
):
    """One thread and two, whose clock is made to go like the first one's at half its speed."""
    shutil.copytree(store, tmp_path / "store")
    recipe.write_text(recipe.read_text().replace("keep = 0.7", f"keep = 0.72\nrounds = {rounds}"))
    host = config.load_target("host")
    runtime = host.runtime.model_copy(update={"num_threads": 2})
    slower = host.model_copy(update={"name": "slower", "runtime": runtime})
    profile, trained, wanted = prune.profile, [], dict(zip(("host", "slower"), shares, strict=True))

    def profiled(target, *rest):
        table = profile(host, *rest)
        monkeypatch.setattr(prune, "_limit", lambda config, whole: whole * wanted[target.name])
        return table if target == host else replace(table, fastest_ms=2 * table.fastest_ms)

    def counted(learn, stage):
        return lambda *args, **more: trained.append(stage) or learn(*args, **more)

    monkeypatch.setattr(prune, "profile", profiled)
    for stage, module in {"prune": prune, "quantize": quantize}.items():
        monkeypatch.setattr(module, "learn", counted(module.learn, stage))
    report = edgekd.compress(
        recipe, targets=[host, slower], store=tmp_path / "store", workdir=tmp_path / "work"
    )
    assert sorted(trained) == expected
    one, other = (s.predicted_latency for s in report.stages if s.name == "prune")
    assert other.whole_ms == pytest.approx(2 * one.whole_ms)
    assert other.limit_ms == pytest.approx(shares[1] * other.whole_ms)
    assert one.pruned_ms <= one.limit_ms and other.pruned_ms <= other.limit_ms
    assert (other.pruned_ms == pytest.approx(2 * one.pruned_ms)) is (shares[0] == shares[1])
    files = {a.target: a.files[0].sha256 for a in report.artifacts if a.role == "target"}
    sizes = {a.target: a.size_bytes for a in report.artifacts if a.role == "target"}
    # The files differ in where they say that they come from.
    assert len({*files.values()}) == 2 and (sizes["slower"] < sizes["host"]) is (shares[0] != shares[1])


def test_a_block_goes_where_no_width_is_fast_enough(recipe, tmp_path, store):
    """Channels may hardly go, so half the time is out of reach unless the one block that can go does."""
    prune = "keep = 0.7\nmax_pruning_ratio = 0.02\nremove_blocks = true"
    recipe.write_text(recipe.read_text().replace("keep = 0.7", prune))
    before = set(store.glob("prune-*/result.json"))
    report = edgekd.compress(recipe, targets=["host"], store=store, workdir=tmp_path / "work")
    (found,) = set(store.glob("prune-*/result.json")) - before
    assert json.loads(found.read_text())["result"]["removed_blocks"] == ["blocks.0"]
    assert [s.removed_blocks for s in report.stages if s.name == "prune"] == [("blocks.0",)]
    # What is left of the student: a stem, the mean and the head; in the file too.
    assert max((a.inventory.int8_ops, a.inventory.float_ops) for a in report.artifacts) == (3, 0)


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_student_keeps_within_a_count_beside_its_latency(recipe, tmp_path, store, rounds):
    """Its latency would leave it nearly whole."""
    text = f"keep = 0.95\nrounds = {rounds}\nwithin = {{ params = 60_000 }}"
    recipe.write_text(recipe.read_text().replace("keep = 0.7", text))
    before = set(store.glob("prune-*/result.json"))
    report = edgekd.compress(recipe, targets=["host"], store=store, workdir=tmp_path / "work")
    (found,) = set(store.glob("prune-*/result.json")) - before
    result = json.loads(found.read_text())["result"]
    assert result["predicted_latency"]["pruned_ms"] <= 0.95 * result["predicted_latency"]["whole_ms"]
    (student,) = store.glob("distill-*/result.json")
    assert json.loads(student.read_text())["result"]["params"] > 160_000
    # Three norms of at most 96 channels have two numbers each, where a file has one bias.
    assert 40_000 < result["params"] <= 60_000 + 3 * 96
    (size,) = (a.size_bytes for a in report.artifacts if a.target == "host")
    assert size < 75_000


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (
            "keep = 0.95\nwithin = { size_bytes = 900 }",
            r"within size_bytes = 900 is out of reach: the smallest network has \d+,\d{3}",
        ),
        ("limit = 0.0000001", r"1e-07 ms on host is out of reach: the smallest network takes 0\.0.* ms"),
        ("limit = 1000.0", r"1000 ms is not below what the student takes on host, 0\.0.* ms"),
    ],
)
def test_a_goal_that_cannot_be_is_told_with_what_can(recipe, tmp_path, store, goal, message):
    recipe.write_text(recipe.read_text().replace("keep = 0.7", goal))
    folders = {"store": store, "workdir": tmp_path / "work"}
    with pytest.raises(UsageError, match=message):
        edgekd.compress(recipe, targets=["host"], until="prune", **folders)


def test_a_goal_out_of_reach_is_told_before_the_teacher_is_trained(recipe, tmp_path, store):
    table_of_the_student(recipe, tmp_path, store)
    recipe.write_text(recipe.read_text().replace("keep = 0.7", "limit = 0.0000001"))
    shutil.copytree(store / "latency", tmp_path / "store" / "latency")
    with pytest.raises(UsageError, match=r"1e-07 ms on host is out of reach"):
        edgekd.compress(
            recipe, targets=["host"], until="prune", store=tmp_path / "store", workdir=tmp_path / "work"
        )
    assert [p.name.partition("-")[0] for p in (tmp_path / "store").glob("*-*")] == ["data"]


def table_of_the_student(recipe, tmp_path, store):
    edgekd.compress(recipe, targets=["host"], until="prune", store=store, workdir=tmp_path / "first")
    return load(path_of(clock_here(config.load_target("host")), Store(store)))


def on_the_board(table):
    """A table under the name of a board, on which everything takes three times as long."""
    there = {"cpu": "Raspberry Pi 4 Model B", "isa": "aarch64", "features": ["asimd"]}
    clock = clock_here(config.load_target("raspberry-pi-4"), there)
    return replace(table, clock=clock, fastest_ms=3 * table.fastest_ms)


def test_a_board_is_pruned_by_the_table_that_was_measured_on_it(recipe, tmp_path, store, monkeypatch):
    on_the_board(table_of_the_student(recipe, tmp_path, store)).save(tmp_path / "there.json")
    monkeypatch.chdir(tmp_path)
    folders, predicted = {"store": store, "workdir": tmp_path / "work"}, {}
    predicted["host"] = edgekd.compress(recipe, targets=["host"], **folders)
    recipe.write_text(recipe.read_text().replace("keep = 0.7", 'keep = 0.7\nlatency_tables = ["there.json"]'))
    monkeypatch.setattr(prune, "profile", None)
    predicted["board"] = edgekd.compress(recipe, targets=["raspberry-pi-4"], **folders)
    here, there = (
        next(s.predicted_latency for s in report.stages if s.name == "prune") for report in predicted.values()
    )
    assert there.whole_ms == pytest.approx(3 * here.whole_ms)
    assert there.pruned_ms == pytest.approx(3 * here.pruned_ms)
    assert there.kind == "measured"


def test_a_table_that_lacks_a_layer_is_told_before_the_teacher_is_trained(recipe, tmp_path, store):
    on_the_board(table_of_the_student(recipe, tmp_path, store)).save(tmp_path / "there.json")
    text = recipe.read_text().replace("width = 96", "width = 96\nstem_stride = 2")
    recipe.write_text(text.replace("keep = 0.7", f'keep = 0.7\nlatency_tables = ["{tmp_path}/there.json"]'))
    folders = {"store": tmp_path / "store", "workdir": tmp_path / "work"}
    with pytest.raises(MeasurementError, match=r"the latency table knows no layer like conv 8x8 k3 s2"):
        edgekd.compress(recipe, targets=["raspberry-pi-4"], until="prune", **folders)
    assert [p.name.partition("-")[0] for p in (tmp_path / "store").glob("*-*")] == ["data"]


def test_a_table_of_a_narrower_student_is_not_drawn_on(recipe, tmp_path, store):
    on_the_board(table_of_the_student(recipe, tmp_path, store)).save(tmp_path / "there.json")
    text = recipe.read_text().replace("width = 96", "width = 128")
    recipe.write_text(text.replace("keep = 0.7", f'keep = 0.7\nlatency_tables = ["{tmp_path}/there.json"]'))
    folders = {"store": tmp_path / "store", "workdir": tmp_path / "work"}
    with pytest.raises(MeasurementError, match=r"given for raspberry-pi-4 has no layer as wide as conv 8x8"):
        edgekd.compress(recipe, targets=["raspberry-pi-4"], until="prune", **folders)
    assert [p.name.partition("-")[0] for p in (tmp_path / "store").glob("*-*")] == ["data"]


def test_what_stays_whole_is_told_before_the_teacher_is_trained(tmp_path):
    """The sum ties the stem to the block's last layer, which the recipe names."""
    text = TINY.replace('kind = "mlp"\nhidden = [32, 32]\n', 'kind = "resnet"\nblocks = [1]\nwidth = 16\n')
    text = text.replace("keep = 0.7", 'keep = 0.7\nignored_layers = ["blocks.0.conv2"]')
    (tmp_path / "r.toml").write_text(text)
    found = Commands(tmp_path, tmp_path / "store")("run", "r.toml", "--until", "prune")
    assert found.returncode == 0, found.stderr
    shown = found.stdout + found.stderr
    assert shown.count("stays whole") == 1
    said = "prune-8: stays whole: stem: it has the channels of the inputs, of the outputs or of a layer that"
    assert shown.index(said) < shown.index("teacher")


def test_a_network_that_begins_with_zeros_can_be_pruned(recipe, tmp_path, monkeypatch):
    """1,536 of its weights are zero before training, and the goal is more than all others."""
    (tmp_path / "zero_nets.py").write_text(
        """
from torch import nn
def begun(shape, classes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 24), nn.Linear(24, classes))
    nn.init.zeros_(net[1].weight)
    return net
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = recipe.read_text().replace('kind = "resnet"\nblocks = [1]\nwidth = 96', 'kind = "zero_nets:begun"')
    recipe.write_text(
        text.replace('goal = "latency_ms"\nkeep = 0.7', 'goal = "nonzero_weights"\nlimit = 1200')
    )
    edgekd.compress(recipe, targets=["host"], until="prune", store=tmp_path / "s", workdir=tmp_path / "work")


def test_a_network_that_targets_share_is_told_as_measured_only_where_it_is_for_all(recipe, tmp_path):
    told = {"whole_ms": 2.0, "pruned_ms": 1.0, "limit_ms": 1.0}
    for targets, kind in ((("host",), "measured"), (("host", "raspberry-pi-4"), "host")):
        plan = plan_of(recipe, tmp_path, *targets)
        (prune,) = [n for n in plan.nodes if n.stage == "prune"]
        assert stage_facts.predicted(plan, prune, told).model_dump() == {**told, "kind": kind}
    assert stage_facts.predicted(plan, plan.node("student"), None) is None
