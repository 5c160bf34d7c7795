import pytest
import torch

from edgekd import precision


def test_precision_is_what_was_asked_for(monkeypatch):
    assert precision.make_fabric("32-true")._precision.precision == "32-true"
    assert precision.make_fabric("bf16-mixed")._precision.precision == "bf16-mixed"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    assert precision.make_fabric("auto")._precision.precision == "32-true"
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    assert precision.make_fabric("auto")._precision.precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("asked", "gains", "expected"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("32-true", True, torch.float32),
        ("bf16-mixed", False, torch.bfloat16),
    ],
)
def test_a_network_that_only_answers_has_the_same(monkeypatch, asked, gains, expected):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: gains)
    with precision.on_processor(asked):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
