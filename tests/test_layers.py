import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import UsageError
from edgekd.layers import KINDS, ONE_WIDTH, WITHOUT_WEIGHTS, Layer, parse


def test_sizes_of_a_strided_convolution_by_hand():
    layer = Layer("conv", 9, 6, 3, 8, kernel=3, stride=2, padding=1)
    # (9 + 2 - 3) / 2 + 1 and (6 + 2 - 3) / 2 + 1, rounded down
    assert (layer.out_height, layer.out_width) == (5, 3)
    assert (layer.in_elements, layer.out_elements) == (9 * 6 * 3, 5 * 3 * 8)


def test_a_global_pool_leaves_one_value_a_channel():
    assert Layer("global_pool", 7, 5, 24, 24).out_elements == 24


@given(
    kind=st.sampled_from(KINDS),
    numbers=st.lists(st.integers(1, 999), min_size=6, max_size=6),
    padding=st.integers(0, 9),
    in_float=st.booleans(),
)
def test_text_and_back(kind, numbers, padding, in_float):
    height, width, inner, outer, kernel, stride = numbers
    outer, in_float = inner if kind in ONE_WIDTH else outer, in_float and kind not in WITHOUT_WEIGHTS
    layer = Layer(kind, height, width, inner, outer, kernel, stride, padding, in_float)
    assert parse(str(layer)) == layer
    assert str(layer) == f"{layer.shape} {layer.in_channels}-{layer.out_channels}"


@pytest.mark.parametrize(
    "text", ["", "conv", "conv 8x8 k3 s1 p1 8-8 ", "pool 8x8 k3 s1 p1 8-8", "conv 8x8 k3 s1 p1 -8-8"]
)
def test_what_is_no_layer_is_named(text):
    with pytest.raises(UsageError, match="is no layer"):
        parse(text)


def test_what_has_no_weights_is_not_left_in_float():
    with pytest.raises(UsageError, match=r"in_float add 8x8 k1 s1 p0 8-8: add has no weights"):
        parse("in_float add 8x8 k1 s1 p0 8-8")


def test_a_depthwise_layer_cannot_change_the_number_of_channels():
    with pytest.raises(UsageError, match="keeps the number of channels"):
        parse("depthwise 8x8 k3 s1 p1 8-16")
