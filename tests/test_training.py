import copy
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import SPEC, TABLE, images, inputs, quiet, split, tiny_resnet, train_config
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from edgekd import augment, checkpoints, training
from edgekd.batches import TrainingSet, normalise, steps
from edgekd.config import LossConfig
from edgekd.errors import TrainingError
from edgekd.losses import Shapes
from edgekd.objective import Objective
from edgekd.optimizers import learning_rate, make_optimizer
from edgekd.training import fit, predict


def rows(n=35):
    return np.random.default_rng(4).normal(size=(n, 6)).astype(np.float32)


def mlp(dropout=0.0):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Dropout(dropout), nn.Linear(7, 5))


def table(seed=3, teacher=None, views=1):
    return TrainingSet(split(rows()), TABLE, teacher, views, seed)


def run(module, data, config, folder, loss=None):
    folder.mkdir(exist_ok=True)
    objective = Objective([LossConfig(kind="cross_entropy")], "fixed", None)
    if loss is not None:
        objective.functions = [lambda batch, *_: loss(batch.student, batch.labels, batch.teacher)]
    return fit(module, data, objective, config, what="student", display=quiet(), checkpoint=folder)


def test_learning_rate_by_hand():
    config = train_config(epochs=3, lr=0.8, warmup_epochs=1.0)
    found = [learning_rate(config, step, 4) for step in range(12)]
    # Four steps of warm-up: fifths of the peak. Then half a cosine over the eight that are left.
    assert found[:4] == pytest.approx([0.16, 0.32, 0.48, 0.64])
    assert found[4] == pytest.approx(0.8)
    assert found[6] == pytest.approx(0.8 * (1 + math.sqrt(0.5)) / 2)
    assert found[8] == pytest.approx(0.4)
    assert found[10] == pytest.approx(0.8 * (1 - math.sqrt(0.5)) / 2)
    assert found[11] == pytest.approx(0.8 * 0.5 * (1 + math.cos(math.pi * 7 / 8)))


def test_learning_rate_without_warm_up_starts_at_the_peak():
    config = train_config(epochs=2, lr=0.5, warmup_epochs=0.0)
    assert [learning_rate(config, s, 2) for s in range(4)] == pytest.approx(
        [0.5, 0.25 * (1 + math.sqrt(0.5)), 0.25, 0.25 * (1 - math.sqrt(0.5))]
    )


@given(st.integers(1, 6), st.integers(1, 20), st.floats(0, 10))
def test_learning_rate_rises_then_falls_and_never_ends_at_zero(epochs, steps, warmup):
    config = train_config(epochs=epochs, lr=0.1, warmup_epochs=warmup)
    rates = [learning_rate(config, s, steps) for s in range(epochs * steps)]
    peak = int(np.argmax(rates))
    assert all(0 < r <= 0.1 for r in rates)
    assert max(rates) == pytest.approx(0.1)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize(
    "spec", [SPEC, replace(TABLE, mean=tuple(range(6)), std=(2.0, 1.0, 4.0, 3.0, 5.0, 7.0))]
)
def test_normalise_is_what_a_user_of_the_file_is_told(spec):
    raw = images(6) if len(spec.shape) == 3 else rows(6)
    found = normalise(torch.from_numpy(raw), spec).numpy()
    along = (1, -1) + (1,) * (len(spec.shape) - 1)
    by_hand = (raw / spec.scale - np.reshape(spec.mean, along)) / np.reshape(spec.std, along)
    np.testing.assert_allclose(found, by_hand, atol=1e-6)
    np.testing.assert_array_equal(found, spec.preprocess(raw))


def batches_by_hand(n, size, seed, epoch):
    order = np.random.default_rng([seed, epoch, 1]).permutation(n)
    return [np.sort(order[i : i + size]) for i in range(0, n - size + 1, size)]


