"""What a run is made from: recipe, targets, objects from Python; before anything is computed."""

import tomllib
from pathlib import Path

import pytest
from runs import TINY

from edgekd.errors import UsageError
from edgekd.nodes import Node
from edgekd.pipeline import estimate_seconds, resolve

HOST = (Path(__file__).parents[1] / "targets/host.toml").read_text()


def recipe(**changes):
    return {**tomllib.loads(TINY), "smoke": False, **changes}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(folder, name, text=HOST, called="host"):
    path = folder / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace('name = "host"', f'name = "{called}"'))
    return path


def test_an_object_takes_the_place_of_all_that_the_recipe_says_of_its_role():
    trained = recipe(teacher={"checkpoint": "old.safetensors", "model": {"kind": "mlp"}})
    chosen, _ = resolve(trained, {"teacher": object()}, {}, None, None)
    assert chosen.teacher.checkpoint is None and chosen.teacher.train is None
    chosen, _ = resolve(recipe(), {"teacher": object()}, {}, None, None)
    assert chosen.teacher.train is None, "the weights that were passed would be trained over"


def test_a_trained_student_from_python_needs_no_distillation():
    chosen, _ = resolve(recipe(distill=None), {"student": object()}, {}, None, None)
    assert chosen.student.model.kind == "object" and chosen.distill is None


def test_a_student_without_weights_and_without_distillation():
    with pytest.raises(UsageError, match=r"has no weights: give student.checkpoint or \[distill\]"):
        resolve(recipe(distill=None), {}, {}, None, None)


@pytest.mark.parametrize("role", ["task", "teacher", "student"])
def test_an_object_that_was_not_passed(role):
    section = {"kind": "object"} if role == "task" else {"model": {"kind": "object"}}
    with pytest.raises(UsageError, match=rf"{role} of kind 'object'.*compress\(\.\.\., {role}="):
        resolve(recipe(**{role: section}), {}, {}, None, None)


def test_targets_may_be_paths_and_are_then_called_by_name(here):
    put(here / "mine", "odd", called="odd")
    paths = ["mine/odd.toml", "x86-onnx"]
    chosen, profiles = resolve(recipe(targets=paths, required_targets=["mine/odd.toml"]), {}, {}, None, None)
    assert chosen.targets == ("odd", "x86-onnx") and chosen.required_targets == ("odd",)
    assert [p.name for p in profiles] == ["odd", "x86-onnx"]


def test_targets_and_policies_may_lie_beside_the_recipe(here):
    put(here / "project/targets", "odd", called="odd")
    path = here / "project/recipe.toml"
    path.write_text(TINY.replace('"host"]', '"odd"]'))
    assert resolve(path, {}, {}, None, None)[1][1].name == "odd"


@pytest.mark.parametrize(
    ("name", "called", "targets", "message"),
    [
        ("odd", "host", ["odd"], r"odd.toml: name = 'host', the file is called 'odd'"),
        ("host", "host", ["x86-onnx", "a/host.toml", "host"], r"two targets are called 'host'"),
        ("export-x", "export-x", ["a/export-x.toml"], "begin with export-"),
    ],
)
def test_targets_that_would_be_mistaken_for_others(here, name, called, targets, message):
    put(here / "a", name, called=called)
    put(here / "targets", name, called=called)
    with pytest.raises(UsageError, match=message):
        resolve(recipe(targets=targets, required_targets=targets[:1]), {}, {}, None, None)


def test_tflite_with_unsigned_activations(here):
    unsigned = HOST.replace("[artifact]", '[artifact]\nactivation_signedness = "unsigned"')
    unsigned = "\n".join(
        line for line in unsigned.splitlines() if not line.startswith('activation_signedness = "signed"')
    )
    put(here / "targets", "odd", unsigned, "odd")
    with pytest.raises(UsageError, match="TFLite activations are signed"):
        resolve(recipe(targets=["odd"], required_targets=["odd"]), {}, {}, None, None)


def test_a_required_target_of_the_wrong_type_is_not_hidden_by_targets():
    with pytest.raises(UsageError, match="required_targets"):
        resolve(recipe(required_targets=5), {}, {}, None, ["host"])


def test_estimates_follow_epochs_and_samples():
    def node(stage, **config):
        return Node(stage, stage, config, {}, "k")

    distill = {"distill": {"epochs": 10}}
    once = estimate_seconds(node("distill", **distill), 1000)
    # The fixed part falls out: ten epochs of another thousand samples.
    assert estimate_seconds(node("distill", **distill), 2000) - once == pytest.approx(10 * 1000 * 0.002)
    assert estimate_seconds(node("distill", **distill), None) is None  # nobody has counted the samples
    assert estimate_seconds(node("network", train=None), 10**6) == estimate_seconds(node("network"), 1)
    ptq = {"quantize": {"method": "ptq", "epochs": 2}}
    assert estimate_seconds(node("quantize", **ptq), 10**6) == estimate_seconds(node("quantize"), 1)
