"""What is said of an int8 file before anything is trained for it, and which of its layers are float."""

import json

import pytest
from runs import TINY, Commands

import edgekd
from edgekd.errors import TrainingError, UsageError
from edgekd.quantize import qat

NETS = """
from torch import nn
def smooth(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Mish(), nn.Linear(16, classes))
"""


def test_operators_without_kernels_are_named_before_the_teacher_is_trained(tmp_path):
    command = Commands(tmp_path, tmp_path / "store")
    (command.folder / "odd_nets.py").write_text(NETS)
    text = TINY.replace(
        '[student.model]\nkind = "mlp"\nhidden = [32, 32]\n', '[student.model]\nkind = "odd_nets:smooth"\n'
    )
    assert text != TINY
    (command.folder / "r.toml").write_text(text)
    found = command("run", "r.toml", "--until", "quantize")
    assert found.returncode == 0, found.stderr
    shown = found.stdout + found.stderr
    said = shown.index("student: no 8-bit kernels: mish (1)")
    assert said < shown.index("teacher")
    again = command("run", "r.toml", "--until", "quantize")
    assert "mish" not in again.stdout + again.stderr  # it stands in the report by now


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a store in which networks are trained once."""
    return tmp_path_factory.mktemp("quantize")


def quantized(folder, **settings):
    """(the quantized network's result, the student's, the ranked layers)."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    start, end = TINY.index("[prune]"), TINY.index("[quantize]")
    text = TINY[:start] + TINY[end:].replace('method = "qat"\n', f'method = "ptq"\n{lines}')
    path = folder / "tiny.toml"
    path.write_text(text)
    before = set(folder.glob("store/quantize-*"))
    edgekd.compress(path, until="quantize", store=folder / "store", workdir=folder / "work")
    (new,) = set(folder.glob("store/quantize-*")) - before
    (student,) = folder.glob("store/distill-*")
    ranked = list(folder.glob("store/sensitivity-*"))
    results = [json.loads((entry / "result.json").read_text())["result"] for entry in (new, student, *ranked)]
    return results[0], results[1], results[2]["layers"] if ranked else None


def test_layers_go_back_to_float_until_the_accuracy_on_val_is_kept(folder, monkeypatch):
    right, student, _ = quantized(folder)
    budget = student["val_accuracy"] - right["val_accuracy"] + 3.0
    real = qat.prepare

    def prepare(*arguments):
        """Calibration after which nothing is left of the weights of two layers of three."""
        net = real(*arguments)
        for path, module in net.body.named_modules():
            if ("pre_hooks.body/2" in path or "pre_hooks.head" in path) and hasattr(module, "scale"):
                module.scale.data.mul_(400)
        return net

    monkeypatch.setattr(qat, "prepare", prepare)
    found, _, ranked = quantized(folder, max_val_drop_pp=budget)
    assert sorted(found["float_layers"]) == ["body.2", "head"]
    assert found["val_accuracy"] >= student["val_accuracy"] - budget
    assert {layer["path"] for layer in ranked[:2]} == {"body.2", "head"} and len(ranked) == 3
    errors = [layer["logit_error"] for layer in ranked]
    assert errors == sorted(errors, reverse=True) and errors[1] > 10 * errors[2]


def test_a_drop_that_no_layer_in_float_mends_is_told(folder, monkeypatch):
    real = qat.prepare

    def prepare(*arguments):
        net = real(*arguments)
        net.output.scale.mul_(1e4)  # all logits become zero
        return net

    monkeypatch.setattr(qat, "prepare", prepare)
    with pytest.raises(TrainingError, match=r"max_val_drop_pp = 0\.5: with all layers in float .* still"):
        quantized(folder, max_val_drop_pp=0.5)


def test_named_layers_stay_in_float(folder):
    found, _, ranked = quantized(folder, float_layers=["body.0"], sensitivity=True)
    assert found["float_layers"] == ["body.0"]
    assert ranked is not None


def test_a_layer_that_is_not_there_is_told(folder):
    with pytest.raises(UsageError, match=r"quantize\.float_layers: no layer 'body\.9'"):
        quantized(folder, float_layers=["body.9"])