def sgd_by_hand(module, data, epochs, size, rates):
    """Nesterov momentum 0.9 (Sutskever's form as torch has it), decay 0.1 on matrices only."""
    x, y = torch.from_numpy(data.split.inputs), torch.from_numpy(data.split.labels)
    momentum = {}
    step = 0
    for epoch in range(epochs):
        for picked in batches_by_hand(len(x), size, data.seed, epoch):
            module.zero_grad()
            nn.functional.cross_entropy(module(x[picked]), y[picked]).backward()
            with torch.no_grad():
                for name, p in module.named_parameters():
                    gradient = p.grad + (0.1 * p if p.dim() >= 2 else 0)
                    momentum[name] = gradient + 0.9 * momentum.get(name, torch.zeros_like(p))
                    p -= rates[step] * (gradient + 0.9 * momentum[name])
            step += 1


def test_fit_is_the_loop_written_out_by_hand(tmp_path):
    found, expected, data = mlp(), mlp(), table()
    # 35 samples in batches of 8: four steps an epoch, three samples left out; half an epoch of warm-up.
    rates = [0.05 / 3, 0.1 / 3] + [0.025 * (1 + math.cos(math.pi * k / 10)) for k in range(10)]
    history = run(found, data, train_config(), tmp_path / "a")
    sgd_by_hand(expected, data, 3, 8, rates)
    for name, value in expected.state_dict().items():
        np.testing.assert_allclose(found.state_dict()[name], value, atol=1e-6, err_msg=name)
    assert [h["epoch"] for h in history] == [1, 2, 3]
    assert [h["lr"] for h in history] == pytest.approx([rates[3], rates[7], rates[11]])
    assert not found.training


def test_history_is_the_mean_loss_of_the_epoch(tmp_path):
    seen = []

    def loss(logits, labels, _):
        seen.append(cross_entropy(logits, labels))
        return seen[-1]

    history = run(mlp(), table(), train_config(), tmp_path / "a", loss)
    values = np.array([v.item() for v in seen]).reshape(3, 4)
    assert [h["loss"] for h in history] == pytest.approx(values.mean(axis=1).tolist())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_decay_spares_biases_and_norms(optimizer):
    net = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    net[0].bias.requires_grad_(False)
    made = make_optimizer(net, train_config(optimizer=optimizer, weight_decay=0.3), "student")
    decayed = {id(p): g["weight_decay"] for g in made.param_groups for p in g["params"]}
    found = {name: decayed.get(id(p)) for name, p in net.named_parameters()}
    assert found == {
        "0.weight": 0.3,
        "0.bias": None,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "3.weight": 0.3,
        "3.bias": 0.0,
    }


def test_adamw_step_by_hand(tmp_path):
    net = nn.Sequential(nn.Linear(6, 5))
    start = copy.deepcopy(net.state_dict())
    data = TrainingSet(split(rows(8)), TABLE, None, 1, 0)
    config = train_config(optimizer="adamw", epochs=1, lr=0.01, weight_decay=0.5, warmup_epochs=0)
    run(net, data, config, tmp_path / "a")
    # The first step of Adam moves every weight by lr against the gradient's sign, whatever its size.
    reference = nn.Sequential(nn.Linear(6, 5))
    reference.load_state_dict(start)
    cross_entropy(reference(torch.from_numpy(rows(8))), torch.from_numpy(data.split.labels)).backward()
    weight, bias = reference[0].weight, reference[0].bias
    np.testing.assert_allclose(
        net[0].weight.detach(), (weight * (1 - 0.01 * 0.5) - 0.01 * weight.grad.sign()).detach(), atol=1e-6
    )
    np.testing.assert_allclose(net[0].bias.detach(), (bias - 0.01 * bias.grad.sign()).detach(), atol=1e-6)


def test_gradients_are_clipped_to_the_norm(tmp_path):
    net = nn.Sequential(nn.Linear(6, 5))
    start = copy.deepcopy(net)
    data = TrainingSet(split(rows(8)), TABLE, None, 1, 0)
    config = train_config(epochs=1, lr=1.0, weight_decay=0.0, warmup_epochs=0, grad_clip=1e-3)
    run(net, data, config, tmp_path / "a")
    moved = [(a - b).detach() for a, b in zip(net.parameters(), start.parameters(), strict=True)]
    # The first Nesterov step is 1.9 times the clipped gradient.
    assert math.sqrt(sum(float((m**2).sum()) for m in moved)) == pytest.approx(1.9e-3, rel=1e-3)


