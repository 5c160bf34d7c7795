import copy

import pytest
import torch
from pydantic import ValidationError

from edgekd import nodes
from edgekd.config import CalibrationPolicy, Recipe, load_target
from edgekd.emissions import evaluation_of
from edgekd.errors import UsageError
from edgekd.plan import make_plan
from edgekd.store import Store

RECIPE = {
    "name": "r",
    "targets": ["host"],
    "required_targets": ["host"],
    "task": {"kind": "digits"},
    "teacher": {"model": {"kind": "mlp"}, "train": {"epochs": 1}},
    "student": {"model": {"kind": "mlp", "hidden": [32]}},
    "distill": {"epochs": 2, "views": 3, "augment": ["crop"]},
    "prune": {"goal": "macs", "keep": 0.7, "epochs": 1, "views": 3, "augment": ["crop"]},
    "quantize": {"method": "qat"},
    "gate": {"max_drop_pp": 1.0},
}
POLICY = {"name": "p", "description": "", "strategy": "random", "num_samples": 8, "observer": "mse"}


@pytest.fixture
def make(tmp_path):
    store = Store(tmp_path)

    def make(*targets, policy=POLICY, host=None, **changes):
        data = copy.deepcopy(RECIPE)
        for path, value in changes.items():
            place, _, key = path.rpartition("__")
            (data[place] if place else data)[key] = value
        return make_plan(
            Recipe.model_validate(data),
            tuple(load_target(name) for name in targets or ("host",)),
            CalibrationPolicy.model_validate(policy),
            store,
            host or {"cpu": "some", "isa": "x86_64", "features": []},
        )

    return make


def keys(plan):
    return {n.label: n.key for n in plan.nodes}


def changed(first, second):
    """Stages whose key differs."""
    by_label = {n.label: n.stage for n in first.nodes}
    return {by_label[label] for label, key in keys(first).items() if keys(second).get(label) != key}


FILES = {"export", "evaluate", "measure"}


def test_the_same_recipe_has_the_same_keys(make):
    assert keys(make()) == keys(make())


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"distill__lr": 0.01}, {"distill", "prune", "quantize", *FILES}),
        ({"prune__keep": 0.5}, {"prune", "quantize", *FILES}),
        ({"quantize__lr": 0.01}, {"quantize", *FILES}),
        ({"quantize__sensitivity": True}, set()),
        ({"quantize__float_layers": ["head"]}, {"quantize", *FILES}),
        ({"quantize__max_val_drop_pp": 0.5}, {"quantize", *FILES}),
        ({"policy": {**POLICY, "observer": "min_max"}}, {"calibration", "quantize", *FILES}),
        ({"host": {"cpu": "other"}}, {"measure"}),
        ({"gate": {"max_drop_pp": 2.0}}, set()),
        ({"gate": {"metric": "f1_macro", "max_drop": 0.01}}, set()),  # scores on val are kept: told anew
        ({"name": "other", "description": "other"}, set()),
    ],
    ids=[
        "distill",
        "prune",
        "quantize",
        "sensitivity",
        "float",
        "val",
        "calibration",
        "host",
        "gate",
        "metric",
        "name",
    ],
)
def test_what_a_setting_changes_is_what_comes_after_it(make, changes, stages):
    # Which files are measured together gives the measurement its label, so it is a new one each time.
    assert changed(make(), make(**changes)) == stages


def test_what_goes_by_the_judged_metric_is_made_anew_for_another(make):
    other = {"metric": "f1_macro", "max_drop": 0.01}
    patient = {"quantize__patience": 2}
    assert changed(make(**patient), make(**patient, gate=other)) == {"quantize", *FILES}
    found = make(gate=other, quantize__max_val_drop=0.01)
    assert {n.stage for n in found.nodes if "watched" in n.config} == {"quantize", "sensitivity"}
    with pytest.raises(ValidationError, match=r"told by quantize\.max_val_drop_pp"):
        make(quantize__max_val_drop=0.01)
    with pytest.raises(ValidationError, match=r"told by quantize\.max_val_drop\b"):
        make(gate=other, quantize__max_val_drop_pp=1.0)


def test_layers_are_measured_where_it_is_asked_for_or_needed(make):
    def labels(**quantize):
        plan = make(**{f"quantize__{key}": value for key, value in quantize.items()})
        return {n.label: set(n.parents) for n in plan.nodes if n.stage in ("sensitivity", "quantize")}

    (usual,) = labels().values()
    assert labels(sensitivity=True) == {
        "sensitivity-prune-8": {"data", "calibration", "network"},
        "quantize-prune-8": usual,
    }
    assert labels(max_val_drop_pp=0.0)["quantize-prune-8"] == usual | {"sensitivity"}


