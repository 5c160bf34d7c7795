"""Options that change while training: at each moment a loss is what it is with the value of that moment."""

import pytest
import torch

from edgekd.config import LossConfig
from edgekd.losses import Batch
from edgekd.objective import Objective


def value(kind, progress, **options):
    draw = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(6, 5, generator=draw).double() for _ in range(2))
    batch = Batch(student, teacher, torch.arange(6) % 5, torch.arange(6), progress=progress)
    return float(Objective([LossConfig.model_validate({"kind": kind, **options})], "fixed", None)(batch, []))


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("kd", "temperature"),
        ("dkd", "temperature"),
        ("dkd", "alpha"),
        ("dkd", "beta"),
        ("dist", "temperature"),
        ("dist", "beta"),
        ("dist", "gamma"),
        ("sigmoid_kd", "temperature"),
        ("listwise", "temperature"),
    ],
)
def test_a_scheduled_option_has_the_value_of_the_moment(kind, option):
    ramp = {option: {"start": 1.0, "end": 5.0}}
    for progress, now in ((0.0, 1.0), (0.25, 2.0), (1.0, 5.0)):
        assert value(kind, progress, **ramp) == pytest.approx(value(kind, 0.0, **{option: now}), rel=1e-9)
    assert value(kind, 0.0, **ramp) != pytest.approx(value(kind, 1.0, **ramp), rel=1e-2)
