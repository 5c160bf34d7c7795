"""What users get wrong: one line that names it, the right exit code, no traceback, nothing half-written."""

import gzip
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from model_files import linear_onnx
from runs import TINY
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from edgekd.cli import main


@pytest.fixture
def inside(edgekd, monkeypatch, capsys):
    """`edgekd` in this process: the same `main`, without the seconds that a process takes to start."""
    monkeypatch.chdir(edgekd.folder)
    monkeypatch.setenv("EDGEKD_STORE", str(edgekd.store))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgekd", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, said.out, said.err)

    run.folder, run.store, run.write = edgekd.folder, edgekd.store, edgekd.write
    return run


def refused(done, *words, code=2):
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"


def nothing_half_written(edgekd, *stages):
    """No report, no scraps, and no result of the stages that were refused."""
    assert not list(edgekd.folder.rglob("report.*"))
    assert not list(edgekd.store.glob(".tmp/*"))
    assert not [path for path in edgekd.folder.rglob("*.tmp") if path.is_file()]
    assert not [p for stage in stages for p in edgekd.store.glob(f"{stage}-*")]


def npz_recipe(edgekd, columns=12, **arrays):
    """TINY on an NPZ of our own: 12 features, 3 classes."""
    rng = np.random.default_rng(0)
    sizes = {"train": 150, "val": 60, "test": 60}
    data = {}
    for split, size in sizes.items():
        data[f"{split}_x"] = rng.normal(size=(size, columns)).astype(np.float32)
        data[f"{split}_y"] = np.arange(size) % 3
    np.savez(edgekd.folder / "data.npz", **{**data, **arrays})
    return TINY.replace('kind = "digits"', 'kind = "npz"\npath = "data.npz"')


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("epochs = 4\nbatch_size = 16\n[student", "epocs = 4\nbatch_size = 16\n[student"),
            ("recipe.toml:12", "teacher.train.epocs", "'epochs'"),
        ),
        (("keep = 0.7", 'keep = "most"'), ("recipe.toml:", "prune.keep", "'most'")),
        (("max_drop_pp = 20.0", ""), ("gate: the margin of accuracy is max_drop_pp", "neither")),
        (('goal = "macs"', 'goal = "mac"'), ("prune.goal", "'macs'")),
        (("[gate]", "[gate"), ("recipe.toml", "not valid TOML")),
        (('"x86-onnx", "host"]', '"x86-onx", "host"]'), ("required_targets", "x86-onnx")),
    ],
    ids=["unknown key", "wrong type", "missing key", "bad choice", "no TOML", "target not listed"],
)
def test_a_recipe_that_is_wrong(inside, change, words):
    assert change[0] in TINY
    refused(inside("run", inside.write(TINY.replace(*change, 1))), *words)
    assert not (inside.folder / "runs").exists()


def test_an_unknown_target_recipe_or_schema_names_the_nearest(inside):
    refused(inside("run", inside.write(TINY), "--targets", "raspbery-pi-5"), "raspberry-pi-5")
    refused(inside("run", "digit"), "'digits'")
    refused(inside("schema", "recipes"), "did you mean 'recipe'")
    refused(inside("bench", "nowhere.tflite"), "nowhere.tflite", "no such file")
    refused(inside("run", inside.write(TINY), "--set", "smoke"), "key=value")
    refused(inside("store", "gc", "--max-size", "many"), "many")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('kind = "mlp"\nhidden = [32', 'kind = "mpl"\nhidden = [32'), ("unknown model kind 'mpl'", "'mlp'")),
        (("hidden = [32", "hiden = [32"), ("model kind 'mlp'", "'hiden'", "'hidden'")),
        (
            ('kind = "mlp"\nhidden = [32', 'kind = "small_nets:studnet"\nhidden = [32'),
            ("small_nets", "'student'"),
        ),
    ],
    ids=["kind", "option", "function"],
)
def test_a_student_that_cannot_be_built_is_found_before_the_teacher_trains(inside, change, words):
    (inside.folder / "small_nets.py").write_text("def student(shape, classes, hidden): raise SystemError\n")
    assert change[0] in TINY
    recipe = inside.write(TINY.replace(*change, 1))
    for arguments in (["--dry-run"], []):
        refused(inside("run", recipe, *arguments), *words)
    nothing_half_written(inside, "data", "network")


