import numpy as np
import pytest
import torch
from nets import SPEC, TABLE, images, quiet, split, tiny_resnet, train_config
from sklearn.datasets import load_digits
from torch import nn

from edgekd.adversarial import attack, robust_predictions, wrong_about
from edgekd.batches import TrainingSet, normalise
from edgekd.config import AdversarialConfig, LossConfig
from edgekd.losses import Batch
from edgekd.objective import Objective
from edgekd.training import fit
from edgekd.types import ACCURACY, InputSpec, Split, Task

WIDE = InputSpec("row", (6,), "NC", "float32", (-100.0, 100.0), 2.0, (1.0,) * 6, (0.5,) * 6)


def labels_of(n):
    return torch.arange(n) % 5


def wrong(labels):
    return lambda outputs: nn.functional.cross_entropy(outputs, labels, reduction="sum")


def test_of_a_linear_network_the_worst_sample_is_known():
    """Two logits: the margin falls by epsilon times the sum of |w|, and each value moves to an end."""
    torch.manual_seed(0)
    net = nn.Linear(6, 2).double()
    x = torch.randn(9, 6, dtype=torch.float64)
    labels = torch.arange(9) % 2
    config = AdversarialConfig(epsilon=0.001, steps=5)
    found = attack(net, x, wrong(labels), config, WIDE)
    radius = 0.001 * 200 / 2.0 / 0.5  # a share of the raw range, as the inputs are prepared
    away = (net.weight[1] - net.weight[0]).detach()  # towards class 1
    direction = torch.where((labels == 1)[:, None], -away.sign(), away.sign())
    torch.testing.assert_close(found, x + radius * direction)


@pytest.mark.parametrize("epsilon", [0.02, 0.3, 1.0])
def test_values_stay_within_epsilon_and_within_the_raw_range(epsilon):
    net, raw = tiny_resnet(), images(12)
    x = normalise(torch.from_numpy(raw), SPEC)
    found = attack(net, x, wrong(labels_of(12)), AdversarialConfig(epsilon=epsilon), SPEC)
    along = (1, -1, 1, 1)
    back = (
        found * torch.tensor(SPEC.std).reshape(along) + torch.tensor(SPEC.mean).reshape(along)
    ) * SPEC.scale
    low, high = SPEC.raw_range
    assert back.min() >= low - 1e-3 and back.max() <= high + 1e-3
    moved = (back - torch.from_numpy(raw).float()).abs()
    assert moved.max() <= epsilon * (high - low) + 1e-3 and moved.max() > 0.5 * epsilon * (high - low)
    with torch.no_grad():
        net.eval()
        assert wrong(labels_of(12))(net(found)) > wrong(labels_of(12))(net(x))


def test_the_network_is_left_as_it_was():
    net = tiny_resnet().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = normalise(torch.from_numpy(images(4)), SPEC)
    attack(net, x, wrong(labels_of(4)), AdversarialConfig(epsilon=0.1), SPEC)
    assert net.training and all(p.grad is None for p in net.parameters())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_students_are_driven_from_the_teacher_and_others_from_the_labels():
    teacher, student = torch.randn(4, 5).double(), torch.randn(4, 5).double()
    p, q = teacher.softmax(1), student.softmax(1)
    batch = Batch(student, teacher, None, torch.arange(4))
    assert wrong_about(batch)(student).item() == pytest.approx((p * (p / q).log()).sum().item())
    labels = torch.tensor([1, -1, 0, 2])
    both = Batch(student, teacher, labels, torch.arange(4))
    assert wrong_about(both)(student).item() == pytest.approx(wrong_about(batch)(student).item())
    found = wrong_about(Batch(student, None, labels, torch.arange(4)))(student).item()
    assert found == pytest.approx(-sum(q[i, labels[i]].log().item() for i in (0, 2, 3)))


