"""Teachers of other libraries, alone and together, teach the digits student."""

import json
import tomllib

import numpy as np
import pytest
import torch
from runs import TINY
from safetensors.torch import load_file, save_file
from torch import nn

import edgekd
from edgekd.errors import UsageError


@pytest.fixture(scope="module")
def copied(finished, tmp_path_factory):
    return finished.copy(tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="module")
def own_scores(finished):
    """Of the tiny run's own teacher, whose weights the others here have."""
    (entry,) = finished.store.glob("network-*")
    return np.load(entry / "test_scores.npy")


@pytest.fixture(scope="module")
def dense(finished):
    """Weights (in, out) and biases of the tiny run's teacher: flatten, 64, 64, 10."""
    (entry,) = finished.store.glob("network-*")
    state = load_file(entry / "model.safetensors")
    return [
        (state[f"{name}.weight"].numpy().T, state[f"{name}.bias"].numpy())
        for name in ("body.0", "body.2", "head")
    ]


def taught(copied, teacher, **more):
    """What stands in the store of teacher and student afterwards."""
    recipe = tomllib.loads(TINY) | {"teacher": teacher} | more
    before = set(copied.store.glob("*-*"))
    edgekd.compress(recipe, until="student", store=copied.store, workdir=copied.folder / "work")
    found = {}
    for folder in set(copied.store.glob("*-*")) - before:
        found.setdefault(folder.name.partition("-")[0], []).append(folder)
    return found


def result(folder):
    return json.loads((folder / "result.json").read_text())["result"]


def scores(folder):
    return np.load(folder / "test_scores.npy")


def keras_net(dense, monkeypatch, last=None):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    net = keras.Sequential(
        [
            keras.Input((8, 8, 1)),  # images lie as Keras likes them
            keras.layers.Flatten(),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dense(10, last),
        ]
    )
    for layer, weights in zip(net.layers[1:], dense, strict=True):
        layer.set_weights(weights)
    return net


@pytest.mark.parametrize("ends_in", ["logits", "probabilities"])
def test_a_keras_file(copied, dense, own_scores, tmp_path, ends_in, monkeypatch):
    net = keras_net(dense, monkeypatch, "softmax" if ends_in == "probabilities" else None)
    net.save(tmp_path / "teacher.keras")
    teacher = {"file": str(tmp_path / "teacher.keras")}
    if ends_in == "probabilities":
        with pytest.raises(UsageError, match=r'gives probabilities, not logits.*outputs = "probabilities"'):
            taught(copied, teacher)
        teacher["outputs"] = ends_in
    else:
        with pytest.raises(UsageError, match="gives no probabilities"):
            taught(copied, teacher | {"outputs": "probabilities"})
    found = taught(copied, teacher)
    expected = own_scores
    if ends_in == "probabilities":
        expected = expected - np.log(np.exp(expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(scores(found["network"][0]), expected, atol=1e-3)
    assert result(found["distill"][0])["val_accuracy"] > 40


def test_a_keras_file_stands_beside_its_student(copied, dense, tmp_path, monkeypatch):
    """It is a network of torch like others: it is exported and measured; its layers have no paths there."""
    net = keras_net(dense, monkeypatch)
    net.save(tmp_path / "teacher.keras")
    recipe = tomllib.loads(TINY) | {"teacher": {"file": str(tmp_path / "teacher.keras")}}
    recipe |= {"targets": ["x86-onnx"], "prune": None}
    report = edgekd.compress(recipe, store=copied.store, workdir=tmp_path / "work")
    assert report.teacher.not_exported is None
    (teacher,) = [a for a in report.artifacts if a.role == "teacher_float"]
    assert teacher.format == "onnx"
    (target,) = [a for a in report.artifacts if a.role == "target"]
    assert target.speedup_over_teacher is not None
    hint = {"kind": "hint", "student_layer": "body.3", "teacher_layer": "hidden_2"}
    recipe["distill"] |= {"losses": [{"kind": "cross_entropy"}, hint]}
    with pytest.raises(
        UsageError, match=r"teacher: there is no layer 'hidden_2'; the layers are: body \(10,\)"
    ):
        edgekd.compress(recipe, until="student", store=copied.store, workdir=tmp_path / "work")


def test_a_tensorflow_saved_model(copied, dense, own_scores, tmp_path):
    import tensorflow as tf

    class Net(tf.Module):
        def __init__(self):
            self.layers = [(tf.Variable(w), tf.Variable(b)) for w, b in dense]

        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32, name="image")])
        def __call__(self, image):
            x = tf.reshape(image, (-1, 64))
            for i, (weight, bias) in enumerate(self.layers):
                x = x @ weight + bias
                x = tf.nn.relu(x) if i < 2 else x
            return {"scores": x}

    net = Net()
    tf.saved_model.save(net, str(tmp_path / "saved"), signatures={"serving_default": net.__call__})
    found = taught(copied, {"file": str(tmp_path / "saved")})
    np.testing.assert_allclose(scores(found["file"][0]), own_scores, atol=1e-3)
    assert result(found["distill"][0])["val_accuracy"] > 40
    assert result(found["file"][0])["size_bytes"] > 4 * (64 * 64 * 2 + 128 + 650)


