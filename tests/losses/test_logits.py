import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekd.losses import Batch
from edgekd.losses import cross_entropy as cross_entropy_file
from edgekd.losses import kd as kd_file

logits = arrays(np.float64, (4, 3), elements=st.floats(-20, 20))


def kd(student, teacher, temperature):
    batch = Batch(student, teacher, None, torch.arange(len(student)))
    return kd_file.loss(batch, kd_file.Options(temperature=temperature))


def cross_entropy(student, labels, smoothing):
    batch = Batch(student, None, labels, torch.arange(len(student)))
    return cross_entropy_file.loss(batch, cross_entropy_file.Options(smoothing=smoothing))


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def kd_by_hand(student, teacher, temperature):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * (p * (np.log(p) - np.log(q))).sum() / len(student)


@given(logits, logits, st.sampled_from([0.5, 1.0, 4.0, 10.0]))
def test_kd_is_the_formula_in_float64(student, teacher, temperature):
    found = kd(torch.from_numpy(student), torch.from_numpy(teacher), temperature).item()
    assert found == pytest.approx(kd_by_hand(student, teacher, temperature), rel=1e-9, abs=1e-10)


def test_kd_of_two_classes_by_hand():
    # softmax(log 3, 0) = (3/4, 1/4) against (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2)
    teacher, student = torch.tensor([[np.log(3.0), 0.0]]), torch.zeros(1, 2, dtype=torch.float64)
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert kd(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-12)
    # and at temperature 2 with doubled logits the same, times four
    assert kd(student, 2 * teacher, 2.0).item() == pytest.approx(4 * expected, rel=1e-12)


@given(logits, st.floats(0.2, 20))
def test_kd_is_zero_where_the_student_is_the_teacher(values, temperature):
    x = torch.from_numpy(values)
    assert kd(x, x, temperature).item() == 0.0
    assert abs(kd(x + 3.0, x, temperature).item()) < 1e-9  # softmax does not see a shift


@given(logits, logits)
def test_kd_is_not_negative(student, teacher):
    assert kd(torch.from_numpy(student), torch.from_numpy(teacher), 2.0).item() >= -1e-12


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_gradient(temperature):
    draw = torch.Generator().manual_seed(0)
    student = torch.randn(5, 4, dtype=torch.float64, generator=draw, requires_grad=True)
    teacher = torch.randn(5, 4, dtype=torch.float64, generator=draw)
    assert torch.autograd.gradcheck(lambda s: kd(s, teacher, temperature), (student,))


@given(st.integers(0, 10_000), st.floats(0.5, 16))
def test_kd_gradient_is_temperature_times_the_difference_of_the_soft_targets(seed, temperature):
    rng = np.random.default_rng(seed)
    s, t = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    student = torch.tensor(s, requires_grad=True)
    kd(student, torch.tensor(t), temperature).backward()
    # d/dz_s of T^2 KL(softmax(t/T) || softmax(s/T)) / B = T (softmax(s/T) - softmax(t/T)) / B
    expected = temperature * (softmax(s / temperature) - softmax(t / temperature)) / 4
    np.testing.assert_allclose(student.grad.numpy(), expected, atol=1e-12)


def test_kd_gradient_keeps_its_size_at_high_temperature():
    # Hinton et al.: for large T, the gradient of T^2 KL tends to (centred s - centred t) / (classes B).
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    limit = ((s - s.mean(1, keepdims=True)) - (t - t.mean(1, keepdims=True))) / 12
    student = torch.tensor(s, requires_grad=True)
    kd(student, torch.tensor(t), 1000.0).backward()
    np.testing.assert_allclose(student.grad.numpy(), limit, atol=1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_by_hand(smoothing):
    rng = np.random.default_rng(1)
    values, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    target = np.eye(4)[labels] * (1 - smoothing) + smoothing / 4
    expected = -(target * np.log(softmax(values))).sum(axis=1).mean()
    found = cross_entropy(torch.from_numpy(values), torch.from_numpy(labels), smoothing).item()
    assert found == pytest.approx(expected, rel=1e-12)
