import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from edgekd.config import DistillConfig, LossConfig, build
from edgekd.errors import UsageError
from edgekd.losses import Batch, Shapes
from edgekd.objective import STEPS_A_NORM, Objective

SHAPES = Shapes((3,), (3,), {"a": (4,)}, {"b": (6,)}, 8, 0)


def terms(*said):
    return [LossConfig.model_validate(term) for term in said]


def batch(student=None, progress=0.0):
    draw = torch.Generator().manual_seed(0)
    teacher, own = (torch.randn(8, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    labels = torch.arange(8) % 3
    return Batch(own if student is None else student, teacher, labels, torch.arange(8), progress=progress)


def alone(term, progress=0.0):
    return Objective(terms({**term, "weight": 1.0}), "fixed", SHAPES)(batch(progress=progress), []).item()


CE, KD, MSE = {"kind": "cross_entropy"}, {"kind": "kd", "temperature": 2.0}, {"kind": "mse"}


def test_weights_add_up():
    both = Objective(terms({**CE, "weight": 0.3}, {**KD, "weight": 2.0}), "fixed", SHAPES)
    assert both(batch(), []).item() == pytest.approx(0.3 * alone(CE) + 2.0 * alone(KD))
    assert both.last == {"cross_entropy": pytest.approx(alone(CE)), "kd": pytest.approx(alone(KD))}


def test_scheduled_weights():
    ramp = {"start": 1.0, "end": 0.0, "shape": "cosine"}
    both = Objective(terms({**CE, "weight": ramp}, {**KD, "weight": 1.0}), "fixed", SHAPES)
    for progress, weight in ((0.0, 1.0), (0.25, 0.5 + math.sqrt(0.125)), (0.5, 0.5)):
        assert both(batch(progress=progress), []).item() == pytest.approx(weight * alone(CE) + alone(KD))


def test_a_loss_without_weight_is_not_worked_out():
    both = Objective(terms({**CE, "weight": 0.0}, KD), "fixed", SHAPES)
    both.functions[0] = None
    assert both(batch(), []).item() == pytest.approx(alone(KD))
    assert set(both.last) == {"kd"}


def test_uncertainty_is_the_formula_and_learns_towards_the_harder_loss_weighing_less():
    both = Objective(terms({**CE, "weight": 0.5}, MSE), "uncertainty", SHAPES)
    with torch.no_grad():
        both.log_variances.copy_(torch.tensor([0.4, -1.0]))
    expected = 0.5 * (alone(CE) * math.exp(-0.4) + 0.2) + alone(MSE) * math.exp(1.0) - 0.5
    assert both(batch(), []).item() == pytest.approx(expected, rel=1e-6)
    # d/ds (L exp(-s) + s / 2) = 0 at s = log(2 L), whatever the weight: gradient descent goes there.
    optimizer = torch.optim.SGD(both.parameters(), lr=0.1)
    for _ in range(2000):
        optimizer.zero_grad()
        both(batch(), []).backward()
        optimizer.step()
    targets = [math.log(2 * alone(CE)), math.log(2 * alone(MSE))]
    assert both.log_variances.tolist() == pytest.approx(targets, abs=1e-3)


def test_gradient_norms_are_levelled():
    """By hand: student = x w; scaled, each loss pulls with the mean norm times its weight."""
    weight = nn.Parameter(torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64))
    x = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]

    def gradient(*said, weighting="fixed"):
        objective = Objective(terms(*said), weighting, SHAPES)
        (found,) = torch.autograd.grad(objective(batch(x @ weight), [weight]), [weight])
        return found

    ce, mse = gradient(CE), gradient({**MSE, "weight": 50.0}) / 50
    mean = (ce.norm() + mse.norm()) / 2
    expected = 0.3 * ce / ce.norm() * mean + 2.0 * mse / mse.norm() * mean
    found = gradient({**CE, "weight": 0.3}, {**MSE, "weight": 2.0}, weighting="gradient_norm")
    assert torch.allclose(found, expected, rtol=1e-5)


def test_gradient_norms_are_measured_now_and_then_and_kept_in_the_state():
    weight = nn.Parameter(torch.ones(1, 3, dtype=torch.float64))
    x = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    both = Objective(terms(CE, MSE), "gradient_norm", SHAPES)
    seen = []
    for _ in range(STEPS_A_NORM + 1):
        both(batch(x @ weight), [weight])
        seen.append(both.norms.clone())
        with torch.no_grad():
            weight += 0.1
    assert all(torch.equal(norms, seen[0]) for norms in seen[:STEPS_A_NORM])
    fresh = Objective(terms(CE, MSE), "gradient_norm", SHAPES)
    with torch.no_grad():
        weight -= 0.1
    fresh(batch(x @ weight), [weight])
    torch.testing.assert_close(seen[-1], 0.8 * seen[0] + 0.2 * fresh.norms)  # the new ones weigh a fifth
    assert not torch.allclose(seen[-1], seen[0])
    again = Objective(terms(CE, MSE), "gradient_norm", SHAPES)
    again.load_state_dict(both.state_dict())
    assert torch.equal(again.norms, both.norms) and int(again.steps) == STEPS_A_NORM + 1


