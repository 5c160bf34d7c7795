"""Students learn from samples that nobody has labelled, beside others or from them alone."""

import json

import numpy as np
import pytest
from runs import TINY
from sklearn.datasets import load_digits

ENDS = TINY.index("[teacher.model]")


@pytest.fixture
def recipe(finished, tmp_path):
    """A run on arrays of digits; the teacher is the float file of the tiny run, which has seen others."""
    copied = finished.copy(tmp_path)
    artifacts = finished.report()["artifacts"]
    teacher = next(a for a in artifacts if a["role"] == "teacher_float" and a["format"] == "onnx")
    path = finished.folder / "runs/tiny-smoke" / teacher["files"][0]["path"]

    def write(distill, drop=(), domain=0.0, labelled=200):
        x, y = load_digits(return_X_y=True)
        x = x.reshape(-1, 1, 8, 8).astype(np.uint8)
        arrays = {
            "train_x": x[:labelled], "train_y": y[:labelled], "val_x": x[1000:1200], "val_y": y[1000:1200],
            "test_x": x[1200:1500], "test_y": y[1200:1500],
            "unlabelled_x": np.clip(x[200:900] + domain, 0, 255).astype(np.uint8),
        }  # fmt: skip
        np.savez(copied.folder / "digits.npz", **{k: v for k, v in arrays.items() if k not in drop})
        text = TINY.replace("smoke = true\n", "").replace(
            'kind = "digits"', 'kind = "npz"\npath = "digits.npz"'
        )
        text = text[: text.index("[teacher.model]")] + f'[teacher]\nfile = "{path}"\n' + student + distill
        copied.write('calibration = "random"\n' + text + "[gate]\nmax_drop_pp = 20.0\n")
        done = copied("run", "recipe.toml", "--until", "student")
        entries = sorted(copied.store.glob("distill-*/result.json"), key=lambda p: p.stat().st_mtime)
        return done, json.loads(entries[-1].read_text())["result"] if entries else None

    student = '[student.model]\nkind = "mlp"\nhidden = [32, 32]\n'
    policy = 'name = "random"\ndescription = ""\nstrategy = "random"\nnum_samples = 64\nobserver = "mse"\n'
    (copied.folder / "calibration").mkdir()
    (copied.folder / "calibration/random.toml").write_text(policy)
    return write


KD = '[distill]\nepochs = 6\nbatch_size = 20\nprecision = "32-true"\n'
KD += 'losses = [{ kind = "kd", temperature = 2.0 }'
QUANTIZE = '[quantize]\nmethod = "ptq"\n'


def test_samples_without_labels_help(recipe):
    with_ce = KD + ', { kind = "cross_entropy" }]\n'
    done, alone = recipe(with_ce + QUANTIZE, labelled=80)
    assert done.returncode == 0, done.stderr
    done, more = recipe(with_ce + "unlabelled_weight = 1.0\n" + QUANTIZE, labelled=80)
    assert done.returncode == 0, done.stderr
    assert "teacher-outputs-unlabelled-" in done.stdout
    # By much: of ten samples nine come without a label.
    assert more["val_accuracy"] > alone["val_accuracy"] + 5, (more["val_accuracy"], alone["val_accuracy"])
    assert more["history"][-1]["cross_entropy"] < more["history"][0]["cross_entropy"]


def test_nothing_has_a_label(recipe):
    done, found = recipe(KD + "]\n" + QUANTIZE, drop=["train_y", "unlabelled_x"])
    assert done.returncode == 0, done.stderr
    assert found["val_accuracy"] > 60 and set(found["history"][0]) == {"epoch", "loss", "lr", "kd"}


@pytest.mark.parametrize(
    ("distill", "drop", "message"),
    [
        (', { kind = "cross_entropy" }]\n', ["train_y"], "the loss 'cross_entropy' needs labels"),
        ("]\nunlabelled_weight = 1.0\n", ["unlabelled_x"], "the task has no split 'unlabelled'"),
        ("]\nunlabelled_weight = 1.0\n", ["train_y"], "train has no labels either"),
        ("]\nunlabelled_weight = 0.0\n", [], "greater than 0"),
        ("]\nreestimate_batch_norm = 'unlabelled'\n", [], "no batch norm in the network"),
    ],
)
def test_what_does_not_fit_is_one_line(recipe, distill, drop, message):
    done, _ = recipe(KD + distill + QUANTIZE, drop=drop)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and len(lines) == 1 and message in lines[0], done.stderr
