"""Every loss against its formula, written a second time in numpy float64, and its gradient checked."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from edgekd import losses
from edgekd.config import LossConfig
from edgekd.losses import Batch, Shapes

LAYERS = {"student_layer": "s", "teacher_layer": "t"}
B, K, N = 6, 4, 40


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def kl(p, q):
    return (p * np.log(p / q)).sum(axis=-1)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def flat(x):
    return x.reshape(len(x), -1)


def cross_entropy(d, smoothing=0.0):
    target = np.eye(K)[d["labels"]] * (1 - smoothing) + smoothing / K
    return -(target * np.log(softmax(d["student"]))).sum(axis=1).mean()


def kd(d, temperature=4.0):
    return (
        temperature**2 * kl(softmax(d["teacher"] / temperature), softmax(d["student"] / temperature)).mean()
    )


def mse(d, projection=None):
    student = d["student"] if projection is None else d["student"] @ projection.T
    return ((student - d["teacher"]) ** 2).mean()


def huber(d, delta=1.0):
    away = np.abs(d["student"] - d["teacher"])
    return np.where(away <= delta, away**2 / 2, delta * (away - delta / 2)).mean()


def contrastive(d, temperature=0.05):
    near = np.exp(unit(d["student"]) @ unit(d["student"]).T / temperature)
    terms = []
    for i in range(B):
        others = [j for j in range(B) if j != i]
        likes = [j for j in others if d["labels"][j] == d["labels"][i]]
        total = sum(near[i, j] for j in others)
        if likes:
            terms.append(np.mean([-np.log(near[i, j] / total) for j in likes]))
    return np.mean(terms)


def dkd(d, alpha=1.0, beta=8.0, temperature=4.0):
    p, q = softmax(d["teacher"] / temperature), softmax(d["student"] / temperature)
    total = 0.0
    for b, y in enumerate(d["labels"]):
        binary = [np.array([x[b, y], 1 - x[b, y]]) for x in (p, q)]
        others = [np.delete(x[b], y) / np.delete(x[b], y).sum() for x in (p, q)]
        total += alpha * kl(*binary) + beta * kl(*others)
    return temperature**2 * total / B


def dist(d, beta=1.0, gamma=1.0, temperature=4.0):
    y, z = softmax(d["student"] / temperature), softmax(d["teacher"] / temperature)
    rows = np.mean([1 - np.corrcoef(y[b], z[b])[0, 1] for b in range(B)])
    columns = np.mean([1 - np.corrcoef(y[:, k], z[:, k])[0, 1] for k in range(K)])
    return temperature**2 * (beta * rows + gamma * columns)


def sigmoid_kd(d, temperature=1.0):
    p, q = sigmoid(d["teacher"] / temperature), sigmoid(d["student"] / temperature)
    return temperature**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()


def listwise(d, temperature=1.0):
    return kl(softmax(d["teacher"] / temperature), softmax(d["student"] / temperature)).mean()


def pairwise_margin(d):
    s, t = d["student"], d["teacher"]
    pairs = [(i, j) for i in range(K) for j in range(i + 1, K)]
    return np.mean([((s[:, i] - s[:, j]) - (t[:, i] - t[:, j])) ** 2 for i, j in pairs])


def cosine(d, projection=None):
    student = d["student"] if projection is None else d["student"] @ projection.T
    return (1 - (unit(student) * unit(d["teacher"])).sum(axis=1)).mean()


def hint(d, projection=None):
    student, teacher = d["s"], d["t"]
    if student.ndim == 4:
        # (B, C, 4, 4) against (B, C', 2, 2): means of 2 x 2 pixels.
        b, c, h, w = student.shape
        student = student.reshape(b, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))
        if projection is not None:
            student = np.einsum("oc,bchw->bohw", projection[:, :, 0, 0], student)
    elif projection is not None:
        student = student @ projection.T
    return ((student - teacher) ** 2).mean() / 2


def attention(d, power=2.0):
    student, teacher = ((np.abs(d[side]) ** power).sum(axis=1) for side in "st")
    b, h, w = student.shape
    student = student.reshape(b, h // 2, 2, w // 2, 2).mean(axis=(2, 4))
    return ((unit(flat(student)) - unit(flat(teacher))) ** 2).sum(axis=1).mean()


def similarity(d):
    student, teacher = (unit(flat(d[side]) @ flat(d[side]).T) for side in "st")
    return np.linalg.norm(student - teacher) ** 2 / B**2


def smooth_l1(x):
    return np.where(np.abs(x) < 1, x**2 / 2, np.abs(x) - 0.5).mean()


def rkd_distance(d):
    found = []
    for side in "st":
        x = flat(d[side])
        lengths = np.array([np.linalg.norm(x[i] - x[j]) for i in range(B) for j in range(B) if i != j])
        found.append(lengths / lengths.mean())
    return smooth_l1(found[0] - found[1])


def rkd_angle(d, max_samples=64):
    found = []
    for side in "st":
        x = flat(d[side])[:max_samples]
        cosines = np.zeros((len(x), len(x), len(x)))
        for j in range(len(x)):
            for i in range(len(x)):
                for k in range(len(x)):
                    if j not in (i, k):
                        cosines[j, i, k] = unit(x[i] - x[j]) @ unit(x[k] - x[j])
        found.append(cosines)
    return smooth_l1(found[0] - found[1])


CASES = [
    ("cross_entropy", cross_entropy, {}),
    ("cross_entropy", cross_entropy, {"smoothing": 0.1}),
    ("kd", kd, {}),
    ("kd", kd, {"temperature": 1.5}),
    ("mse", mse, {}),
    ("mse", mse, {"projection": True}),
    ("huber", huber, {}),
    ("huber", huber, {"delta": 0.3}),
    ("dkd", dkd, {}),
    ("dkd", dkd, {"alpha": 0.5, "beta": 2.0, "temperature": 1.0}),
    ("dist", dist, {}),
    ("dist", dist, {"beta": 2.0, "gamma": 0.5, "temperature": 1.0}),
    ("sigmoid_kd", sigmoid_kd, {}),
    ("sigmoid_kd", sigmoid_kd, {"temperature": 3.0}),
    ("listwise", listwise, {}),
    ("listwise", listwise, {"temperature": 2.0}),
    ("pairwise_margin", pairwise_margin, {}),
    ("cosine", cosine, {}),
    ("cosine", cosine, {"projection": True}),
    ("hint", hint, LAYERS),
    ("attention", attention, LAYERS),
    ("attention", attention, {**LAYERS, "power": 4.0}),
    ("contrastive", contrastive, {"temperature": 0.5}),
    ("similarity", similarity, LAYERS),
    ("rkd_distance", rkd_distance, LAYERS),
    ("rkd_angle", rkd_angle, LAYERS),
    ("rkd_angle", rkd_angle, {**LAYERS, "max_samples": 4}),
]


def data(seed=0, vectors=False):
    """Outputs, labels and two layers: images (B, 3, 4, 4) and (B, 5, 2, 2), or vectors."""
    rng = np.random.default_rng(seed)
    shapes = {"s": (3,), "t": (5,)} if vectors else {"s": (3, 4, 4), "t": (5, 2, 2)}
    found = {side: rng.normal(size=(B, *shape)) for side, shape in shapes.items()}
    for side in ("student", "teacher"):
        found[side] = 2 * rng.normal(size=(B, K))
    return {**found, "labels": rng.integers(0, K, B)}


def prepared(kind, options, d):
    """The function of a loss, its options and its state in float64."""
    config = LossConfig.model_validate({"kind": kind, **options})
    function, state = losses.load(config)
    checked = losses.check(config)
    torch.manual_seed(3)
    shapes = Shapes((K,), (K,), {"s": d["s"].shape[1:]}, {"t": d["t"].shape[1:]}, N, 7)
    made = state(checked, shapes) if state is not None else None
    return function, checked, made if made is None else made.double()


def batch_of(d, student=None, layer=None, index=None):
    return Batch(
        student=torch.from_numpy(d["student"]) if student is None else student,
        teacher=torch.from_numpy(d["teacher"]),
        labels=torch.from_numpy(d["labels"]),
        index=torch.arange(B) if index is None else index,
        student_layers={"s": torch.from_numpy(d["s"]) if layer is None else layer},
        teacher_layers={"t": torch.from_numpy(d["t"])},
    )


def own_options(options):
    return {k: v for k, v in options.items() if k not in LAYERS}


@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
def test_value_is_the_formula_in_float64(kind, formula, options):
    for seed in range(3):
        d = data(seed)
        function, checked, state = prepared(kind, options, d)
        said = own_options(options)
        if isinstance(state, nn.Module):
            said["projection"] = state.weight.detach().numpy()
        expected = formula(d, **said)
        assert function(batch_of(d), checked, state).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_hint_between_vectors():
    d = data(vectors=True)
    function, checked, state = prepared("hint", LAYERS, d)
    expected = hint(d, state.weight.detach().numpy())
    assert function(batch_of(d), checked, state).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
def test_gradient(kind, formula, options):
    d = data(11)
    function, checked, state = prepared(kind, options, d)
    inputs = (
        torch.from_numpy(d["student"]).requires_grad_(True),
        torch.from_numpy(d["s"]).requires_grad_(True),
    )
    assert torch.autograd.gradcheck(
        lambda student, layer: function(batch_of(d, student, layer), checked, state), inputs
    )


def crd(d, state, drawn, index, options):
    """The formula, sample by sample, for memories as they are before the step."""
    sides = {}
    for side, key in (("student", "s"), ("teacher", "t")):
        net = getattr(state, side)
        sides[side] = unit(flat(d[key]) @ net.weight.detach().numpy().T + net.bias.detach().numpy())
    total = 0.0
    for anchor, other in (("student", "teacher"), ("teacher", "student")):
        memory = getattr(state, f"{other}_memory").numpy()
        e = np.zeros((B, 1 + drawn.shape[1]))
        for b in range(B):
            picked = [index[b], *(j + (j >= index[b]) for j in drawn[b])]
            e[b] = np.exp(memory[picked] @ sides[anchor][b] / options["temperature"])
        e /= e.mean() * N
        ratio = drawn.shape[1] / N
        h = e / (e + ratio)
        total += -(np.log(h[:, 0]) + np.log(1 - h[:, 1:]).sum(axis=1)).mean()
    return total, sides


def test_crd_is_the_formula_and_its_memory_moves():
    options = {"width": 5, "negatives": 7, "temperature": 0.5, "momentum": 0.25}
    d = data(2)
    function, checked, state = prepared("crd", {**LAYERS, **options}, d)
    index = torch.tensor([3, 0, 39, 17, 8, 21])
    before = {side: getattr(state, f"{side}_memory").clone().numpy() for side in ("student", "teacher")}
    assert np.allclose(np.linalg.norm(before["student"], axis=1), 1)
    torch.manual_seed(5)
    drawn = torch.randint(0, N - 1, (B, 7)).numpy()
    expected, sides = crd(d, state, drawn, index.numpy(), options)
    torch.manual_seed(5)
    assert function(batch_of(d, index=index), checked, state).item() == pytest.approx(expected, rel=1e-9)
    for side in ("student", "teacher"):
        memory = getattr(state, f"{side}_memory").numpy()
        moved = unit(0.25 * before[side][index] + 0.75 * sides[side])
        np.testing.assert_allclose(memory[index], moved, atol=1e-12)
        left = np.setdiff1d(np.arange(N), index)
        np.testing.assert_array_equal(memory[left], before[side][left])


def test_crd_gradient():
    d = data(2)
    options = {**LAYERS, "width": 3, "negatives": 4, "temperature": 0.5}
    function, checked, state = prepared("crd", options, d)
    state.student_scale.fill_(50.0)
    state.teacher_scale.fill_(50.0)
    layer = torch.from_numpy(d["s"]).requires_grad_(True)

    def value(layer):
        torch.manual_seed(5)
        return function(batch_of(d, layer=layer), checked, copy.deepcopy(state))  # its memory as it is now

    assert torch.autograd.gradcheck(value, (layer,))


def test_crd_never_takes_a_sample_for_its_own_negative():
    d = data(2)
    function, checked, state = prepared("crd", {**LAYERS, "negatives": 500, "width": 4}, d)
    picked = []
    memory = state.teacher_memory

    class Spy:
        def __len__(self):
            return len(memory)

        def __getitem__(self, index):
            picked.append(index.clone() if isinstance(index, torch.Tensor) else index)
            return memory[index]

        def __setitem__(self, index, value):
            memory[index] = value

    del state.teacher_memory
    state.teacher_memory = Spy()
    index = torch.tensor([3, 0, 39, 17, 8, 21])
    function(batch_of(d, index=index), checked, state)
    chosen = picked[0]
    assert torch.equal(chosen[:, 0], index)
    assert not (chosen[:, 1:] == index[:, None]).any()
    for b in range(B):  # of 500 draws from 39 others, none is left out
        assert len(set(chosen[b, 1:].tolist())) == N - 1


def test_every_loss_of_the_table_is_here():
    assert {kind for kind, _, _ in CASES} | {"crd"} == set(losses.LOSSES)