class Stop(Exception):
    pass


def image_net():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(6 * 64, 5),
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("stop_at", [1, 7, 13], ids=["in epoch 1", "in epoch 2", "in epoch 3"])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, optimizer, stop_at):
    data = TrainingSet(split(images(40)), SPEC, None, 1, 9)
    config = train_config(optimizer=optimizer, epochs=4, lr=0.01, augment=("crop", "flip"), grad_clip=2.0)
    undisturbed, killed, resumed = image_net(), image_net(), image_net()
    expected = run(undisturbed, data, config, tmp_path / "whole")
    calls = 0

    def dies(logits, labels, _):
        nonlocal calls
        calls += 1
        if calls > stop_at:
            raise Stop
        return cross_entropy(logits, labels)

    with pytest.raises(Stop):
        run(killed, data, config, tmp_path / "killed", dies)
    torch.manual_seed(12345)  # whatever the new process has drawn by then
    assert run(resumed, data, config, tmp_path / "killed") == expected
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_networks_are_trained_in_train_mode(tmp_path):
    net, modes = mlp(0.5).eval(), []

    def loss(logits, labels, _):
        modes.append(net[2].training)
        return cross_entropy(logits, labels)

    run(net, table(), train_config(), tmp_path / "a", loss)
    assert modes == [True] * 12


