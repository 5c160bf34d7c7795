"""What is said of an int8 file before anything is trained for it, and which of its layers are float."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from nets import task
from runs import TINY, Commands
from safetensors.torch import load_file
from torch import nn

import edgekd
from edgekd import config
from edgekd.errors import ExportError, TrainingError, UsageError
from edgekd.latency import timing
from edgekd.latency.profile import clock_here, path_of
from edgekd.layers import Layer
from edgekd.progress import Display
from edgekd.quantize import mixed, qat
from edgekd.stages import float_layers
from edgekd.store import Store

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


NORMS = """
from torch import nn
class Before(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem, self.norm, self.conv = nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8), nn.Conv1d(8, 8, 1)
        self.head = nn.Linear(8, classes)
    def forward(self, x):
        x = self.stem(x.flatten(1, 2))
        x = x + self.conv(self.norm(x).relu())
        return self.head(x.mean(2))
def before(shape, classes):
    return Before(classes)
def inputs(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 16), nn.Linear(16, classes))
"""


@pytest.mark.parametrize("kind", ["before", "inputs"])
def test_norms_that_cannot_be_quantized_are_told_before_the_teacher_is_trained(kind, tmp_path, monkeypatch):
    (tmp_path / "norm_nets.py").write_text(NORMS)
    monkeypatch.syspath_prepend(tmp_path)
    text = recipe().replace('kind = "mlp"\nhidden = [32, 32]\n', f'kind = "norm_nets:{kind}"\n', 1)
    (tmp_path / "r.toml").write_text(text)
    folders = {"store": tmp_path / "store", "workdir": tmp_path / "work"}
    if kind == "before":
        with pytest.raises(
            ExportError, match=r"Before: NNCF cannot quantize it: .*\(norm: a norm of torch\.nn"
        ):
            edgekd.compress(tmp_path / "r.toml", until="quantize", **folders)
        assert [p.name.partition("-")[0] for p in (tmp_path / "store").glob("*-*")] == ["data"]
    else:  # it stays in float
        edgekd.compress(tmp_path / "r.toml", until="quantize", **folders)


def recipe(method="ptq", **settings):
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    start, end = TINY.index("[prune]"), TINY.index("[quantize]")
    return TINY[:start] + TINY[end:].replace('method = "qat"\n', f'method = "{method}"\n{lines}')


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store that holds the student and nothing of what comes after it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.toml").write_text(recipe())
    edgekd.compress(folder / "tiny.toml", until="student", store=folder / "store", workdir=folder / "work")
    return folder / "store"


@pytest.fixture
def folder(tmp_path, trained, monkeypatch):
    # Other tests run meanwhile: every turn of a clock counts, however slow.
    monkeypatch.setattr(timing, "FULL_SPEED", 1e9)
    monkeypatch.setattr(timing, "MAX_ROUNDS", 3)
    shutil.copytree(trained, tmp_path / "store")
    return tmp_path


def quantized(folder, method="ptq", **settings):
    """(the quantized network's result, the student's, the ranked layers, the quantizers' description)."""
    (folder / "tiny.toml").write_text(recipe(method, **settings))
    before = set(folder.glob("store/quantize-*"))
    edgekd.compress(folder / "tiny.toml", until="quantize", store=folder / "store", workdir=folder / "work")
    (new,) = set(folder.glob("store/quantize-*")) - before
    (student,) = folder.glob("store/distill-*")
    ranked = list(folder.glob("store/sensitivity-*"))
    found = [json.loads((entry / "result.json").read_text())["result"] for entry in (new, student, *ranked)]
    return found[0], found[1], found[2]["layers"] if ranked else None, (new / "architecture.json").read_text()


def spoil(monkeypatch, *layers):
    """From now on nothing is left of these layers' weights once they are calibrated."""
    real = qat.prepare

    def prepare(*arguments):
        net = real(*arguments)
        for path, module in net.body.named_modules():
            if any(f"pre_hooks.{layer}" in path for layer in layers) and hasattr(module, "scale"):
                module.scale.data.mul_(400)
        return net

    monkeypatch.setattr(qat, "prepare", prepare)


def test_layers_go_back_to_float_until_the_accuracy_on_val_is_kept(folder, monkeypatch):
    right, student, _, _ = quantized(folder)
    budget = student["val_accuracy"] - right["val_accuracy"] + 3.0
    spoil(monkeypatch, "body/2", "head")
    found, _, ranked, _ = quantized(folder, max_val_drop_pp=budget)
    assert sorted(found["float_layers"]) == ["body.2", "head"]
    assert found["val_accuracy"] >= student["val_accuracy"] - budget
    assert {clock.split()[0]: set(costs) for clock, costs in found["float_costs_ms"].items()} == {
        "litert": {"body.2", "head"},
        "onnxruntime": {"body.2", "head"},
    }
    assert {layer["path"] for layer in ranked[:2]} == {"body.2", "head"} and len(ranked) == 3
    errors = [layer["logit_error"] for layer in ranked]
    assert errors == sorted(errors, reverse=True) and errors[1] > 10 * errors[2]


# Layers of the tiny student -> what the made-up clock says: in integers, and in float.
CLOCK = {
    "host": {"1-64-32": (3, 5), "1-32-32": (3, 13), "1-32-10": (1, 9)},
    "x86-onnx": {"1-64-32": (6, 26), "1-32-32": (6, 16), "1-32-10": (2, 12)},
}


def test_layers_in_float_are_weighed_by_the_clocks_of_all_targets(folder, monkeypatch):
    """Shares by hand: host 2, 10 and 8 of 20, x86-onnx 20, 10 and 10 of 40."""
    right, student, _, _ = quantized(folder)
    spoil(monkeypatch, "body/2")
    weighed, real = [], mixed.cheapest

    class Costs:
        def __init__(self, table):
            self.said = CLOCK[table.target]

        def of(self, layer):
            said = self.said[f"1-{layer.in_channels}-{layer.out_channels}"]
            return SimpleNamespace(value=said[layer.in_float])

    def cheapest(ranked, costs, fits):
        weighed.append(costs)
        return real(ranked, costs, fits)

    monkeypatch.setattr(float_layers, "Costs", Costs)
    monkeypatch.setattr(
        float_layers, "in_either", lambda to, *_: SimpleNamespace(unit_ms=0.5, target=to.name)
    )
    monkeypatch.setattr(mixed, "cheapest", cheapest)
    found, *_ = quantized(folder, max_val_drop_pp=student["val_accuracy"] - right["val_accuracy"] + 3.0)
    assert weighed == [pytest.approx({"body.0": 0.1 + 0.5, "body.2": 0.5 + 0.25, "head": 0.4 + 0.25})]
    assert found["float_layers"] == ["body.2"]
    assert [costs for _, costs in found["float_costs_ms"].items()] == [{"body.2": 5.0}] * 2


def test_targets_of_one_clock_have_one_voice_and_those_without_none(folder, monkeypatch):
    """Two of one clock here, ONNX Runtime's, a GPU that is not here, a scheme without tables."""
    right, student, _, _ = quantized(folder)
    spoil(monkeypatch, "body/2")
    host, gpu = config.load_target("host"), {"name": "litert", "delegate": "gpu", "num_threads": 1}
    more = {"runtime": config.RuntimeConfig.model_validate(gpu), "name": "gpu"}
    targets = [host, host.model_copy(update={"name": "again"}), config.load_target("x86-onnx")]
    asked, real = [], float_layers.in_either

    def in_either(target, *rest):
        asked.append(target.name)
        return real(target, *rest)

    monkeypatch.setattr(float_layers, "in_either", in_either)
    (folder / "tiny.toml").write_text(
        recipe("ptq", max_val_drop_pp=student["val_accuracy"] - right["val_accuracy"] + 3.0)
    )
    edgekd.compress(
        folder / "tiny.toml",
        targets=[config.load_target("android-gpu"), *targets, host.model_copy(update=more)],
        until="quantize",
        store=folder / "store",
        workdir=folder / "work",
    )
    assert asked == ["host", "x86-onnx"]


def test_where_tables_do_not_know_a_network_its_layers_are_weighed_by_their_work(folder, monkeypatch, capsys):
    right, student, _, _ = quantized(folder)
    spoil(monkeypatch, "body/2")
    weighed, real = [], mixed.cheapest

    def unknown(*_):
        raise UsageError("operator aten.erf is not in latency tables")

    def cheapest(ranked, costs, fits):
        weighed.append(costs)
        return real(ranked, costs, fits)

    monkeypatch.setattr(float_layers, "layers_at", unknown)
    monkeypatch.setattr(mixed, "cheapest", cheapest)
    monkeypatch.setattr(Display, "line", lambda self, text: print(text))
    found, *_ = quantized(folder, max_val_drop_pp=student["val_accuracy"] - right["val_accuracy"] + 3.0)
    assert weighed == [{"body.0": 64 * 32, "body.2": 32 * 32, "head": 32 * 10}]
    assert found["float_layers"] == ["body.2"] and found["float_costs_ms"] == {}
    assert "weighed by multiply-accumulates: operator aten.erf" in capsys.readouterr().out


class Shared(nn.Module):
    """Two layers with one weight, of which the second is called twice; one that is no call of its module."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(128, 8), nn.Linear(8, 5)
        self.b, self.c, self.apart = (nn.Linear(8, 8) for _ in range(3))
        self.c.weight = self.b.weight

    def forward(self, x):
        x = self.c(self.c(self.b(self.a(x.flatten(1)))))
        return self.head(nn.functional.linear(x, self.apart.weight))


def test_the_time_of_a_layer_is_that_of_all_that_has_its_weights():
    net, context = Shared(), SimpleNamespace(task=task())
    found = float_layers._within(net, ["a", "b", "head"], context)
    eight = Layer("linear", 1, 1, 8, 8)
    first, last = Layer("linear", 1, 1, 128, 8), Layer("linear", 1, 1, 8, 5)
    assert found == {"a": [first], "b": [eight] * 3, "head": [last]}
    with pytest.raises(UsageError, match="'apart' is not called as a module"):
        float_layers._within(net, ["a", "apart"], context)
    with pytest.raises(UsageError, match=r"'b\.bias' is no module"):
        float_layers._within(net, ["b.bias"], context)


def test_a_table_that_cannot_be_read_is_an_error_and_no_reason_to_count_multiplications(folder, monkeypatch):
    right, student, _, _ = quantized(folder)
    spoil(monkeypatch, "body/2")
    table = path_of(clock_here(config.load_target("host")), Store(folder / "store"))
    table.parent.mkdir(exist_ok=True)
    table.write_text("{}")
    with pytest.raises(UsageError, match="not a latency table"):
        quantized(folder, max_val_drop_pp=student["val_accuracy"] - right["val_accuracy"] + 3.0)


def test_what_ships_is_what_was_judged_with_weights_in_16_bits_too(folder, monkeypatch):
    """A network that is only good while its weights are not rounded: no layer in float would do."""
    right, student, _, _ = quantized(folder)
    spoil(monkeypatch, "body/2")
    real = mixed.round_to_halves

    def destroyed(net, paths):
        for path in paths:
            net.body.get_submodule(path).weight.data.zero_()
        real(net, paths)

    monkeypatch.setattr(mixed, "round_to_halves", destroyed)
    budget = student["val_accuracy"] - right["val_accuracy"] + 3.0
    with pytest.raises(TrainingError, match="with all layers in float the accuracy on val is still"):
        quantized(folder, max_val_drop_pp=budget, float_weights="fp16")


def test_layers_named_and_layers_needed_make_one_network(folder, monkeypatch):
    spoil(monkeypatch, "body/2", "head")
    named, student, _, text = quantized(folder, float_layers=["body.2", "head"])
    budget = max(student["val_accuracy"] - named["val_accuracy"], 0.0)
    assert "body/3/relu/0__0" not in text  # between the two
    found, _, _, again = quantized(folder, float_layers=["body.2"], max_val_drop_pp=budget)
    assert found["float_layers"] == ["body.2", "head"]
    assert found["val_accuracy"] == named["val_accuracy"]
    assert json.loads(again)["quantizers"] == json.loads(text)["quantizers"]


def test_layers_named_stay_in_float_through_training(folder):
    found, _, _, text = quantized(folder, "qat", float_layers=["body.0"], max_val_drop_pp=90)
    assert found["float_layers"] == ["body.0"] and len(found["history"]) == 1
    assert "body/0/linear/0__1" not in text and "body/2/linear/0__1" in text


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
    _, _, ranked, text = quantized(folder)
    assert ranked is None and "body/0/linear/0__1" in text
    found, _, ranked, text = quantized(folder, float_layers=["body.0"], sensitivity=True)
    assert found["float_layers"] == ["body.0"]
    assert len(ranked) == 3
    assert "body/0/linear/0__1" not in text and "body/2/linear/0__1" in text


def test_a_layer_that_is_not_there_is_told_before_anything_is_trained(tmp_path):
    (tmp_path / "tiny.toml").write_text(recipe(float_layers=["body.9"]))
    with pytest.raises(UsageError, match=r"quantize\.float_layers: no layer 'body\.9'"):
        edgekd.compress(
            tmp_path / "tiny.toml", until="quantize", store=tmp_path / "s", workdir=tmp_path / "w"
        )
    assert [p.name.partition("-")[0] for p in (tmp_path / "s").glob("*-*")] == ["data"]


def test_weights_of_layers_in_float_are_rounded_where_16_bits_are_asked_for(folder):
    quantized(folder, float_layers=["body.2"])
    quantized(folder, float_layers=["body.2"], float_weights="fp16")
    found = sorted(folder.glob("store/quantize-*"), key=lambda entry: entry.stat().st_mtime)
    whole, half = (load_file(entry / "model.safetensors") for entry in found[-2:])
    changed = [name for name in whole if not torch.equal(whole[name], half[name])]
    assert changed == ["body.body.2.weight"]
    assert torch.equal(half[changed[0]], whole[changed[0]].half().float())


def test_16_bits_for_no_layer_are_refused(tmp_path):
    (tmp_path / "tiny.toml").write_text(recipe(float_weights="fp16"))
    with pytest.raises(UsageError, match="float_weights is about layers left in float"):
        edgekd.compress(tmp_path / "tiny.toml", store=tmp_path / "s", workdir=tmp_path / "w")


@pytest.mark.parametrize(
    ("key", "value"), [("sensitivity", True), ("float_layers", ["a"]), ("max_val_drop_pp", 0.0)]
)
def test_layers_of_an_onnx_file_cannot_be_chosen(tmp_path, key, value):
    text = recipe(**{key: value})
    start, end = text.index("[student.model]"), text.index("[quantize]")
    (tmp_path / "tiny.toml").write_text(text[:start] + '[student]\nonnx = "a.onnx"\n' + text[end:])
    with pytest.raises(UsageError, match=rf"quantize\.{key} works on a network"):
        edgekd.compress(tmp_path / "tiny.toml", store=tmp_path / "s", workdir=tmp_path / "w")


def test_ranges_are_learned_or_stay_as_calibrated(folder):
    """Against calibration alone: fixed, only the layers' weights have moved; learned, all have."""
    found = {}
    for name, (method, settings) in {
        "ptq": ("ptq", {}),
        "fixed": ("qat", {"ranges": "fixed"}),
        "learned": ("qat", {"ranges": "learned"}),
    }.items():
        before = set(folder.glob("store/quantize-*"))
        quantized(folder, method, **settings)
        (new,) = set(folder.glob("store/quantize-*")) - before
        found[name] = load_file(new / "model.safetensors")
    moved = {
        name: {key for key, value in found[name].items() if not torch.equal(value, found["ptq"][key])}
        for name in ("fixed", "learned")
    }
    layers = {"body.0.weight", "body.2.weight", "head.weight", "body.0.bias", "body.2.bias", "head.bias"}
    assert {key.partition("body.")[2] for key in moved["fixed"]} == layers
    ranges = moved["learned"] - moved["fixed"]
    # Three layers' weights, and what three of them are fed.
    assert sorted(key.rpartition(".")[2] for key in ranges) == ["input_range"] * 3 + ["scale"] * 3