def test_a_mixed_sample_is_driven_from_both_its_labels_by_their_shares():
    student = torch.randn(3, 5).double()
    labels, others = torch.tensor([0, 1, -1]), torch.tensor([4, 1, -1])
    shares = torch.tensor([0.25, 0.5, 0.9]).double()
    batch = Batch(student, None, labels, torch.arange(3), other_labels=others, shares=shares)
    logs = student.log_softmax(1)
    expected = -(0.25 * logs[0, 0] + 0.75 * logs[0, 4] + logs[1, 1]).item()
    assert wrong_about(batch)(student).item() == pytest.approx(expected)


def test_the_start_is_drawn_from_the_whole_ball():
    """Where nothing pulls, the attack ends where it began: spread evenly, and elsewhere with another seed."""
    net = nn.Linear(6, 5)
    nn.init.zeros_(net.weight)
    x, ends = torch.zeros(2000, 6), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        ends.append(attack(net, x, wrong(labels_of(2000)), AdversarialConfig(epsilon=0.1), TABLE))
    radius = 0.1 * 6.0
    assert ends[0].std().item() == pytest.approx(radius / 3**0.5, rel=0.03)
    assert ends[0].abs().max() <= radius * 1.0001 and not torch.equal(*ends)


def test_robust_accuracy_is_by_twenty_steps_at_least():
    passes, net = [], nn.Linear(6, 3)
    net.register_forward_hook(lambda *_: passes.append(1))
    rows = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    task = Task("t", {"test": Split("test", np.arange(9).astype(str), rows, np.arange(9) % 3)}, (ACCURACY,),
                TABLE, ("x", "y", "z"))  # fmt: skip
    for asked, made in ((2, 20), (23, 23)):
        passes.clear()
        robust_predictions(net, task, AdversarialConfig(epsilon=0.1, steps=asked), 0, quiet())
        assert len(passes) == made + 1


def test_of_several_heads_the_judged_one_is_attacked():
    """Three outputs are judged; the two behind them, whatever they are, change nothing."""
    teacher, student = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    labels = torch.tensor([1, 2, 0, 2])
    for told in (teacher, None):
        alone = wrong_about(Batch(student, told, labels, torch.arange(4)))(student).item()
        further = [torch.cat((x, 9 * torch.randn(4, 2).double()), dim=1) for x in (student, teacher)]
        batch = Batch(further[0], None if told is None else further[1], labels, torch.arange(4))
        assert wrong_about(batch, 3)(further[0]).item() == pytest.approx(alone)
    net = nn.Linear(6, 5)
    rows = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    test = Split("test", np.arange(9).astype(str), rows, np.arange(9) % 3)
    config = AdversarialConfig(epsilon=0.1, steps=2)
    found = []
    for heads in ({}, {"further": ("a", "b")}):
        task = Task("t", {"test": test}, (ACCURACY,), TABLE, ("x", "y", "z"), heads=heads)
        found.append(robust_predictions(net, task, config, 0, quiet()))
        with torch.no_grad():
            net.weight[3:] += 7.0  # of the further head alone
    assert found[0].shape == (9, 3) and np.array_equal(found[0], found[1])


def test_losses_on_labels_see_the_clean_sample_and_others_the_attacked():
    student, clean, teacher = (torch.randn(6, 5) for _ in range(3))
    labels = labels_of(6)
    batch = Batch(student, teacher, labels, torch.arange(6), clean=clean)
    both = Objective([LossConfig(kind="cross_entropy"), LossConfig(kind="huber")], "fixed", None)
    expected = nn.functional.cross_entropy(clean, labels) + nn.functional.huber_loss(student, teacher)
    assert both(batch, []).item() == pytest.approx(expected.item(), rel=1e-6)
    alone = Objective([LossConfig(kind="cross_entropy")], "fixed", None)
    found = alone(Batch(student, None, labels, torch.arange(6), clean=clean), [])
    assert found.item() == pytest.approx(nn.functional.cross_entropy(student, labels).item())


