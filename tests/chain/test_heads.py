"""A network that answers two questions about a sample: which digit, and whether it is odd."""

import json
import tomllib

import numpy as np
import onnxruntime
import pytest
from runs import TINY
from sklearn.datasets import load_digits

import edgekd
from edgekd.errors import DataError, UsageError


@pytest.fixture(scope="module")
def arrays():
    digits = load_digits()
    x, y = digits.images.astype(np.float32)[:, None], digits.target
    found = {}
    for name, part in (("train", slice(0, 800)), ("val", slice(800, 1000)), ("test", slice(1000, 1300))):
        found |= {f"{name}_x": x[part], f"{name}_y": y[part], f"{name}_y.odd": y[part] % 2}
    return found


def recipe(arrays, folder, **distill):
    np.savez(folder / "two.npz", **arrays)
    chosen = tomllib.loads(TINY) | {"smoke": False, "targets": ["x86-onnx"], "prune": None}
    chosen |= {"task": {"kind": "npz", "path": str(folder / "two.npz")}}
    terms = [
        {"kind": "kd", "temperature": 2.0},
        {"kind": "cross_entropy", "head": "odd", "weight": 0.5},
        {"kind": "mse", "head": "odd", "weight": 0.01},
    ]
    chosen["distill"] |= {"losses": terms, "epochs": 6} | distill
    chosen["quantize"] |= {"losses": terms, "batch_size": 64}
    return chosen


def entries(store, stage):
    return [json.loads(p.read_text())["result"] for p in store.glob(f"{stage}-*/result.json")]


def test_the_whole_chain(arrays, tmp_path):
    store = tmp_path / "store"
    report = edgekd.compress(recipe(arrays, tmp_path), store=store, workdir=tmp_path / "work")
    (teacher,), (student,) = entries(store, "network"), entries(store, "distill")
    assert teacher["val_accuracy"] > 85 and teacher["head_accuracy"]["odd"] > 85
    assert student["val_accuracy"] > 75 and student["head_accuracy"]["odd"] > 80
    assert set(student["history"][0]) == {"epoch", "loss", "lr", "kd", "cross_entropy.odd", "mse.odd"}
    # The file has both answers, and what the report says of them is what it gives.
    (artifact,) = [a for a in report.artifacts if a.role == "target"]
    session = onnxruntime.InferenceSession(tmp_path / "work" / artifact.files[0].path)
    raw = arrays["test_x"]
    mean, std = arrays["train_x"].mean(), arrays["train_x"].std()
    (given,) = session.run(None, {session.get_inputs()[0].name: ((raw - mean) / std).astype(np.float32)})
    assert given.shape == (300, 12)
    right = (given[:, :10].argmax(axis=1) == arrays["test_y"]).mean() * 100
    odd = (given[:, 10:].argmax(axis=1) == arrays["test_y.odd"]).mean() * 100
    assert artifact.metrics[0].value == pytest.approx(right, abs=0.4)
    assert artifact.head_accuracy["odd"] == pytest.approx(odd, abs=0.4) and odd > 80
    assert session.get_modelmeta().custom_metadata_map["edgekd.heads"] == '{"odd": ["0", "1"]}'
    assert artifact.parity.argmax_agreement > 0.9
    assert "Further heads, shown and not judged" in (tmp_path / "work/report.md").read_text()


def test_mixed_and_attacked(arrays, tmp_path):
    chosen = recipe(arrays, tmp_path, mix={"mixup": 0.4}, adversarial={"epsilon": 0.05, "steps": 2})
    folders = {"store": str(tmp_path / "store"), "workdir": str(tmp_path / "work")}  # as text
    edgekd.compress(chosen, until="student", **folders)
    (student,) = entries(tmp_path / "store", "distill")
    assert student["val_accuracy"] > 70 and student["head_accuracy"]["odd"] > 75
    assert 10 < student["robust_accuracy"] < student["val_accuracy"]


def test_a_head_that_is_not_there_is_refused_before_the_teacher_is_trained(arrays, tmp_path):
    chosen = recipe(arrays, tmp_path, losses=[{"kind": "kd", "head": "even"}])
    with pytest.raises(UsageError, match=r"names the head 'even', which the task has not .*odd"):
        edgekd.compress(chosen, store=tmp_path / "store", workdir=tmp_path / "work")
    assert not entries(tmp_path / "store", "network")  # no teacher was trained for it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_y.odd": None}, r"split 'val' has labels of the heads \[\], task 'two' has \['odd'\]"),
        ({"test_y.odd": np.full(300, 2)}, r"split 'test of head odd', sample .*label 2 is outside 0..1"),
        (
            {"train_y.odd": np.zeros(799, int)},
            r"train_y.odd is int64 \(799,\), expected whole",
        ),
    ],
)
def test_labels_of_heads_are_checked(arrays, tmp_path, change, message):
    changed = {k: v for k, v in {**arrays, **change}.items() if v is not None}
    with pytest.raises(DataError, match=message):
        edgekd.compress(recipe(changed, tmp_path), store=tmp_path / "store", workdir=tmp_path / "work")
