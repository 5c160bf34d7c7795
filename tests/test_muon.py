import numpy as np
import pytest
import torch
from nets import train_config
from torch import nn

from edgekd.errors import UsageError
from edgekd.muon import Muon, kernels, orthogonalised
from edgekd.optimizers import make_optimizer


def quintic(values):
    # The published coefficients, on numbers instead of matrices: singular values pass through unmixed.
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return values


@pytest.mark.parametrize("shape", [(6, 6), (4, 36), (36, 4), (1, 9)])
def test_only_the_singular_values_change(shape):
    matrix = torch.from_numpy(np.random.default_rng(0).normal(size=shape) * 1e-3).double()
    u, s, vt = np.linalg.svd(matrix.numpy(), full_matrices=False)
    expected = u @ np.diag(quintic(s / np.sqrt((s**2).sum()))) @ vt
    np.testing.assert_allclose(orthogonalised(matrix).numpy(), expected, atol=1e-3)


def test_singular_values_come_out_near_one():
    torch.manual_seed(0)
    values = np.linalg.svd(orthogonalised(torch.randn(24, 216)).numpy(), compute_uv=False)
    assert 0.6 < values.min() and values.max() < 1.25


def test_no_gradient_is_no_step_and_no_nan():
    assert torch.equal(orthogonalised(torch.zeros(3, 9)), torch.zeros(3, 9))


def kernel(shape, seed=1):
    torch.manual_seed(seed)
    parameter = nn.Parameter(torch.randn(shape))
    parameter.grad = torch.randn(shape)
    return parameter


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (72, 4, 3, 3)])
def test_the_first_step_on_a_kernel_by_hand(shape):
    weight = kernel(shape)
    before, grad = weight.detach().clone(), weight.grad.clone()
    Muon([{"params": [weight], "weight_decay": 0.5, "orthogonal": True}], lr=0.1).step()
    # Momentum makes the step 1.95 times the gradient; any positive multiple has the same direction.
    direction = orthogonalised(grad.reshape(shape[0], -1)).reshape(shape)
    stretch = 1.0 if shape[0] <= 36 else np.sqrt(2.0)  # 72 rows by 36 columns
    torch.testing.assert_close(
        weight.detach(), before * (1 - 0.1 * 0.5) - 0.1 * stretch * direction, atol=1e-5, rtol=1e-4
    )


def test_momentum_of_a_kernel_by_hand():
    weight = kernel((8, 4, 3, 3))
    first, start = weight.grad.clone(), weight.detach().clone()
    second = torch.randn_like(first)
    optimizer = Muon([{"params": [weight], "orthogonal": True}], lr=0.1)
    optimizer.step()
    between = weight.detach().clone()
    assert not torch.equal(between, start)
    weight.grad = second.clone()
    optimizer.step()
    buffer = 0.95 * first + second
    direction = orthogonalised((second + 0.95 * buffer).reshape(8, -1)).reshape(8, 4, 3, 3)
    torch.testing.assert_close(weight.detach(), between - 0.1 * direction, atol=1e-5, rtol=1e-4)


def test_memory_format_changes_nothing():
    plain, last = kernel((8, 4, 3, 3)), kernel((8, 4, 3, 3))
    last.data = last.data.contiguous(memory_format=torch.channels_last)
    last.grad = last.grad.contiguous(memory_format=torch.channels_last)
    for weight in (plain, last):
        Muon([{"params": [weight], "orthogonal": True}], lr=0.1).step()
    torch.testing.assert_close(plain.detach(), last.detach())


def test_all_else_learns_as_by_pytorchs_sgd():
    mine, theirs = kernel((5, 7)), kernel((5, 7))
    one = Muon([{"params": [mine], "weight_decay": 0.3}], lr=0.02)
    other = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.3)
    for seed in range(4):
        torch.manual_seed(seed)
        mine.grad = torch.randn(5, 7)
        theirs.grad = mine.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(mine.detach(), theirs.detach())


def test_which_parameters_are_matrices():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.BatchNorm2d(8),
        nn.Linear(8, 4),
    )
    assert [id(p) for p in kernels(net)] == [id(net[1].weight)]
    groups = make_optimizer(net, train_config(optimizer="muon"), "student").param_groups
    assert [len(g["params"]) for g in groups if g["orthogonal"]] == [1]
    assert sum(len(g["params"]) for g in groups) == len(list(net.parameters()))


def test_a_network_without_convolutions_is_refused():
    class Patches(nn.Linear):
        def __init__(self):
            super().__init__(3, 4)
            self.position = nn.Parameter(torch.zeros(1, 5, 4))  # three dimensions, and no kernel

    with pytest.raises(UsageError, match=r"student: .*has none"):
        make_optimizer(Patches(), train_config(optimizer="muon"), "student")


def test_frozen_and_shared_kernels():
    net = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    net[0].weight.requires_grad_(False)
    net[2].weight = net[1].weight
    assert [id(p) for p in kernels(net)] == [id(net[1].weight)]