def test_the_seed_changes_everything(make):
    first = make()
    assert changed(first, make(seed=1)) == {n.stage for n in first.nodes}


def test_a_new_version_of_a_stage_or_a_library_changes_what_uses_it(make, monkeypatch):
    first = make()
    version = nodes.library_version
    monkeypatch.setattr(nodes, "library_version", lambda n: "9" if n == "nncf" else version(n))
    assert changed(first, make()) == {"quantize", *FILES}
    monkeypatch.undo()
    stage = nodes.STAGES["prune"]
    monkeypatch.setitem(nodes.STAGES, "prune", nodes.Stage(stage.module, 99, stage.libraries, stage.seconds))
    assert changed(first, make()) == {"prune", "quantize", *FILES}


def test_stages_stand_behind_what_they_need(make):
    for targets in (("host",), ("x86-onnx", "host", "android-gpu", "arm64-onnx", "raspberry-pi-4")):
        plan = make(*targets)
        seen = set()
        for node in plan.nodes:
            assert set(node.parents.values()) <= seen
            seen.add(node.label)
        assert len(seen) == len(plan.nodes)


def test_targets_share_what_they_can(make):
    plan = make("x86-onnx", "host", "raspberry-pi-4", "raspberry-pi-5", "android-gpu", "arm64-onnx")
    labels = [n.label for n in plan.nodes]
    stages = [n.stage for n in plan.nodes]
    assert (stages.count("distill"), stages.count("outputs")) == (1, 2)  # quantize augments in another way
    multiples = {load_target(t.name).artifact.channel_multiple for t in plan.targets}
    assert stages.count("prune") == len(multiples)
    assert stages.count("quantize") == len(multiples)
    pi_4, pi_5 = plan.emissions["raspberry-pi-4"], plan.emissions["raspberry-pi-5"]
    assert pi_4.export == pi_5.export
    assert set(plan.node(pi_4.export).targets) >= {"raspberry-pi-4", "raspberry-pi-5"}
    assert set(plan.node("student").targets) == {t.name for t in plan.targets}
    assert len(labels) == len(set(labels))


def test_a_signed_and_an_unsigned_file_come_from_one_network(make):
    plan = make("x86-onnx", "arm64-onnx")
    x86, arm = (plan.node(plan.emissions[t].export) for t in ("x86-onnx", "arm64-onnx"))
    assert (x86.config["activations"], arm.config["activations"]) == ("unsigned", "signed")
    assert x86.key != arm.key
    assert x86.parents["model"] == arm.parents["model"]


def test_the_references_are_float_and_measured_beside_the_file(make):
    plan = make()
    emission = plan.emissions["host"]
    measured = set(plan.node(emission.measure).parents.values())
    assert {emission.export, emission.teacher_float, emission.student_float} <= measured
    for label in (emission.teacher_float, emission.student_float):
        assert plan.node(label).config["scheme"] == "fp32"
    assert plan.node(emission.teacher_float).parents["model"] == "teacher"


def test_what_ships_runs_on_the_targets_own_backend_and_the_references_as_they_can(make):
    plan = make("host", "android-gpu", "x86-onnx")
    delegates = {"host": "xnnpack", "android-gpu": "cpu", "x86-onnx": "cpu"}  # a GPU has a stand-in here
    for name, delegate in delegates.items():
        emission = plan.emissions[name]
        assert plan.node(emission.evaluate).config["delegate"] == delegate
        measure = plan.node(emission.measure)
        assert measure.config["delegate"] == delegate
        # The measure stage takes the first file for what ships.
        assert [r for r, label in measure.parents.items() if label == emission.export] == ["artifact0"]
        for label in (emission.teacher_float, emission.student_float):
            assert plan.node(evaluation_of(label)).config["delegate"] == "cpu"


def test_only_a_teacher_that_ships_nothing_may_fail_to_be_exported(make):
    plan = make("host")
    may_fail = {n.label for n in plan.nodes if n.config.get("may_fail")}
    assert may_fail == {plan.emissions["host"].teacher_float}
    alone = make("host", student=None, distill=None, prune=None)
    assert not [n for n in alone.nodes if n.config.get("may_fail")]


def test_a_changed_checkpoint_changes_the_teacher(make, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"one")
    teacher = {"model": {"kind": "mlp"}, "checkpoint": str(path)}
    first = make(teacher=teacher)
    assert keys(first) == keys(make(teacher=teacher))
    path.write_bytes(b"two, and longer")
    assert changed(first, make(teacher=teacher)) >= {"network", "distill", "prune"}


def test_a_missing_checkpoint(make):
    with pytest.raises(UsageError, match=r"teacher.checkpoint = '/absent.pt': no such file"):
        make(teacher={"model": {"kind": "mlp"}, "checkpoint": "/absent.pt"})


