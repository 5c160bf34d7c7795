import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import ExportError
from edgekd.quantize.schemes import OutputQuantizer, _pair, _PerTensor


def on_grid(x, scale, zero_point, low, high):
    """Nearest value scale * (q - zero_point), ties to the even q, in float64."""
    q = np.clip(np.rint(np.asarray(x, np.float64) / scale) + zero_point, low, high)
    return (q - zero_point) * scale


@given(st.floats(-10, -0.01) | st.just(0.0), st.floats(0.01, 10), st.integers(0, 1000))
def test_output_quantizer_by_hand(low, high, seed):
    quantizer = OutputQuantizer(low, high)
    scale = (high - low) / 255
    x = np.random.default_rng(seed).uniform(low * 1.2 - 0.1, high * 1.2, 50).astype(np.float32)
    found = quantizer(torch.from_numpy(x)).numpy()
    expected = on_grid(x, scale, round(-low / scale), 0, 255)
    # A value right between two levels may go either way in float32.
    off = np.abs(found - expected) > 1e-5 * max(1, high - low)
    between = np.abs(np.abs(x / scale - np.rint(x / scale)) - 0.5) < 1e-3
    assert not (off & ~between).any()
    assert 0 <= int(quantizer.zero_point) <= 255
    assert quantizer(torch.zeros(1)).item() == 0.0


@pytest.mark.parametrize(("low", "high"), [(1.0, 2.0), (-3.0, -1.0), (0.0, 0.0)])
def test_output_quantizer_always_holds_zero(low, high):
    quantizer = OutputQuantizer(low, high)
    assert quantizer(torch.zeros(1)).item() == 0.0
    assert float(quantizer.scale) == pytest.approx(max(max(high, 0) - min(low, 0), 1e-6) / 255)


def test_output_quantizer_lets_gradients_through_inside_its_range():
    x = torch.tensor([-0.5, 0.0, 0.9, 1.5, -2.0], requires_grad=True)
    OutputQuantizer(-1.0, 1.0)(x).sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 0, 0]


@given(st.integers(0, 255), st.floats(0.001, 1.0), st.integers(0, 1000))
def test_signed_and_unsigned_are_the_same_arithmetic(zero_point, scale, seed):
    x = torch.from_numpy(np.random.default_rng(seed).normal(0, 100 * scale, 200).astype(np.float32))
    unsigned, signed = _PerTensor(scale, zero_point, 0), _PerTensor(scale, zero_point - 128, -128)
    assert torch.equal(unsigned(x), signed(x))
    expected = on_grid(x.numpy(), np.float32(scale), zero_point, 0, 255)
    ratio = x.numpy().astype(float) / np.float32(scale)
    between = np.abs(np.abs(ratio - np.rint(ratio)) - 0.5) < 1e-3
    assert np.abs(unsigned(x).numpy() - expected)[~between].max(initial=0) < 1e-4


def fake(low, high, scale, zero_point, channels=None):
    quantize = torch.ao.quantization
    found = quantize.FakeQuantize(
        observer=quantize.MovingAverageMinMaxObserver
        if channels is None
        else quantize.PerChannelMinMaxObserver,
        quant_min=low,
        quant_max=high,
        dtype=torch.qint8 if low < 0 else torch.quint8,
        **({} if channels is None else {"qscheme": torch.per_channel_symmetric, "ch_axis": 0}),
    )
    found.scale = torch.tensor([scale] if channels is None else scale)
    found.zero_point = torch.tensor([zero_point] if channels is None else [0] * channels, dtype=torch.int32)
    found.disable_observer()
    return found


@pytest.mark.parametrize("shift", [0, 128])
@pytest.mark.parametrize(
    ("low", "high", "zero_point"), [(0, 255, 0), (0, 255, 77), (-128, 127, 0), (-128, 127, -9)]
)
def test_a_fake_quantizer_becomes_a_pair_of_operators(shift, low, high, zero_point):
    x = torch.linspace(-20, 20, 999)
    module = fake(low, high, 0.0625, zero_point)
    pair = _pair(module, shift)
    _, found_zero, found_low, found_high, dtype = pair.setting
    assert (found_low, found_high) == ((0, 255) if shift == 0 else (-128, 127))
    assert dtype == (torch.uint8 if shift == 0 else torch.int8)
    assert found_zero - found_low == zero_point - low
    np.testing.assert_array_equal(pair(x).numpy(), on_grid(x.numpy(), 0.0625, zero_point, low, high))


@pytest.mark.parametrize("shift", [0, 128])
def test_weights_are_signed_and_per_channel_in_both(shift):
    scales = [0.5, 0.25, 0.125]
    weight = torch.from_numpy(np.random.default_rng(0).normal(0, 20, (3, 40)).astype(np.float32))
    pair = _pair(fake(-127, 127, scales, 0, channels=3), shift)
    expected = np.stack([on_grid(w, s, 0, -127, 127) for w, s in zip(weight.numpy(), scales, strict=True)])
    np.testing.assert_array_equal(pair(weight).numpy(), expected)


def test_other_widths_are_refused():
    with pytest.raises(ExportError, match="a quantizer has 16 levels, int8 has 256"):
        _pair(fake(0, 15, 0.1, 0), 0)
