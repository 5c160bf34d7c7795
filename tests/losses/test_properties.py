"""What the papers say of their losses."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ortho_group

from edgekd import losses
from edgekd.config import LossConfig
from edgekd.errors import UsageError
from edgekd.losses import Batch, Shapes, dist, rkd_angle, rkd_distance

LAYERS = {"student_layer": "x", "teacher_layer": "x"}


def tensors(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def value(kind, student, teacher, labels=None, progress=0.0, **options):
    """A loss on outputs and, where the options name them, on layers with the same content."""
    config = LossConfig.model_validate({"kind": kind, **options})
    function, _ = losses.load(config)
    batch = Batch(
        student, teacher, labels, torch.arange(len(student)), {"x": student}, {"x": teacher}, progress
    )
    return function(batch, losses.check(config), None)


OF_OUTPUTS = ["kd", "mse", "huber", "dist", "sigmoid_kd", "listwise", "pairwise_margin", "cosine"]
OF_OUTPUTS += ["similarity", "rkd_distance", "rkd_angle", "dkd"]


@pytest.mark.parametrize("kind", OF_OUTPUTS)
@given(seed=st.integers(0, 1000))
def test_zero_where_the_student_is_the_teacher_and_positive_elsewhere(kind, seed):
    x, y = tensors(seed, 7, 5), tensors(seed + 5000, 7, 5)
    labels = torch.arange(7) % 5
    assert value(kind, x, x.clone(), labels).item() == pytest.approx(0, abs=1e-9)
    assert value(kind, x, y, labels).item() > 1e-6


@pytest.mark.parametrize("kind", ["hint", "attention"])
def test_layers_that_agree_cost_nothing(kind):
    x, y = tensors(1, 4, 3, 5, 5), tensors(2, 4, 3, 5, 5)
    assert value(kind, x, x.clone(), **LAYERS).item() == pytest.approx(0, abs=1e-12)
    assert value(kind, x, y, **LAYERS).item() > 1e-3


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_dist_does_not_see_scale_and_shift(seed, scale, shift):
    x, y = tensors(seed, 6, 8), tensors(seed + 1, 6, 8)
    expected = dist.pearson_distance(x, y)
    np.testing.assert_allclose(dist.pearson_distance(scale * x + shift, y), expected, atol=1e-9)
    np.testing.assert_allclose(dist.pearson_distance(x, scale * y + shift), expected, atol=1e-9)
    np.testing.assert_allclose(dist.pearson_distance(-scale * x, x), 2 * np.ones(6), atol=1e-9)


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
def test_rkd_does_not_see_rotation_shift_and_scale(seed, scale):
    x, y = tensors(seed, 6, 4), tensors(seed + 1, 6, 4)
    rotation = torch.from_numpy(ortho_group.rvs(4, random_state=seed))
    moved = scale * (x @ rotation) + tensors(seed + 2, 4)
    for file in (rkd_distance, rkd_angle):
        expected = value(file.__name__.rpartition(".")[2], x, y).item()
        assert value(file.__name__.rpartition(".")[2], moved, y).item() == pytest.approx(expected, abs=1e-9)
    # A single sample that moves is seen.
    bent = x.clone()
    bent[0] += 1
    assert value("rkd_distance", bent, x).item() > 1e-4
    assert value("rkd_angle", bent, x).item() > 1e-4


@given(seed=st.integers(0, 1000))
def test_similarity_does_not_see_rotation(seed):
    x, y = tensors(seed, 6, 4), tensors(seed + 1, 6, 4)
    rotation = torch.from_numpy(ortho_group.rvs(4, random_state=seed))
    expected = value("similarity", x, y).item()
    assert value("similarity", 3 * x @ rotation, y).item() == pytest.approx(expected, abs=1e-12)


@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 8))
def test_dkd_with_the_teachers_own_doubt_as_beta_is_kd(seed, temperature):
    """Equation 7 of the paper: KD = TCKD + (1 - p_y) NCKD, sample by sample."""
    student, teacher = tensors(seed, 1, 5), tensors(seed + 1, 1, 5)
    label = torch.tensor([seed % 5])
    doubt = 1 - (teacher / temperature).softmax(dim=1)[0, label].item()
    found = value("dkd", student, teacher, label, alpha=1.0, beta=doubt, temperature=temperature)
    assert found.item() == pytest.approx(
        value("kd", student, teacher, temperature=temperature).item(), rel=1e-9, abs=1e-12
    )


def test_dkd_keeps_its_digits_where_the_teacher_is_sure():
    student, teacher = tensors(0, 3, 4).float(), torch.eye(4)[:3].float() * 60
    labels = torch.arange(3)
    found = value("dkd", student, teacher, labels, temperature=1.0)
    exact = value("dkd", student.double(), teacher.double(), labels, temperature=1.0)
    assert found.item() == pytest.approx(exact.item(), rel=1e-4)


def test_sigmoid_kd_of_a_sure_teacher_is_finite():
    found = value("sigmoid_kd", torch.tensor([[100.0, -100.0]]), torch.tensor([[-100.0, 100.0]]))
    assert found.item() == pytest.approx(100.0)


def test_rankings_do_not_see_what_all_items_of_a_list_have_in_common():
    x, y = tensors(0, 5, 6), tensors(1, 5, 6)
    for kind in ("listwise", "pairwise_margin"):
        expected = value(kind, x, y).item()
        assert value(kind, x + tensors(2, 5, 1), y).item() == pytest.approx(expected, abs=1e-12)


@given(scale=st.floats(0.1, 10))
def test_cosine_does_not_see_lengths(scale):
    x, y = tensors(0, 5, 6), tensors(1, 5, 6)
    assert value("cosine", scale * x, y).item() == pytest.approx(value("cosine", x, y).item(), abs=1e-12)


def test_repeated_samples_give_no_nan():
    x = tensors(0, 3, 4)[[0, 0, 1, 2]].requires_grad_(True)
    for kind in ("rkd_distance", "rkd_angle"):
        value(kind, x, tensors(1, 4, 4)).backward()
        assert torch.isfinite(x.grad).all()


def test_a_temperature_that_falls():
    """At half of a linear ramp from 8 to 2 it is 5; of a cosine too; at a quarter they differ."""
    x, y = tensors(0, 5, 6), tensors(1, 5, 6)

    def at(progress, shape):
        ramp = {"start": 8.0, "end": 2.0, "shape": shape}
        return value("kd", x, y, progress=progress, temperature=ramp).item()

    def fixed(temperature):
        return value("kd", x, y, temperature=temperature).item()

    for shape in ("linear", "cosine"):
        assert at(0.0, shape) == pytest.approx(fixed(8.0))
        assert at(0.5, shape) == pytest.approx(fixed(5.0))
        assert at(1.0, shape) == pytest.approx(fixed(2.0))
    assert at(0.25, "linear") == pytest.approx(fixed(6.5))
    assert at(0.25, "cosine") == pytest.approx(fixed(5 + 3 * np.sqrt(0.5)))


@pytest.mark.parametrize("kind", ["kd", "mse", "huber", "dkd", "dist", "sigmoid_kd", "listwise", "cosine"])
def test_outputs_of_different_shape_are_refused(kind):
    with pytest.raises(UsageError, match=rf"loss '{kind}': the student gives \(4, 3\), the teacher \(4, 5\)"):
        value(kind, tensors(0, 4, 3), tensors(1, 4, 5), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "kdd"}, r"unknown loss kind 'kdd' \(did you mean 'kd'"),
        ({"kind": "kd", "temperature": 0.0}, r"loss of kind 'kd': temperature = 0.0: .*greater than 0"),
        ({"kind": "kd", "temperature": -1}, r"temperature = -1: .*greater than 0"),
        (
            {"kind": "kd", "temperature": {"start": 4.0, "end": 0.0}},
            r"temperature.end = 0.0: .*greater than 0",
        ),
        ({"kind": "kd", "temprature": 3.0}, r"unknown key 'temprature' \(did you mean 'temperature'"),
        ({"kind": "hint"}, "key 'student_layer' is missing"),
        ({"kind": "rkd_angle", "student_layer": "a"}, "give student_layer and teacher_layer, or neither"),
        ({"kind": "no_such_module_here:loss"}, "there is no module"),
    ],
)
def test_options_are_checked_without_torch(config, message):
    with pytest.raises(UsageError, match=message):
        losses.check(LossConfig.model_validate(config))


def test_no_loss_imports_torch_before_it_is_used():
    import subprocess
    import sys

    code = (
        "import sys; from edgekd import losses; from edgekd.config import LossConfig\n"
        "layers = dict(student_layer='a', teacher_layer='b')\n"
        "for kind in losses.LOSSES:\n"
        "    named = layers if 'student_layer' in losses.options_of(kind).model_fields else {}\n"
        "    losses.check(LossConfig.model_validate(dict(kind=kind, **named)))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_what_losses_need_of_the_teacher():
    def needed(*kinds):
        return losses.needs(
            [LossConfig.model_validate(k if isinstance(k, dict) else {"kind": k}) for k in kinds]
        )

    assert needed("cross_entropy") == "nothing"
    assert needed("cross_entropy", "kd") == "outputs"
    assert needed("rkd_angle") == "outputs"
    assert needed("kd", {"kind": "rkd_angle", **LAYERS}) == "layers"


def test_layers_that_do_not_go_together_are_refused():
    shapes = Shapes((5,), (5,), {"x": (3, 4, 4)}, {"x": (7,)}, 10, 0)
    config = LossConfig.model_validate({"kind": "hint", **LAYERS})
    _, state = losses.load(config)
    with pytest.raises(UsageError, match=r"gives \(3, 4, 4\), x of the teacher \(7,\)"):
        state(losses.check(config), shapes)
    with pytest.raises(UsageError, match="must both give images"):
        value("attention", tensors(0, 4, 3), tensors(1, 4, 3), **LAYERS)


def test_dist_of_a_constant_row_or_column_has_a_gradient_that_is_small():
    student = torch.zeros(6, 4)
    student[1:, 0] = torch.arange(5.0)
    student[:, 3] = -40  # a class that all samples are alike in
    student.requires_grad_(True)
    value("dist", student, tensors(0, 6, 4).float()).backward()
    assert torch.isfinite(student.grad).all() and student.grad.abs().max() < 10
    constant, varied = torch.ones(1, 5), tensors(1, 1, 5).float()
    assert dist.pearson_distance(constant, varied).item() == 1


@pytest.mark.parametrize(
    ("kind", "n", "k", "message"),
    [
        ("rkd_distance", 2, 4, "at least 3 samples a step, here are 2.*batch_size"),
        ("rkd_angle", 2, 4, "at least 3 samples a step, here are 2.*batch_size"),
        ("similarity", 1, 4, "at least 2 samples a step, here are 1.*batch_size"),
        ("dkd", 4, 2, "at least 3 classes, here are 2.*choose another loss"),
    ],
)
def test_too_few_to_say_anything(kind, n, k, message):
    with pytest.raises(UsageError, match=f"loss '{kind}' needs {message}"):
        value(kind, tensors(0, n, k), tensors(1, n, k), torch.zeros(n, dtype=torch.int64))


def test_crd_needs_other_samples():
    config = LossConfig.model_validate({"kind": "crd"})
    with pytest.raises(UsageError, match="loss 'crd' needs at least 2 training samples"):
        losses.load(config)[1](losses.check(config), Shapes((5,), (5,), {}, {}, 1, 0))


def test_rkd_distance_of_samples_that_are_all_one_is_finite():
    x = torch.zeros(4, 3, requires_grad=True)
    value("rkd_distance", x, tensors(0, 4, 3).float()).backward()
    assert torch.isfinite(x.grad).all()


def test_hints_of_different_shape_are_refused():
    with pytest.raises(
        UsageError, match=r"loss 'hint': the student gives \(4, 3, 2\), the teacher \(4, 3, 5\)"
    ):
        value("hint", tensors(0, 4, 3, 2), tensors(1, 4, 3, 5), **LAYERS)


def test_contrastive_is_about_likes_alone():
    x = tensors(4, 6, 3)
    alone = value("contrastive", x, None, torch.arange(6))
    assert alone.item() == 0  # and no NaN: a step may have no two samples of one thing
    labels = torch.tensor([0, 0, 1, 1, 2, 3])
    together = x.clone()
    together[1], together[3] = 3 * x[0], x[2]
    apart, near = (value("contrastive", y, None, labels, temperature=0.1).item() for y in (x, together))
    assert near < apart
    # those without a like are in the way of the others, and have no term of their own
    fewer = value("contrastive", x[:4], None, labels[:4], temperature=0.1).item()
    assert fewer < apart