def test_training_against_attacks_makes_them_harder(tmp_path):
    digits = load_digits()
    x, y = digits.data.astype(np.float32), digits.target.astype(np.int64)
    spec = InputSpec("row", (64,), "NC", "float32", (0.0, 16.0), 16.0, (0.3,) * 64, (0.4,) * 64)
    parts = {n: Split(n, np.arange(len(y[s])).astype(str), x[s], y[s]) for n, s in (
        ("train", slice(0, 1200)), ("test", slice(1200, 1600)))}  # fmt: skip
    task, test = Task("digits", parts, (ACCURACY,), spec, tuple("0123456789")), parts["test"]
    config = AdversarialConfig(epsilon=0.1, steps=4)
    robust, clean = {}, {}
    for name, chosen in (("plain", None), ("hardened", config)):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        (tmp_path / name).mkdir()
        fit(
            net,
            TrainingSet(parts["train"], spec, None, 1, 0),
            Objective([LossConfig(kind="cross_entropy")], "fixed", None),
            train_config(epochs=8, batch_size=64, lr=0.05, weight_decay=0.0, adversarial=chosen),
            what="s",
            display=quiet(),
            checkpoint=tmp_path / name,
        )
        scores = robust_predictions(net, task, config, 0, quiet())
        robust[name] = (scores.argmax(axis=1) == test.labels).mean()
        with torch.no_grad():
            found = net(torch.from_numpy(spec.preprocess(test.inputs))).argmax(dim=1).numpy()
        clean[name] = (found == test.labels).mean()
    assert min(clean.values()) > 0.85
    assert robust["hardened"] > robust["plain"] + 0.1
    assert robust["plain"] < clean["plain"] - 0.2


def test_a_killed_run_is_attacked_again_in_the_same_way(tmp_path):
    """The random starts are drawn from the epoch's own seed."""
    nets, rows = [], np.random.default_rng(0).normal(size=(35, 6)).astype(np.float32)
    for name in ("a", "b"):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5))
        (tmp_path / name).mkdir()
        torch.manual_seed(len(nets))
        fit(
            net,
            TrainingSet(split(rows), TABLE, None, 1, 3),
            Objective([LossConfig(kind="cross_entropy")], "fixed", None),
            train_config(adversarial=AdversarialConfig(epsilon=0.1)),
            what="s",
            display=quiet(),
            checkpoint=tmp_path / name,
        )
        nets.append(net)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_a_sample_outside_the_range_of_train_is_not_pulled_into_it():
    net, spec = (
        nn.Linear(6, 2),
        InputSpec("row", (6,), "NC", "float32", (0.0, 1.0), 1.0, (0.0,) * 6, (1.0,) * 6),
    )
    x = torch.tensor([[3.0, -2.0, 0.5, 0.0, 1.0, 0.2]])
    found = attack(net, x, wrong(torch.tensor([0])), AdversarialConfig(epsilon=0.1), spec)
    assert (found - x).abs().max() <= 0.1 + 1e-6 and found[0, 3] >= 0 and found[0, 4] <= 1


def test_labels_are_about_the_clean_half_and_layers_about_the_attacked(tmp_path):
    seen, teacher = [], np.random.default_rng(0).normal(size=(1, 16, 5)).astype(np.float16)
    net = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5))
    rows = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)

    def recorded(batch, *_):
        with torch.no_grad():
            x = torch.from_numpy(TABLE.preprocess(rows[batch.index]))
            assert torch.allclose(batch.clean, net(x), atol=1e-6)
            assert not torch.allclose(batch.student, net(x), atol=1e-3)
            hidden = batch.student_layers["1"]
            assert torch.allclose(net[2](hidden), batch.student, atol=1e-6)
        seen.append(len(hidden))
        return nn.functional.mse_loss(batch.student, batch.teacher)

    objective = Objective([LossConfig(kind="huber")], "fixed", None)
    objective.functions = [recorded]
    data = TrainingSet(split(rows), TABLE, teacher, 1, 3, student_layers=("1",))
    config = train_config(epochs=1, batch_size=8, adversarial=AdversarialConfig(epsilon=0.2))
    fit(net, data, objective, config, what="s", display=quiet(), checkpoint=tmp_path)
    assert seen == [8, 8]