def test_static_int8_needs_a_way_to_quantize(make):
    with pytest.raises(UsageError, match=r"scheme static_wi8_ai8, but the recipe has no \[quantize\]"):
        make("x86-onnx", quantize=None)


def test_an_onnx_file_is_not_emitted_as_tflite(make, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"")
    ptq = {"method": "ptq"}
    onnx = {"onnx": str(tmp_path / "net.onnx")}
    changes = {"student": onnx, "distill": None, "prune": None, "quantize": ptq}
    assert make("x86-onnx", **changes).node("student").stage == "file"
    with pytest.raises(UsageError, match=r"can only be emitted as ONNX \(choose ONNX targets"):
        make("android-cpu", **changes)


def test_a_teacher_that_changes_by_one_byte_is_asked_again(make, tmp_path, monkeypatch):
    """Of a function the source and the files that it says it reads count."""
    (tmp_path / "said.py").write_text("def outputs(x): return x\n")
    (tmp_path / "weights.bin").write_bytes(b"01")
    monkeypatch.syspath_prepend(tmp_path)
    teacher = {"function": {"kind": "said:outputs", "files": [str(tmp_path / "weights.bin")]}}
    first = make(teacher=teacher)
    assert not changed(first, make(teacher=teacher))
    (tmp_path / "weights.bin").write_bytes(b"02")
    second = make(teacher=teacher)
    assert {"file", "outputs", "distill"} <= changed(first, second)
    (tmp_path / "said.py").write_text("def outputs(x): return 2 * x\n")
    assert {"file", "outputs", "distill"} <= changed(second, make(teacher=teacher))
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(UsageError, match=r"teacher.function.files = .*weights.bin': no such file"):
        make(teacher=teacher)


def test_what_a_users_function_reads_is_part_of_what_it_makes(make, tmp_path, monkeypatch):
    """Its sources, and files that its options name: of networks, teachers and losses."""
    (tmp_path / "made.py").write_text(
        "def net(shape, classes, weights): pass\n"
        "def outputs(x, weights): return x\n"
        "def squares(batch, weights): pass\n"
    )
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"01")
    monkeypatch.syspath_prepend(tmp_path)
    own = {"weights": str(weights)}
    changes = {
        "network": {"teacher": {"model": {"kind": "made:net", **own}, "train": {"epochs": 1}}},
        "file": {"teacher": {"function": {"kind": "made:outputs", **own}}},
        "distill": {"distill": {"epochs": 1, "losses": [{"kind": "made:squares", **own}]}},
        "prune": {"prune": {"goal": "macs", "keep": 0.5, "epochs": 1,
                            "losses": [{"kind": "made:squares", **own}]}},
        "quantize": {"quantize": {"method": "qat", "losses": [{"kind": "made:squares", **own}]}},
    }  # fmt: skip
    first = {stage: make(**change) for stage, change in changes.items()}
    weights.write_bytes(b"02")
    second = {stage: make(**change) for stage, change in changes.items()}
    (tmp_path / "made.py").write_text((tmp_path / "made.py").read_text() + "# another\n")
    for stage, change in changes.items():
        assert stage in changed(first[stage], second[stage]), stage
        assert stage in changed(second[stage], make(**change)), stage
        assert not changed(make(**change), make(**change))
    assert changed(first["quantize"], second["quantize"]).isdisjoint({"network", "distill", "prune"})


def test_weights_beside_an_onnx_file_are_part_of_it(make, tmp_path, monkeypatch):
    path, beside = tmp_path / "teacher.onnx", tmp_path / "teacher.onnx.data"
    torch.onnx.export(torch.nn.Linear(64, 64).eval(), (torch.ones(1, 64),), path, verbose=False)
    assert beside.is_file()  # by default torch writes two files
    teacher = {"file": str(path)}
    first = make(teacher=teacher)
    whole = beside.read_bytes()
    beside.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert {"file", "outputs", "distill"} <= changed(first, make(teacher=teacher))
    beside.unlink()
    with pytest.raises(UsageError, match=r"teacher.onnx': its weights are not there: .*teacher.onnx.data"):
        make(teacher=teacher)
    beside.write_bytes(whole)
    (tmp_path / "says.py").write_text("def outputs(x): return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    teacher = {"function": {"kind": "says:outputs", "files": [str(path), str(beside)]}}
    first = make(teacher=teacher)
    beside.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert "file" in changed(first, make(teacher=teacher))
    teacher = {"file": str(path)}
    path.write_bytes(b"no model")
    with pytest.raises(UsageError, match=r"teacher.onnx: no ONNX file"):
        make(teacher=teacher)
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match=r"teacher.onnx"):
        make(teacher=teacher)


