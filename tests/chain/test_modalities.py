"""A teacher that looks at other inputs of the same samples than its student."""

import json
import tomllib

import numpy as np
import pytest
from runs import TINY
from sklearn.datasets import load_digits

import edgekd
from edgekd.errors import DataError, UsageError


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Students see the upper half of each digit as an image, teachers all of it as a row."""
    digits = load_digits()
    x, y = digits.images.astype(np.float32), digits.target
    found = {}
    for name, part in (("train", slice(0, 800)), ("val", slice(800, 1000)), ("test", slice(1000, 1300))):
        found[f"{name}_x"] = np.ascontiguousarray(x[part, None, :4])
        found[f"{name}_x.whole"] = x[part].reshape(-1, 64)
        found[f"{name}_y"] = y[part]
    return found


def recipe(arrays, folder, **changes):
    np.savez(folder / "two.npz", **arrays)
    chosen = tomllib.loads(TINY) | {"smoke": False, "targets": ["x86-onnx"], "prune": None}
    chosen |= {"task": {"kind": "npz", "path": str(folder / "two.npz")}, "quantize": {"method": "ptq"}}
    chosen["teacher"] = {**chosen["teacher"], "modality": "whole"}
    return chosen | changes


def entries(store, stage):
    return [json.loads(p.read_text())["result"] for p in store.glob(f"{stage}-*/result.json")]


def test_the_whole_chain(arrays, tmp_path):
    chosen = recipe(arrays, tmp_path)
    chosen["distill"] |= {"augment": ["crop"], "views": 3, "epochs": 6}
    report = edgekd.compress(chosen, store=tmp_path / "store", workdir=tmp_path / "work")
    (teacher,) = entries(tmp_path / "store", "network")
    assert teacher["params"] == 64 * 64 * 2 + 128 + 650 and teacher["val_accuracy"] > 85
    (outputs,) = entries(tmp_path / "store", "outputs")
    assert outputs["views"] == 1  # nothing is done to what the teacher looks at
    (student,) = entries(tmp_path / "store", "distill")
    assert student["params"] == 32 * 32 * 2 + 64 + 330 and student["val_accuracy"] > 45
    assert "looks at another modality" in report.teacher.not_exported
    assert report.teacher.metrics[0].value > report.stages[1].metrics[0].value


def test_a_teacher_that_runs_along_sees_its_own_inputs(arrays, tmp_path):
    hint = {"kind": "hint", "student_layer": "body.2", "teacher_layer": "body.2", "weight": 0.1}
    losses = [{"kind": "cross_entropy"}, {"kind": "kd"}, hint]
    chosen = recipe(arrays, tmp_path)
    chosen["distill"] |= {"losses": losses, "epochs": 6, "mix": {"mixup": 0.2}}
    edgekd.compress(chosen, until="student", store=tmp_path / "store", workdir=tmp_path / "work")
    (student,) = entries(tmp_path / "store", "distill")
    assert student["val_accuracy"] > 45
    assert student["history"][-1]["hint"] < student["history"][0]["hint"]


def test_what_is_missing_is_said(arrays, tmp_path):
    chosen = recipe(arrays, tmp_path)
    chosen["teacher"]["modality"] = "sound"
    with pytest.raises(UsageError, match=r"teacher.modality = 'sound': the task has no such.*it has: whole"):
        edgekd.compress(chosen, store=tmp_path / "store", workdir=tmp_path / "work")
    kept = {k: v for k, v in arrays.items() if k != "val_x.whole"}
    with pytest.raises(DataError, match=r"split 'val' .* has the modalities \[\], the task says \['whole'\]"):
        edgekd.compress(recipe(kept, tmp_path), store=tmp_path / "store", workdir=tmp_path / "work")
    broken = {**arrays, "test_x.whole": np.full_like(arrays["test_x.whole"], np.nan)}
    with pytest.raises(DataError, match="split 'test': 300 samples hold NaN"):
        edgekd.compress(recipe(broken, tmp_path), store=tmp_path / "store", workdir=tmp_path / "work")
    with pytest.raises(UsageError, match="what is compressed looks at the task's own inputs"):
        edgekd.compress(recipe(arrays, tmp_path, student=None, distill=None), store=tmp_path / "store")
