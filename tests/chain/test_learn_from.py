"""QAT that learns from the float student, or from it and the teacher together."""

import copy
import json
import tomllib

import numpy as np
import pytest
import torch
from runs import TINY
from scipy.special import softmax
from torch import nn

import edgekd
from edgekd.errors import UsageError


def recipe(learn_from, **quantize):
    made = tomllib.loads(TINY) | {"targets": ["x86-onnx"], "required_targets": ["x86-onnx"]}
    made.pop("prune")
    kd = {"losses": [{"kind": "kd"}], "batch_size": 16}
    made["quantize"] |= kd | {"learn_from": learn_from} | quantize
    return made


def outputs_of(store, made):
    """Those that a stage `made` since, over the training samples: (views, N, classes)."""
    (folder,) = set(store.glob("outputs-*")) - made
    return np.load(folder / "logits.npy").astype(np.float32)


def test_what_qat_is_told(tmp_path):
    store, found, reports = tmp_path / "store", {}, {}
    for who in ("teacher", "student", "both"):
        before = set(store.glob("outputs-*"))
        reports[who] = edgekd.compress(recipe(who), store=store, workdir=tmp_path / who)
        found[who] = outputs_of(store, before)  # the distilled student shares the teacher's
    teacher, student, both = (softmax(found[who], axis=2) for who in ("teacher", "student", "both"))
    assert np.abs(teacher - student).max() > 0.1
    np.testing.assert_allclose(both, (teacher + student) / 2, atol=5e-3)
    for report in reports.values():  # who taught is no stage of the chain
        assert [s.name for s in report.stages] == ["teacher", "distill", "quantize"]
        assert report.teacher.members == ()
    results = [json.loads(p.read_text())["result"] for p in store.glob("quantize-*/result.json")]
    assert len({json.dumps(r["history"]) for r in results}) == 3


def test_what_cannot_teach(tmp_path):
    hint = {"kind": "hint", "student_layer": "body.0", "teacher_layer": "body.0"}
    folders = {"store": tmp_path / "store", "workdir": tmp_path}
    with pytest.raises(UsageError, match="learn_from = 'student' goes with losses on outputs, not on layers"):
        edgekd.compress(recipe("student", losses=[hint]), **folders)
    with pytest.raises(UsageError, match="learn_from = 'both' goes with losses on outputs, not on labels"):
        edgekd.compress(recipe("both", losses=[{"kind": "cross_entropy"}]), **folders)
    with pytest.raises(UsageError, match='learn_from = \'both\' goes with method = "qat", not "ptq"'):
        edgekd.compress(recipe("both", method="ptq"), **folders)
    with pytest.raises(UsageError, match=r'give \[teacher\], or quantize.learn_from = "student"'):
        edgekd.compress(alone("both"), student=network(), **folders)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def alone(learn_from):
    """No teacher: a network of the user's own."""
    made = recipe(learn_from)
    for section in ("teacher", "distill"):
        made.pop(section)
    return made | {"student": {}}


def test_a_network_without_a_teacher_learns_from_itself(tmp_path):
    net, folders = network(), {"store": tmp_path / "store", "workdir": tmp_path / "work"}
    edgekd.compress(alone("student"), student=net, until="data", **folders)
    data = next((tmp_path / "store").glob("data-*"))
    spec = json.loads((data / "task.json").read_text())["input_spec"]
    raw = torch.from_numpy(np.load(data / "train.inputs.npy") / spec["scale"]).float()
    x = (raw - spec["mean"][0]) / spec["std"][0]
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), torch.from_numpy(np.load(data / "train.labels.npy")))
        loss.backward()
        optimizer.step()
    before = copy.deepcopy(net.state_dict())
    report = edgekd.compress(alone("student"), student=net, **folders)
    assert [s.name for s in report.stages] == ["student", "quantize"]
    with torch.no_grad():
        expected = net(x).softmax(dim=1).numpy()
    told = softmax(outputs_of(tmp_path / "store", set())[0], axis=1)
    np.testing.assert_allclose(told, expected, atol=0.02)  # in bf16 where the processor has it
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    (history,) = (
        json.loads(p.read_text())["result"]["history"] for p in tmp_path.glob("store/quantize-*/result.json")
    )
    assert history[0]["loss"] < 0.5