def test_several_teachers_and_those_between_are_stages_of_their_own(make):
    member = {"model": {"kind": "mlp"}, "train": {"epochs": 1}}
    distill = {"epochs": 1}
    plan = make(
        teacher={"members": [member, {**member, "train": {"epochs": 2}}]},
        assistants=[{"model": {"kind": "mlp", "hidden": [48]}, "distill": distill}],
        distill=distill,
    )
    ensemble, assistant, student = (plan.node(label) for label in ("teacher", "assistant-1", "student"))
    assert ensemble.parents == {"data": "data", "member1": "teacher-1", "member2": "teacher-2"}
    assert plan.node(assistant.parents["outputs"]).parents["teacher"] == "teacher"
    assert plan.node(student.parents["outputs"]).parents["teacher"] == "assistant-1"
    # Pruning and quantization learn from the teacher again.
    (prune,) = [n for n in plan.nodes if n.stage == "prune"]
    assert plan.node(prune.parents["outputs"]).parents["teacher"] == "teacher"
    hint = [{"kind": "hint", "student_layer": "a", "teacher_layer": "b"}]
    other = {**member, "train": {"epochs": 1, "seed": 1}}
    with pytest.raises(UsageError, match="names layers of the teacher, which is no network"):
        make(teacher={"members": [member, other]}, distill={**distill, "losses": hint})


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"members": [{"file": "a.onnx"}]}, "two or more"),
        ({"file": "a.onnx", "function": {"kind": "a:b"}}, "exactly one of"),
        ({"file": "a.onnx", "weights": "confidence"}, "go with teacher.members"),
        ({"members": [{"file": "a.onnx"}, {"file": "a.onnx"}]}, "two teacher.members are the same"),
        (
            {"members": [{"members": [{"file": "a.onnx"}, {"file": "b.onnx"}]}, {"file": "c.onnx"}]},
            "of their own",
        ),
        ({"members": [{"model": {"kind": "object"}}, {"file": "c.onnx"}]}, "cannot be objects"),
        ({"members": [{"file": "a.onnx"}, {"file": "b.onnx"}], "outputs": "probabilities"}, "said of each"),
        ({"function": {"kind": "nowhere"}}, "package.module:function"),
    ],
)
def test_teachers_that_make_no_sense_are_refused(make, teacher, message):
    with pytest.raises(ValueError, match=message):
        make(teacher=teacher)


@pytest.mark.parametrize(("kind", "option"), [("keras", "file"), ("hugging_face", "folder")])
def test_a_network_read_from_a_file_is_known_by_its_content(make, tmp_path, kind, option):
    path = tmp_path / "net.keras" if kind == "keras" else tmp_path / "net"
    content = path if kind == "keras" else path / "config.json"
    content.parent.mkdir(exist_ok=True)
    content.write_bytes(b"1")
    said = {"file": str(path)}, {"model": {"kind": kind, option: str(path)}}
    first = [make(teacher=teacher) for teacher in said]
    content.write_bytes(b"2")
    for before, teacher in zip(first, said, strict=True):
        assert {"network", "outputs", "distill"} <= changed(before, make(teacher=teacher))


def test_a_folder_with_links_to_folders_is_refused(make, tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net/config.json").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "net/variables").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="'variables' in it is a link to a folder"):
        make(teacher={"file": str(tmp_path / "net")})


def test_trainings_of_several_processes_are_others(make, monkeypatch):
    """A step of two has twice the samples."""
    alone = make()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert {"network", "distill", "prune", "quantize"} <= changed(alone, make())
    assert not changed(alone, make()) & {"data", "calibration"}


def test_strengths_that_differ_little_are_told_apart(make):
    plan = make(distill__mix={"mixup": 0.12345671}, prune__mix={"mixup": 0.12345672})
    assert len([n for n in plan.nodes if n.stage == "outputs"]) == 3
    with pytest.raises(ValueError, match="finite number"):
        make(distill__mix={"mixup": float("inf")})


def test_a_teacher_elsewhere_has_no_views_and_no_pasted_parts(make):
    teacher = {"model": {"kind": "mlp"}, "train": {"epochs": 1}, "modality": "text"}
    plan = make(teacher=teacher)
    (outputs,) = [n for n in plan.nodes if n.stage == "outputs" and n.label.endswith("-1")]
    assert outputs.config["augment"] == [] and outputs.config["views"] == 1
    assert all(e.teacher_float is None for e in plan.emissions.values())
    live = [{"kind": "hint", "student_layer": "a", "teacher_layer": "b"}]
    for losses in ([{"kind": "kd"}], live):
        with pytest.raises(UsageError, match=r"the teacher looks at another modality .use mixup"):
            make(teacher=teacher, distill__mix={"cutmix": 1.0}, distill__losses=losses)