def test_a_teacher_that_guesses(inside):
    (inside.folder / "untrained.py").write_text("from edgekd.models.mlp import build as net\n")
    recipe = TINY.replace("[teacher.train]\nepochs = 4\nbatch_size = 16\n", "")
    recipe = recipe.replace('kind = "mlp"', 'kind = "untrained:net"', 1)
    refused(inside("run", inside.write(recipe)), "teacher", "by chance", "scale, mean, std")
    nothing_half_written(inside, "network")


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (
            '[{ kind = "cross_entropy" }, { kind = "kd", temperature = 0.0 }]',
            ("[distill] losses.1: loss of kind 'kd'", "temperature = 0.0", "greater than 0"),
        ),
        ('[{ kind = "kd", temperature = { start = 4, end = -1 } }]', ("temperature.end = -1",)),
        ('[{ kind = "kd", weight = 0.0 }, { kind = "cross_entropy", weight = 0 }]', ("weights", "are 0")),
        ('[{ kind = "kd", weight = -0.5 }]', ("distill.losses.0.weight = -0.5",)),
        ('[{ kind = "kdd" }]', ("unknown loss kind 'kdd'", "did you mean 'kd'")),
        ('[{ kind = "kd", temprature = 2.0 }]', ("unknown key 'temprature'", "'temperature'")),
        ("[]", ("distill.losses", "at least 1")),
        ('[{ kind = "small_losses:squres" }]', ("no function 'squres'", "'squares'")),
    ],
)
def test_losses_that_cannot_be_used_are_found_before_anything_runs(inside, losses, words):
    (inside.folder / "small_losses.py").write_text("def squares(batch): raise SystemError\n")
    recipe = inside.write(TINY.replace("[distill]\n", f"[distill]\nlosses = {losses}\n"))
    for arguments in (["--dry-run"], []):
        refused(inside("run", recipe, *arguments), *words)
    nothing_half_written(inside, "data", "network")


def test_a_layer_that_is_not_there(inside):
    hint = '[{ kind = "hint", student_layer = "body.0", teacher_layer = "bodi.0" }]'
    recipe = inside.write(TINY.replace("[distill]\n", f"[distill]\nlosses = {hint}\n"))
    refused(
        inside("run", recipe),
        "teacher: there is no layer 'bodi.0'",
        "body.2 (64,), body.3",
        "did you mean 'body.0'",
    )
    nothing_half_written(inside, "network", "distill")


@pytest.mark.parametrize("table", ["distill", "prune"])
@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (
            'kind = "attention", student_layer = "body.0", teacher_layer = "body.0"',
            ("must both give images",),
        ),
        ('kind = "mse", student_layer = "body.0", teacher_layer = "body.2"', ("(8, 32)", "(8, 64)")),
        (
            'kind = "crd", student_layer = "body", teacher_layer = "bod"',
            ("teacher: there is no layer 'bod'",),
        ),
    ],
)
def test_layers_that_do_not_fit_are_found_before_the_teacher_is_trained(inside, table, loss, words):
    losses = f'losses = [{{ kind = "cross_entropy" }}, {{ {loss} }}]\n'
    refused(inside("run", inside.write(TINY.replace(f"[{table}]\n", f"[{table}]\n{losses}"))), *words)
    nothing_half_written(inside, "network", "distill")