def test_epochs_done_are_not_done_again(tmp_path):
    data, calls = table(), []

    def loss(logits, labels, _):
        calls.append(1)
        return cross_entropy(logits, labels)

    first, again = mlp(), mlp()
    history = run(first, data, train_config(), tmp_path / "a", loss)
    assert len(calls) == 12
    assert run(again, data, train_config(), tmp_path / "a", loss) == history
    assert len(calls) == 12
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not again.training
    # Only the last state is kept.
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["epoch-3.safetensors", "state.json"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_a_checkpoint_is_written_goes_on_to_the_same_weights(tmp_path, monkeypatch, when):
    data, config = table(), train_config()
    whole, killed, resumed = mlp(0.5), mlp(0.5), mlp(0.5)
    run(whole, data, config, tmp_path / "whole")
    written = checkpoints.write_atomic

    def dies(path, content):
        if when == "after":
            written(path, content)
        if '"epoch": 2' in content:
            raise Stop
        written(path, content)

    monkeypatch.setattr(checkpoints, "write_atomic", dies)
    with pytest.raises(Stop):
        run(killed, data, config, tmp_path / "killed")
    monkeypatch.undo()
    run(resumed, data, config, tmp_path / "killed")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_epoch_and_step(tmp_path, bad):
    calls = 0

    def loss(logits, labels, _):
        nonlocal calls
        calls += 1
        return cross_entropy(logits, labels) * (bad if calls == 7 else 1.0)  # four steps an epoch

    with pytest.raises(TrainingError, match=rf"student: the loss is {bad} at epoch 2, step 3"):
        run(mlp(), table(), train_config(), tmp_path / "a", loss)


class Recorder(nn.Module):
    """A linear layer on the flattened image that keeps what it is trained on."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(128, 5)
        self.fed = []

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            self.fed.append(x.detach().clone())
        return self.layer(x.flatten(1))


def test_each_epoch_has_its_own_view_and_the_teacher_of_that_view(tmp_path):
    data = split(images(20))
    logits = np.random.default_rng(0).normal(size=(2, 20, 5)).astype(np.float16)
    module, got = Recorder(), []

    def loss(student, labels, teacher):
        got.append((labels.numpy(), teacher.numpy()))
        return cross_entropy(student, labels)

    config = train_config(augment=("crop", "flip"), batch_size=10)
    run(module, TrainingSet(data, SPEC, logits, 2, 5), config, tmp_path / "a", loss)
    for epoch, view in enumerate([0, 1, 0]):
        params = augment.draw(20, ["crop", "flip"], (2, 8, 8), 5, view)
        for step, picked in enumerate(batches_by_hand(20, 10, 5, epoch)):
            labels, teacher = got[epoch * 2 + step]
            np.testing.assert_array_equal(labels, data.labels[picked])
            np.testing.assert_array_equal(teacher, logits[view][picked].astype(np.float32))
            moved = augment.apply(
                torch.from_numpy(data.inputs[picked]), torch.from_numpy(params[picked]), SPEC.raw_range[0]
            )
            np.testing.assert_array_equal(module.fed[epoch * 2 + step], SPEC.preprocess(moved.numpy()))


def test_without_a_teacher_no_two_epochs_see_the_same_pixels(tmp_path):
    data = TrainingSet(split(images(20)), SPEC, None, 1, 5)
    module = Recorder()
    run(module, data, train_config(augment=("crop",), batch_size=20, epochs=3), tmp_path / "a")
    for a, b in [(0, 1), (1, 2), (0, 2)]:  # one batch an epoch, in the samples' own order
        assert not torch.equal(module.fed[a], module.fed[b])


def test_order_and_views_go_on_after_earlier_rounds():
    data = TrainingSet(split(images(20)), SPEC, None, 1, 5)
    config = train_config(augment=("crop", "flip"), batch_size=10)
    (expected, *_), (found, *_) = steps(data, config, 2), steps(replace(data, epochs_before=2), config, 0)
    torch.testing.assert_close(found.inputs, expected.inputs)
    torch.testing.assert_close(found.picked, expected.picked)
    assert not torch.equal(found.inputs, next(steps(data, config, 0)).inputs)


def test_a_batch_larger_than_the_data_is_all_of_it(tmp_path):
    module = Recorder()
    run(module, TrainingSet(split(images(7)), SPEC, None, 1, 0), train_config(batch_size=64), tmp_path / "a")
    assert [len(x) for x in module.fed] == [7, 7, 7]
    np.testing.assert_allclose(module.fed[0], inputs(7), atol=1e-6)


@pytest.mark.parametrize("n", [1, 256, 300])
def test_predict_is_the_direct_forward(n):
    net = tiny_resnet().train()
    found = predict(net, images(n), SPEC)
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(inputs(n))).numpy()
    assert found.shape == (n, 5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def crd_objective(folder):
    terms = [
        LossConfig(kind="cross_entropy"),
        LossConfig.model_validate({"kind": "crd", "width": 4, "negatives": 6, "weight": 0.1}),
        LossConfig.model_validate({"kind": "mse", "projection": True}),
    ]
    torch.manual_seed(2)
    return Objective(terms, "gradient_norm", Shapes((5,), (5,), {}, {}, 35, 0))


def test_what_losses_learn_and_remember_survives_a_kill(tmp_path):
    teacher = np.random.default_rng(1).normal(size=(1, 35, 5)).astype(np.float16)

    def train(name, objective, net):
        (tmp_path / name).mkdir(exist_ok=True)
        return fit(
            net,
            table(teacher=teacher),
            objective,
            train_config(optimizer="adamw", lr=0.01),
            what="student",
            display=quiet(),
            checkpoint=tmp_path / name,
        )

    whole, killed, resumed = (crd_objective(tmp_path) for _ in range(3))
    nets = [mlp(0.5) for _ in range(3)]
    history = train("whole", whole, nets[0])
    kinds = ["cross_entropy", "crd", "mse"]
    assert set(history[0]) == {"epoch", "loss", "lr", *kinds, *(f"{kind}_weight" for kind in kinds)}
    asked, own = 0, killed.functions[0]

    def dies(*arguments):
        nonlocal asked
        asked += 1
        if asked == 7:  # in the second of three epochs
            raise Stop
        return own(*arguments)

    killed.functions[0] = dies
    with pytest.raises(Stop):
        train("killed", killed, nets[1])
    torch.manual_seed(999)
    with torch.no_grad():
        for buffer in resumed.states["1"].buffers():
            buffer.add_(1.0)  # what a new process starts with must not matter
    assert train("killed", resumed, nets[2]) == history
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[2].parameters(), strict=True))


def test_a_live_teacher_sees_what_the_student_sees(tmp_path):
    data, teacher, student = split(images(20)), tiny_resnet().eval(), Recorder()
    seen = []

    def loss(batch, *_):
        seen.append(batch)
        return cross_entropy(batch.student, batch.labels)

    before = copy.deepcopy(teacher.state_dict())
    training_set = TrainingSet(data, SPEC, None, 1, 5, teacher, ("layer",), ("stem", "head"))
    objective = Objective([LossConfig(kind="cross_entropy")], "fixed", None)
    objective.functions = [loss]
    config = train_config(augment=("crop", "flip"), batch_size=10)
    fit(student, training_set, objective, config, what="s", display=quiet(), checkpoint=tmp_path)
    for x, batch in zip(student.fed, seen, strict=True):
        with torch.no_grad():
            expected, stem = teacher(x), teacher.stem(x)
        torch.testing.assert_close(batch.teacher, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(batch.teacher_layers["stem"], stem, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(batch.teacher_layers["head"], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(batch.student_layers["layer"], batch.student)
        assert batch.student_layers["layer"].requires_grad and not batch.teacher.requires_grad
    assert [b.progress for b in seen] == pytest.approx([i / 6 for i in range(6)])
    # Neither trained nor moved: its BatchNorms kept their means.
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_order_and_views_have_seeds_of_their_own(tmp_path):
    data = split(images(20))
    config, count = train_config(augment=("crop", "flip"), batch_size=20, epochs=1), itertools.count()

    def fed(seed, order_seed):
        module, name = Recorder(), f"{seed}-{order_seed}-{next(count)}"
        run(module, TrainingSet(data, SPEC, None, 1, seed, order_seed=order_seed), config, tmp_path / name)
        return module.fed[0]

    # A batch of all samples is put into their order: only the views differ.
    assert torch.equal(fed(1, None), fed(1, 8))
    assert not torch.equal(fed(1, None), fed(2, None))
    half = train_config(augment=(), batch_size=10, epochs=1)
    firsts = []
    for order_seed in (None, 1, 8):
        module = Recorder()
        run(
            module,
            TrainingSet(data, SPEC, None, 1, 1, order_seed=order_seed),
            half,
            tmp_path / f"o{order_seed}",
        )
        firsts.append(module.fed[0])
    assert torch.equal(firsts[0], firsts[1]) and not torch.equal(firsts[0], firsts[2])


@pytest.mark.parametrize(("epochs", "steps"), [(3, 10), (1, 7), (20, 50)])
def test_one_cycle_is_torchs_own(epochs, steps):
    config = train_config(epochs=epochs, lr=0.4, schedule="one_cycle")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    expected = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=epochs * steps)
    for step in range(epochs * steps):
        assert learning_rate(config, step, steps) == pytest.approx(expected.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        expected.step()


def test_the_moving_average_of_weights_and_batch_norms_is_kept(tmp_path):
    data = TrainingSet(split(images(24)), SPEC, None, 1, 9)
    nets = {decay: image_net() for decay in (None, 0.3)}
    trail = []
    for decay, net in nets.items():
        states = []

        def watched(logits, labels, _, net=net, states=states):
            states.append({k: v.clone() for k, v in net.state_dict().items()})
            return cross_entropy(logits, labels)

        run(net, data, train_config(ema_decay=decay), tmp_path / str(decay), watched)
        trail.append(states)
    # Averaging changes nothing of the training itself.
    for plain, averaged in zip(*trail, strict=True):
        assert all(torch.equal(plain[k], averaged[k]) for k in plain if "running" not in k)
    # By hand: the weights after each step are those before the next; the first one starts the average.
    after = [*trail[0][1:], nets[None].state_dict()]
    assert 3 / 12 < 0.3 < 4 / 13  # the decay is reached at update 3
    for name, value in nets[0.3].state_dict().items():
        if name.endswith("weight"):
            expected = after[0][name]
            for n, state in enumerate(after[1:], start=1):
                decay = min(0.3, (1 + n) / (10 + n))
                expected = decay * expected + (1 - decay) * state[name]
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    counts = [v.item() for k, v in nets[0.3].state_dict().items() if k.endswith("num_batches_tracked")]
    assert counts and set(counts) == {len(after)}
    assert any(
        not torch.allclose(nets[None].state_dict()[k], nets[0.3].state_dict()[k])
        for k in nets[None].state_dict()
        if "running_mean" in k
    )


def test_a_killed_run_keeps_its_average(tmp_path):
    data = TrainingSet(split(images(24)), SPEC, None, 1, 9)
    config = train_config(ema_decay=0.9)
    whole, killed, resumed = image_net(), image_net(), image_net()
    run(whole, data, config, tmp_path / "whole")
    calls = 0

    def dies(logits, labels, _):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise Stop
        return cross_entropy(logits, labels)

    with pytest.raises(Stop):
        run(killed, data, config, tmp_path / "killed", dies)
    run(resumed, data, config, tmp_path / "killed")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def watched(accuracies, monkeypatch):
    """Scores on val such that the epochs have these accuracies, in order."""
    left = iter(accuracies)

    def scores(module, inputs, spec, device="cpu"):
        right = round(next(left) / 100 * len(inputs))
        labels = split(inputs).labels
        answers = np.where(np.arange(len(inputs)) < right, labels, (labels + 1) % 5)
        return np.eye(5)[answers]

    monkeypatch.setattr(training, "predict", scores)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_training_stops_where_val_gets_no_better_and_keeps_the_best(tmp_path, monkeypatch, ema):
    """Best at epoch 3; two epochs later it is over: the weights are those of three epochs of the five."""
    data = replace(table(), val=split(rows(20)))
    config = train_config(epochs=8, patience=2, ema_decay=ema)
    watched([40, 50, 60, 55, 60, 90], monkeypatch)
    found = mlp()
    history = run(found, data, config, tmp_path / "a")
    assert [h["val_accuracy"] for h in history] == pytest.approx([40, 50, 60, 55, 60])
    # A run that is killed after the third of the same eight epochs has those weights as its last.
    expected, calls = mlp(), 0

    def dies(logits, labels, _):
        nonlocal calls
        calls += 1
        if calls > 12:
            raise Stop
        return cross_entropy(logits, labels)

    watched([40, 50, 60], monkeypatch)
    with pytest.raises(Stop):
        run(expected, data, config, tmp_path / "b", dies)
    kept = load_file(tmp_path / "b" / "epoch-3.safetensors")
    of = "model." if ema is None else "average.module."
    for name, value in found.state_dict().items():
        assert torch.equal(value, kept[of + name]), name


def test_a_killed_run_remembers_how_long_it_has_waited(tmp_path, monkeypatch):
    data, calls = replace(table(), val=split(rows(20))), 0
    config = train_config(epochs=8, patience=2)
    accuracies = [40, 60, 50, 55, 90]
    watched(accuracies, monkeypatch)
    whole, killed, resumed = mlp(), mlp(), mlp()
    expected = run(whole, data, config, tmp_path / "whole")

    def dies(logits, labels, _):
        nonlocal calls
        calls += 1
        if calls > 13:
            raise Stop
        return cross_entropy(logits, labels)

    watched(accuracies, monkeypatch)
    with pytest.raises(Stop):
        run(killed, data, config, tmp_path / "killed", dies)
    watched(accuracies[3:], monkeypatch)
    assert run(resumed, data, config, tmp_path / "killed") == expected
    assert len(expected) == 4
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def bad_once_at(*calls_of):
    calls = 0

    def loss(logits, labels, _):
        nonlocal calls
        calls += 1
        return cross_entropy(logits, labels) * (math.nan if calls in calls_of else 1.0)

    return loss


def test_after_a_nan_the_last_good_epoch_goes_on_with_half_the_rate(tmp_path):
    """Four steps an epoch: the seventh step is bad, so the second epoch is done again, by hand."""
    found, expected, data = mlp(), mlp(), table()
    config = train_config(on_nan="halve_lr")
    history = run(found, data, config, tmp_path / "a", bad_once_at(7))
    rates = [0.05 / 3, 0.1 / 3] + [0.025 * (1 + math.cos(math.pi * k / 10)) for k in range(10)]
    sgd_by_hand(expected, data, 3, 8, rates[:4] + [rate / 2 for rate in rates[4:]])
    for name, value in expected.state_dict().items():
        np.testing.assert_allclose(found.state_dict()[name], value, atol=1e-6, err_msg=name)
    assert [h["lr"] for h in history] == pytest.approx([rates[3], rates[7] / 2, rates[11] / 2])


def test_a_nan_in_the_first_epoch_starts_again(tmp_path):
    found, expected, data = mlp(), mlp(), table()
    told = []
    objective = Objective([LossConfig(kind="cross_entropy")], "fixed", None)
    bad = bad_once_at(2)
    objective.functions = [lambda batch, *_: bad(batch.student, batch.labels, None)]
    (tmp_path / "a").mkdir()
    fit(
        found,
        data,
        objective,
        train_config(on_nan="halve_lr"),
        what="student",
        display=quiet(),
        checkpoint=tmp_path / "a",
        watch=lambda what, epochs: told.append(len(epochs)),
    )
    assert told == [1, 2, 3]  # of an epoch that came to nothing nobody is told
    run(expected, data, train_config(lr=train_config().lr / 2), tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters(), strict=True))


def test_nan_again_and_again_is_an_error_and_the_good_epochs_are_kept(tmp_path):
    with pytest.raises(
        TrainingError,
        match=r"the loss is nan at epoch 2, step 1, with 1/8 of the rate \(lower lr, set grad_clip; look",
    ):
        run(mlp(), table(), train_config(on_nan="halve_lr"), tmp_path / "a", bad_once_at(5, 6, 7, 8))
    state = json.loads((tmp_path / "a" / "state.json").read_text())
    assert len(state["history"]) == 1 and state["rate_scale"] == 1 / 8
    assert (tmp_path / "a" / "epoch-1.safetensors").is_file()


def test_what_a_loss_learns_is_clipped_too(tmp_path):
    """The regressor's gradient counts for the norm: all that moves, moves by the clipped length."""
    logits = np.random.default_rng(1).normal(size=(1, 8, 5)).astype(np.float16)
    terms = [LossConfig.model_validate({"kind": "mse", "projection": True})]
    torch.manual_seed(0)
    objective = Objective(terms, "fixed", Shapes((5,), (5,), {}, {}, 8, 0))
    net = nn.Sequential(nn.Linear(6, 5))
    before = [p.detach().clone() for p in (*net.parameters(), *objective.parameters())]
    assert len(before) > 2
    data = TrainingSet(split(rows(8)), TABLE, logits, 1, 0)
    config = train_config(epochs=1, lr=1.0, weight_decay=0.0, warmup_epochs=0, grad_clip=1e-3)
    fit(net, data, objective, config, what="s", display=quiet(), checkpoint=tmp_path)
    after = [p.detach() for p in (*net.parameters(), *objective.parameters())]
    moved = sum(float(((a - b) ** 2).sum()) for a, b in zip(after, before, strict=True))
    assert math.sqrt(moved) == pytest.approx(1.9e-3, rel=1e-3)


def test_each_epoch_is_told(tmp_path):
    told = []
    objective = Objective([LossConfig(kind="cross_entropy")], "fixed", None)
    history = fit(
        mlp(),
        table(),
        objective,
        train_config(),
        what="student",
        display=quiet(),
        checkpoint=tmp_path,
        watch=lambda what, epochs: told.append((what, [dict(e) for e in epochs])),
    )
    assert told == [("student", history[:n]) for n in (1, 2, 3)]


@pytest.mark.parametrize("last", [4, 12], ids=["of an epoch", "of all"])
def test_a_gradient_that_is_no_number_in_the_last_step_is_no_good_epoch(tmp_path, last):
    calls = 0

    def loss(logits, labels, _):
        nonlocal calls
        calls += 1
        value = cross_entropy(logits, labels)
        return (
            value + (logits.sum() * 0).sqrt() if calls == last else value
        )  # 0, with the slope 0 times infinity

    with pytest.raises(TrainingError, match=rf"the loss is nan at epoch {last // 4}, step 4"):
        run(mlp(), table(), train_config(), tmp_path / "stops", loss)
    calls, found = 0, mlp()
    history = run(found, table(), train_config(on_nan="halve_lr"), tmp_path / "halves", loss)
    assert len(history) == 3 and all(p.isfinite().all() for p in found.parameters())


@pytest.mark.parametrize(
    "terms", [{"kind": "mse", "projection": True}, {"kind": "crd", "width": 4, "negatives": 6}]
)
def test_losses_that_learn_do_so_in_bf16_too(tmp_path, terms):
    teacher = np.random.default_rng(1).normal(size=(1, 35, 5)).astype(np.float16)
    torch.manual_seed(2)
    objective = Objective(
        [LossConfig.model_validate(terms)], "uncertainty", Shapes((5,), (5,), {}, {}, 35, 0)
    )
    before = [p.detach().clone() for p in objective.parameters()]
    config = train_config(precision="bf16-mixed", lr=0.01)
    fit(mlp(), table(teacher=teacher), objective, config, what="s", display=quiet(), checkpoint=tmp_path)
    after = list(objective.parameters())
    assert len(before) >= 2 and not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("decay", [None, 0.9])
def test_masks_and_positions_are_what_they_were(tmp_path, decay):
    """Minus infinity is no divergence, and has no mean; numbers of rows are not rounded."""
    net = nn.Sequential(nn.Linear(6, 5))
    net.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
    net.register_buffer("positions", torch.arange(4096))
    assert len(run(net, table(), train_config(ema_decay=decay), tmp_path / "a")) == 3
    assert torch.equal(net.mask, torch.full((3, 3), -math.inf).triu(1))
    assert torch.equal(net.positions, torch.arange(4096))


class Counts(nn.Linear):
    """What it keeps beside its weights is no number from the second epoch on."""

    def __init__(self):
        super().__init__(6, 5)
        self.register_buffer("kept", torch.zeros(2))

    def forward(self, x):
        self.kept += torch.nan if self.kept[0] == 5 else 1
        return super().forward(x)


def test_what_a_network_keeps_beside_its_weights_must_stay_numbers(tmp_path):
    with pytest.raises(TrainingError, match="the loss is nan at epoch 2"):
        run(Counts(), table(), train_config(), tmp_path / "a")


def test_only_the_judged_head_says_when_to_stop(tmp_path, monkeypatch):
    """The answers of the first three outputs are right; the two behind them are larger, of another head."""
    labels = split(rows(20)).labels % 3
    scores = np.hstack([np.eye(3)[labels], np.full((20, 2), 9.0)])
    monkeypatch.setattr(training, "predict", lambda *_: scores)
    val = replace(split(rows(20)), labels=labels)
    data = replace(table(), val=val, num_classes=3)
    history = run(mlp(), data, train_config(patience=1), tmp_path / "a")
    assert [h["val_accuracy"] for h in history] == [100, 100]


def test_what_losses_learn_does_not_decay():
    learned = nn.Linear(6, 4)
    optimizer = make_optimizer(mlp(), train_config(weight_decay=0.1), "s", learned)
    of = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [of[id(p)] for p in learned.parameters()] == [0.0, 0.0]
    assert 0.1 in of.values()


def test_a_later_round_draws_what_a_later_epoch_would(tmp_path):
    """Of dropout and all else that is drawn: epoch 1 after two others is epoch 3."""
    drawn = {}
    for before, epochs in ((0, 3), (2, 1)):
        seen = drawn.setdefault(before, [])

        def loss(logits, labels, _, seen=seen):
            seen.append(torch.rand(()).item())
            return cross_entropy(logits, labels)

        data = replace(table(), epochs_before=before)
        run(mlp(), data, train_config(epochs=epochs), tmp_path / str(before), loss)
    assert drawn[2] == drawn[0][-len(drawn[2]) :] and len(drawn[0]) == 3 * len(drawn[2])