def test_a_hugging_face_folder(copied, tmp_path):
    from sklearn.datasets import load_digits
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=10,
    )
    torch.manual_seed(0)
    net = ViTForImageClassification(config)
    digits = load_digits()
    x = torch.from_numpy(digits.images[:, None]).float()
    x, y = (x - x.mean()) / x.std(), torch.from_numpy(digits.target)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(150):
        picked = torch.arange(step * 64, step * 64 + 64) % 500
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(pixel_values=x[picked]).logits, y[picked]).backward()
        optimizer.step()
    net.save_pretrained(tmp_path / "vit")
    found = taught(copied, {"file": str(tmp_path / "vit")})
    weights = load_file(tmp_path / "vit/model.safetensors")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/config.json").write_bytes((tmp_path / "vit/config.json").read_bytes())
    kept = {k: v for k, v in weights.items() if not k.startswith("classifier")}
    save_file(kept, tmp_path / "torn/model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"has no weights for 'classifier.*drawn at random"):
        taught(copied, {"file": str(tmp_path / "torn")})
    assert result(found["network"][0])["params"] == sum(p.numel() for p in net.parameters())
    assert result(found["network"][0])["val_accuracy"] > 60
    assert result(found["distill"][0])["val_accuracy"] > 30


NETWORK = {"model": {"kind": "mlp", "hidden": [64, 64]}, "train": {"epochs": 4, "batch_size": 16}}
OTHER = {"model": {"kind": "mlp", "hidden": [32]}, "train": {"epochs": 4, "batch_size": 16, "lr": 0.02}}


def training_inputs(copied):
    data = next(copied.store.glob("data-*"))
    raw, spec = np.load(data / "train.inputs.npy"), json.loads((data / "task.json").read_text())["input_spec"]
    return torch.from_numpy(
        ((raw / spec["scale"] - spec["mean"][0]) / spec["std"][0]).reshape(len(raw), -1)
    ).float()


def mlp_logits(folder, x):
    """What the network that a stage left says, layer by layer."""
    state, y = load_file(folder / "model.safetensors"), x
    for name in [n for n in ("body.0", "body.2") if f"{n}.weight" in state]:
        y = torch.relu(y @ state[f"{name}.weight"].T + state[f"{name}.bias"])
    return y @ state["head.weight"].T + state["head.bias"]


def test_it_is_asked_in_the_precision_of_the_training(copied):
    teacher = NETWORK | {"train": {"epochs": 4, "batch_size": 16, "lr": 0.03}}  # no other test has left it
    error, found = {}, {}
    for precision in ("32-true", "bf16-mixed"):
        distill = {"epochs": 1, "batch_size": 16, "precision": precision, "losses": [{"kind": "kd"}]}
        found |= taught(copied, teacher, distill=distill)
        (cached,) = [np.load(f / "logits.npy")[0].astype(np.float32) for f in found["outputs"]]
        exact = mlp_logits(found["network"][0], training_inputs(copied)).numpy()
        error[precision] = np.abs(cached - exact).max() / np.abs(exact).max()
    # Eleven bits of significand in the cache, eight in bfloat16, rounded at each of three layers.
    assert error["32-true"] < 2**-11 + 1e-5 and 2**-10 < error["bf16-mixed"] < 3 * 2**-8


def test_several_at_once(copied):
    members = [NETWORK, OTHER]
    distill = {"epochs": 4, "batch_size": 16, "precision": "32-true"}
    found = taught(copied, {"members": members, "weights": "val_accuracy"}, distill=distill)
    first, second = found["network"]  # a member is the same stage under another name: its role is its own
    (whole,) = found["ensemble"]
    weights = [result(f)["val_accuracy"] for f in (first, second)]
    small = result(first)["params"] < result(second)["params"]
    w = [v / sum(weights) for v in weights]
    if small:
        first, second, w = second, first, w[::-1]
    assert result(whole)["weights"] == pytest.approx(w)
    parts = [np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in (scores(first), scores(second))]
    np.testing.assert_allclose(np.exp(scores(whole)), w[0] * parts[0] + w[1] * parts[1], atol=1e-5)
    # What the student learns from is the same mean, on the training samples, by networks built here.
    (cached,) = [np.load(f / "logits.npy")[0] for f in found["outputs"]]
    x = training_inputs(copied)
    said = [mlp_logits(folder, x).softmax(dim=1).numpy() for folder in (first, second)]
    np.testing.assert_allclose(np.exp(cached.astype(np.float32)), w[0] * said[0] + w[1] * said[1], atol=5e-3)
    assert result(found["distill"][0])["val_accuracy"] > 40


def test_a_teacher_in_between(copied):
    """Teacher, assistant, student: the assistant learns from the teacher, the student from the assistant."""
    kd = {"epochs": 4, "batch_size": 16, "losses": [{"kind": "kd"}]}
    between = {"model": {"kind": "mlp", "hidden": [48, 48]}, "distill": kd}
    found = taught(copied, NETWORK, assistants=[between], distill=kd)
    assistant, student = sorted(found["distill"], key=lambda f: -result(f)["params"])
    # What the student is told is what the assistant says of the training samples.
    ((_, outputs),) = [(f, np.load(f / "logits.npy")) for f in found["outputs"]]
    state, example = load_file(assistant / "model.safetensors"), result(assistant)
    assert outputs.shape[2] == len(state["head.bias"]) and example["params"] == 64 * 48 + 48 * 48 + 96 + 490
    assert result(assistant)["val_accuracy"] > 40 and result(student)["val_accuracy"] > 40
    direct = taught(copied, NETWORK, distill=kd)
    (alone,) = direct["distill"]
    assert result(alone)["history"] != result(student)["history"]


def test_the_report_of_several_teachers_and_one_between(copied, tmp_path):
    kd = {"epochs": 4, "batch_size": 16}
    recipe = tomllib.loads(TINY) | {"teacher": {"members": [NETWORK, OTHER]}, "prune": None}
    between = {"model": {"kind": "mlp", "hidden": [48, 48]}, "distill": kd}
    recipe |= {"targets": ["x86-onnx"], "assistants": [between]}
    report = edgekd.compress(recipe, store=copied.store, workdir=tmp_path)
    chain = [(s.id, s.parent_id) for s in report.stages]
    assert chain[:3] == [("teacher", None), ("assistant-1", "teacher"), ("student", "assistant-1")]
    assert chain[3][1] == "student" and len(chain) == 4
    # Networks that teach as one are written as one, and timed beside the student.
    assert report.teacher.not_exported is None and report.teacher.size_bytes > 4 * report.teacher.params
    floats = {a.role: a for a in report.artifacts if a.role != "target"}
    assert floats["teacher_float"].metrics[0].value == pytest.approx(report.teacher.metrics[0].value, abs=0.3)
    (shipped,) = (a for a in report.artifacts if a.role == "target")
    assert shipped.speedup_over_teacher is not None
    # Each member alone, by its own scores.
    assert [(m.id, m.weight) for m in report.teacher.members] == [("teacher-1", 0.5), ("teacher-2", 0.5)]
    labels = np.load(next(copied.store.glob("data-*")) / "test.labels.npy")
    alone = {}
    for entry in copied.store.glob("network-*"):
        role = json.loads((entry / "architecture.json").read_text())["role"]
        alone[role] = float((scores(entry).argmax(1) == labels).mean() * 100)
    assert alone["teacher-1"] != alone["teacher-2"]
    assert {m.id: m.accuracy for m in report.teacher.members} == pytest.approx(
        {role: alone[role] for role in ("teacher-1", "teacher-2")}
    )
    steps = (tmp_path / "report.md").read_text()
    assert steps.index("Assistant-1") < steps.index("Student, distilled")


SOFT = """
import numpy as np, torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

digits = load_digits()
model = LogisticRegression(C=0.01, max_iter=500).fit(digits.data[:400], digits.target[:400])

def proba(x):
    flat = x.reshape(len(x), -1)
    raw = 16 * (flat - flat.min(axis=1, keepdims=True)) / np.ptp(flat, axis=1, keepdims=True)
    return model.predict_proba(raw)

def softly(shape, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes), torch.nn.Softmax(dim=1))
"""


def test_probabilities_are_announced_or_refused(copied, tmp_path, monkeypatch):
    (tmp_path / "softly_said.py").write_text(SOFT)
    monkeypatch.syspath_prepend(tmp_path)
    teacher = {"function": {"kind": "softly_said:proba"}}
    with pytest.raises(UsageError, match="teacher: gives probabilities, not logits"):
        taught(copied, teacher)
    found = taught(copied, teacher | {"outputs": "probabilities"})
    (cached,) = [np.load(f / "logits.npy")[0].astype(np.float32) for f in found["outputs"]]
    np.testing.assert_allclose(np.exp(cached).sum(axis=1), 1, atol=5e-3)
    assert cached.max() <= 0 and result(found["distill"][0])["val_accuracy"] > 30
    kd = {"epochs": 1, "batch_size": 16}
    with pytest.raises(UsageError, match="assistant-1: gives probabilities"):
        taught(
            copied, NETWORK, assistants=[{"model": {"kind": "softly_said:softly"}, "distill": kd}], distill=kd
        )


def of_torch(copied):
    """The tiny run's own teacher."""
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    (entry,) = [e for e in copied.store.glob("network-*") if (e / "model.safetensors").is_file()][:1]
    state = load_file(entry / "model.safetensors")
    for layer, name in zip((net[1], net[3], net[5]), ("body.0", "body.2", "head"), strict=True):
        layer.weight.data, layer.bias.data = state[f"{name}.weight"], state[f"{name}.bias"]
    return net.eval()


def test_an_onnx_file_with_its_weights_beside_it(copied, finished, own_scores, tmp_path):
    """As torch.onnx writes it by default; it is kept whole."""
    path = tmp_path / "teacher.onnx"
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        of_torch(finished), (torch.ones(2, 1, 8, 8),), path, dynamic_shapes=({0: batch},), verbose=False
    )
    assert (tmp_path / "teacher.onnx.data").is_file()
    found = taught(copied, {"file": str(path)})
    np.testing.assert_allclose(scores(found["file"][0]), own_scores, atol=1e-3)
    assert result(found["file"][0])["size_bytes"] > 4 * (64 * 64 + 64 * 64 + 640)