def test_a_missing_or_truncated_data_file(inside):
    recipe = TINY.replace('kind = "digits"', 'kind = "idx"\npath = "mnist"\nnum_test = 10\nnum_val = 10')
    refused(inside("run", inside.write(recipe)), "mnist")
    folder = inside.folder / "mnist"
    folder.mkdir()
    whole = gzip.compress(bytes([0, 0, 8, 3, 0, 0, 0, 60, 0, 0, 0, 4, 0, 0, 0, 4]) + bytes(60 * 16))
    (folder / "train-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 60]) + bytes(range(10)) * 6)
    )
    refused(inside("run", inside.write(recipe)), "train-images-idx3-ubyte.gz")


def test_an_unset_variable_in_a_path(inside):
    recipe = TINY.replace('kind = "digits"', 'kind = "npz"\npath = "$NO_SUCH_VARIABLE/data.npz"')
    refused(inside("run", inside.write(recipe)), "NO_SUCH_VARIABLE")


def test_a_label_outside_the_range(inside):
    labels = np.arange(150) % 3
    labels[7] = -1
    refused(inside("run", inside.write(npz_recipe(inside, train_y=labels))), "-1")
    nothing_half_written(inside, "data")


def test_a_sample_that_stands_in_train_and_in_test(inside):
    rng = np.random.default_rng(1)
    train = rng.normal(size=(150, 12)).astype(np.float32)
    test = rng.normal(size=(60, 12)).astype(np.float32)
    test[3] = train[5]
    done = inside("run", inside.write(npz_recipe(inside, train_x=train, test_x=test)))
    refused(done, "1 samples", "drop_from_train")
    nothing_half_written(inside, "data")


def test_a_pickle_where_a_checkpoint_is_expected(edgekd):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (edgekd.folder / "owned",))

    (edgekd.folder / "teacher.pt").write_bytes(pickle.dumps(Evil()))
    recipe = TINY.replace("[teacher.model]", '[teacher]\ncheckpoint = "teacher.pt"\n[teacher.model]')
    recipe = recipe.replace("[teacher.train]\nepochs = 4\nbatch_size = 16\n", "")
    refused(edgekd("run", edgekd.write(recipe)), "teacher.pt", "not a checkpoint")
    assert not (edgekd.folder / "owned").exists()


def test_a_student_with_other_classes_than_the_task(edgekd):
    (edgekd.folder / "small_nets.py").write_text(
        "from torch import nn\n"
        "def seven(input_shape, num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))\n"
    )
    recipe = TINY.replace(
        '[student.model]\nkind = "mlp"\nhidden = [32, 32]', '[student.model]\nkind = "small_nets:seven"'
    )
    refused(edgekd("run", edgekd.write(recipe)), "student", "(1, 7)", "10 classes")


def test_a_loss_that_is_not_a_number(edgekd):
    recipe = TINY.replace("[teacher.train]\nepochs = 4", "[teacher.train]\nepochs = 4\nlr = 1e30")
    refused(edgekd("run", edgekd.write(recipe)), "teacher", "epoch", "step", code=4)
    nothing_half_written(edgekd, "network", "distill")


def test_an_operator_that_the_format_cannot_express(edgekd):
    (edgekd.folder / "small_nets.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Spectrum(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        return self.head(torch.linalg.svd(x.flatten(1).reshape(-1, 8, 8))[0].flatten(1))\n"
        "def spectrum(input_shape, num_classes):\n"
        "    return Spectrum()\n"
    )
    recipe = TINY.replace(
        '[student.model]\nkind = "mlp"\nhidden = [32, 32]', '[student.model]\nkind = "small_nets:spectrum"'
    )
    start = recipe.index("[prune]")
    recipe = recipe[:start] + recipe[recipe.index("[gate]") :]
    (edgekd.folder / "targets").mkdir()
    text = (Path(__file__).parents[2] / "targets/x86-onnx.toml").read_text()
    text = text.replace('"static_wi8_ai8"', '"fp32"').replace('"x86-onnx"', '"float-onnx"')
    (edgekd.folder / "targets/float-onnx.toml").write_text(text)
    done = edgekd("run", edgekd.write(recipe), "--targets", "float-onnx")
    refused(done, "ONNX", "svd", code=4)
    nothing_half_written(edgekd, "export")