def test_weights_that_change_are_told():
    weight, x = linear()
    ramp = {"start": 0.0, "end": 2.0}
    plain = Objective(terms(CE, {**MSE, "weight": ramp}), "fixed", SHAPES)
    plain(batch(x @ weight, progress=0.25), [weight])
    assert plain.weights() == {"mse_weight": 0.5}
    learned = Objective(terms({**CE, "weight": 3.0}, MSE), "uncertainty", SHAPES)
    learned.log_variances.data[0] = 0.7
    learned(batch(x @ weight), [weight])
    expected = {"cross_entropy_weight": 3 * math.exp(-0.7), "mse_weight": 1.0}
    assert learned.weights() == pytest.approx(expected)
    level = Objective(terms({**CE, "weight": 0.3}, MSE), "gradient_norm", SHAPES)
    level(batch(x @ weight), [weight])
    # Each pulls as hard as its weight says.
    pulls = [
        float(n) * level.weights()[f"{name}_weight"] for name, n in zip(level.names, level.norms, strict=True)
    ]
    assert pulls[0] == pytest.approx(0.3 * pulls[1])


def test_states_of_losses_are_trained_and_saved():
    layers = {"student_layer": "a", "teacher_layer": "b"}
    both = Objective(terms(CE, {"kind": "hint", **layers}), "fixed", SHAPES)
    assert [tuple(p.shape) for p in both.parameters()] == [(6, 4)]
    assert list(both.state_dict()) == ["states.1.weight"]


def test_a_users_own_loss(tmp_path, monkeypatch):
    (tmp_path / "mine_losses.py").write_text(
        "def squares(batch, power=2): return (batch.student - batch.teacher).abs().pow(power).mean()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = Objective(terms({"kind": "mine_losses:squares", "power": 2.0}), "fixed", SHAPES)
    assert own(batch(), []).item() == pytest.approx(alone(MSE))


def linear():
    weight = nn.Parameter(torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64))
    return weight, torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]


def test_the_norm_of_a_loss_that_comes_in_later_is_measured_when_it_does():
    weight, x = linear()
    ramp = {"start": 0.0, "end": 1.0}
    both = Objective(terms(CE, {**MSE, "weight": ramp}), "gradient_norm", SHAPES)
    assert both(batch(x @ weight), [weight]).item() == pytest.approx(
        Objective(terms(CE), "fixed", SHAPES)(batch(x @ weight), []).item()
    )
    assert float(both.norms[1]) == 0
    both(batch(x @ weight, progress=0.5), [weight])
    (expected,) = torch.autograd.grad(Objective(terms(MSE), "fixed", SHAPES)(batch(x @ weight), []), [weight])
    assert float(both.norms[1]) == pytest.approx(expected.norm().item(), rel=1e-5)


def test_a_loss_without_a_gradient_anywhere_is_named():
    weight, x = linear()
    both = Objective(terms(CE, MSE), "gradient_norm", SHAPES)
    with pytest.raises(UsageError, match="loss 'cross_entropy' does not depend on any weight"):
        both(batch((x @ weight).detach().requires_grad_()), [weight])


def test_a_loss_that_has_reached_its_end_keeps_its_weight_and_bends_no_other():
    """Its gradient is 0: there is nothing to level, and the mean is that of the others."""
    weight, x = linear()
    same = batch(x @ weight)
    same = Batch(same.student, same.student.detach(), same.labels, same.index)
    both = Objective(terms({**CE, "weight": 0.5}, MSE), "gradient_norm", SHAPES)
    assert both(same, [weight]).item() == pytest.approx(
        Objective(terms({**CE, "weight": 0.5}), "fixed", SHAPES)(same, []).item()
    )


def test_two_losses_of_a_kind_have_names_of_their_own():
    both = Objective(terms({**KD, "temperature": 1.0}, CE, KD), "fixed", SHAPES)
    both(batch(), [])
    assert both.names == ("kd_1", "cross_entropy", "kd_2")
    first = alone({**KD, "temperature": 1.0})
    assert both.last["kd_1"] == pytest.approx(first) and both.last["kd_2"] != pytest.approx(first)