@pytest.mark.parametrize("name", ["teacher.tflite", "teacher.onnx"])
def test_a_file_that_is_none_is_named_as_the_user_does(copied, tmp_path, name):
    (tmp_path / name).write_bytes(b"\x08\x01no model at all" if name.endswith("tflite") else b"\x08\x08")
    with pytest.raises(UsageError, match=rf"{tmp_path}/{name}: .*cannot load it"):
        taught(copied, {"file": str(tmp_path / name)})


@pytest.mark.parametrize(
    "what", ["teacher.checkpoint", "student.checkpoint", "teacher.file", "teacher.beside", "teacher.gone"]
)
def test_a_file_that_changes_while_the_run_goes_is_not_taken_for_the_planned_one(
    copied, finished, tmp_path, monkeypatch, what
):
    from edgekd.stages import data

    net, load = of_torch(finished), data.run
    role, _, kind = what.partition(".")
    (entry,) = finished.store.glob("network-*" if role == "teacher" else "distill-*")
    path = tmp_path / ("weights.safetensors" if kind == "checkpoint" else "teacher.onnx")
    beside = tmp_path / "teacher.onnx.data"

    def write(scale):
        if kind == "beside" and scale == 2.0:
            beside.write_bytes(bytes(beside.stat().st_size))
        elif kind == "gone" and scale == 2.0:
            path.unlink()
        elif kind != "checkpoint":
            net[5].weight.data *= scale
            apart = kind == "beside"
            torch.onnx.export(net, (torch.ones(1, 1, 8, 8),), path, external_data=apart, verbose=False)
        else:
            state = load_file(entry / "model.safetensors")
            save_file({name: scale * value for name, value in state.items()}, path)

    def changes(*arguments):
        write(2.0)
        return load(*arguments)

    write(1.0)
    recipe = tomllib.loads(TINY)
    if kind != "checkpoint":
        recipe["teacher"] = {"file": str(path)}
    else:
        recipe[role]["checkpoint"] = str(path)
    if role == "teacher":
        recipe["teacher"].pop("train", None)
    monkeypatch.setattr(data, "run", changes)
    named = beside if kind == "beside" else path
    with pytest.raises(
        UsageError, match=rf"{named.name}: gone, or another one than when the run was planned"
    ):
        edgekd.compress(recipe, until="student", store=tmp_path / "store", workdir=tmp_path / "work")