def test_no_space_left(edgekd, small_disk):
    (small_disk / "filler").write_bytes(b"x" * 950_000)
    edgekd.store = small_disk / "store"
    refused(edgekd("run", edgekd.write(TINY)), "no space left")
    nothing_half_written(edgekd, "data")


@pytest.mark.parametrize(
    ("kind", "shipped", "change", "words"),
    [
        (
            "targets",
            "host",
            ("channel_multiple", "channel_multipel"),
            ("channel_multipel", "'channel_multiple'"),
        ),
        ("calibration", "stratified-512", ("observer", "obsrver"), ("obsrver", "'observer'")),
    ],
)
def test_a_target_or_policy_file_that_is_wrong(inside, kind, shipped, change, words):
    text = (Path(__file__).parents[2] / kind / f"{shipped}.toml").read_text()
    line = next(n for n, line in enumerate(text.splitlines(), 1) if line.startswith(change[0]))
    (inside.folder / kind).mkdir()
    (inside.folder / kind / f"{shipped}.toml").write_text(text.replace(*change, 1))
    refused(inside("run", inside.write(TINY)), f"{shipped}.toml:{line}", *words)
    nothing_half_written(inside)


def test_an_onnx_file_with_other_classes_than_the_task(inside):
    linear_onnx(inside.folder / "seven.onnx", np.ones((64, 7)), np.zeros(7))
    end = TINY.index("[gate]")
    recipe = npz_recipe(inside, columns=64).split("[teacher.model]")[0].replace(', "host"', "")
    recipe += '[student]\nonnx = "seven.onnx"\n[quantize]\nmethod = "ptq"\n' + TINY[end:]
    refused(inside("run", inside.write(recipe)), "seven.onnx", "7 outputs", "3 classes")
    nothing_half_written(inside, "onnx_file")


def test_a_workdir_that_is_a_file(inside):
    (inside.folder / "taken").write_text("mine")
    refused(inside("run", inside.write(TINY), "--workdir", "taken"), "taken", "a file, not a folder")
    assert (inside.folder / "taken").read_text() == "mine"


def test_a_record_of_a_run_that_is_damaged(inside):
    (inside.folder / "w").mkdir()
    for text in ("", "{}", '{"nodes": 3}', "[]"):
        (inside.folder / "w/run.json").write_text(text)
        refused(inside("report", "w"), "run.json", "damaged")


NAN = """
import torch
from torch import nn

class Breaks(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)
    def forward(self, x):
        out = self.head(x.flatten(1))
        return torch.where(out.argmax(dim=1, keepdim=True) == 3, float("nan"), out)

def teacher(shape, classes):
    return Breaks()
"""


@pytest.mark.parametrize("live", [False, True])
def test_a_teacher_that_gives_nan(inside, live):
    """It knows the task but for one class: that it breaks there shows on the training samples."""
    (inside.folder / "breaks.py").write_text(NAN)
    text = TINY[: TINY.index("[teacher.model]")] + TINY[TINY.index("[student.model]") :]
    hint = 'losses = [{ kind = "kd" }, { kind = "hint", student_layer = "head", teacher_layer = "head" }]\n'
    text = text.replace("[distill]\n", "[distill]\n" + (hint if live else ""))
    digits = load_digits()
    x = (digits.data - digits.data.mean()) / digits.data.std()
    fitted = LogisticRegression(C=0.01, max_iter=300).fit(x[:600], digits.target[:600])
    state = {"head.weight": fitted.coef_.copy("C"), "head.bias": fitted.intercept_}
    save_file({k: v.astype(np.float32) for k, v in state.items()}, inside.folder / "t.safetensors")
    text += '[teacher]\ncheckpoint = "t.safetensors"\n[teacher.model]\nkind = "breaks:teacher"\n'
    cached = ("teacher: output for sample", "not a finite fp16 number")
    refused(inside("run", inside.write(text)), *(("the teacher gives [nan",) if live else cached), code=4)
    nothing_half_written(inside, "distill")