@pytest.mark.parametrize(
    ("weights", "when"),
    [
        ([0.0, 0.0], "at the start"),
        ([{"start": 0.0, "end": 1.0}] * 2, "at the start"),
        ([{"start": 1.0, "end": 0.0}, 0.0], "at the end"),
    ],
)
def test_weights_that_are_all_0_are_refused(weights, when):
    losses = [{**term, "weight": weight} for term, weight in zip((CE, KD), weights, strict=True)]
    with pytest.raises(UsageError, match=f"weights of all losses are 0 {when}"):
        build(DistillConfig, {"epochs": 1, "losses": losses}, "recipe")


def some_without_labels(kind_layers=None):
    """Eight samples, of which 1, 4 and 6 have no label."""
    whole = batch()
    labels = whole.labels.clone()
    labels[[1, 4, 6]] = -1
    return replace(whole, labels=labels)


def test_samples_without_labels_are_told_by_the_teacher_alone():
    found = some_without_labels()
    has = found.labels >= 0
    logs = found.student.log_softmax(dim=1)
    ce = -sum(logs[i, found.labels[i]].item() for i in range(8) if has[i]) / 5
    mse = ((found.student - found.teacher) ** 2).mean(dim=1)
    for weight in (1.0, 0.25, 3.0):
        objective = Objective(terms(CE, MSE), "fixed", SHAPES, unlabelled_weight=weight)
        weights = torch.where(has, 1.0, weight).double()
        expected = ce + ((weights * mse).sum() / weights.sum()).item()
        assert objective(found, []).item() == pytest.approx(expected, rel=1e-6)


def test_a_step_without_any_label():
    found = replace(batch(), labels=torch.full((8,), -1))
    objective = Objective(terms(CE, MSE), "fixed", SHAPES, unlabelled_weight=0.5)
    assert objective(found, []).item() == pytest.approx(alone(MSE))


def test_losses_between_samples_see_all():
    rkd = {"kind": "rkd_distance"}
    objective = Objective(terms(rkd), "fixed", SHAPES, unlabelled_weight=0.5)
    assert objective(some_without_labels(), []).item() == pytest.approx(alone(rkd))


def test_taking_samples_of_a_batch_takes_their_layers_too():
    whole = replace(
        batch(),
        student_layers={"a": torch.arange(16).reshape(8, 2)},
        teacher_layers={"b": torch.arange(8)},
        shares=torch.linspace(0, 1, 8),
        progress=0.3,
    )
    taken = whole.take(torch.arange(8) % 4 == 1)
    assert taken.student_layers["a"].tolist() == [[2, 3], [10, 11]]
    assert taken.teacher_layers["b"].tolist() == [1, 5] and taken.index.tolist() == [1, 5]
    assert torch.equal(taken.teacher, whole.teacher[[1, 5]]) and taken.progress == 0.3
    assert taken.shares.tolist() == whole.shares[[1, 5]].tolist() and taken.other_labels is None


def test_losses_of_heads_see_their_own_outputs_and_labels():
    """Three outputs are judged, two belong to the head: by hand, each on its part."""
    draw = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(8, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    odd = torch.arange(8) % 2
    whole = Batch(student, teacher, torch.arange(8) % 3, torch.arange(8), head_labels={"odd": odd})
    columns = {"": slice(0, 3), "odd": slice(3, 5)}
    ones = torch.ones(8, dtype=torch.int64)
    blend = replace(whole, shares=torch.linspace(0, 1, 8).double(), other_head_labels={"odd": ones})
    blend = replace(blend, other_labels=torch.arange(1, 9) % 3)
    alone = Objective(terms({**CE, "head": "odd"}), "fixed", SHAPES, columns=columns)
    own, other = (-student[:, 3:].log_softmax(1)[torch.arange(8), labels] for labels in (odd, ones))
    mixed = (blend.shares * own + (1 - blend.shares) * other).mean()
    assert alone(blend, []).item() == pytest.approx(mixed.item())
    said = terms(CE, {**CE, "head": "odd", "weight": 2.0}, {**KD, "head": "odd"})
    both = Objective(said, "fixed", SHAPES, columns=columns)
    first = Batch(student[:, :3], teacher[:, :3], whole.labels, whole.index)
    second = Batch(student[:, 3:], teacher[:, 3:], odd, whole.index)
    expected = (
        Objective(terms(CE), "fixed", SHAPES)(first, []).item()
        + 2 * Objective(terms(CE), "fixed", SHAPES)(second, []).item()
        + Objective(terms(KD), "fixed", SHAPES)(second, []).item()
    )
    assert both(whole, []).item() == pytest.approx(expected)
    assert both.names == ("cross_entropy", "cross_entropy.odd", "kd.odd")
    learned = terms({"kind": "mse", "projection": True, "head": "odd"})
    (weight,) = Objective(learned, "fixed", SHAPES, columns=columns).parameters()
    assert weight.shape == (2, 2)
