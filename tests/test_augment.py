import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekd import augment

seeds = st.integers(0, 2**32 - 1)


def by_hand(image, rows, columns, flip, fill):
    """One image (C, H, W): mirrored, then the window moved, with `fill` outside."""
    channels, height, width = image.shape
    out = np.full_like(image, fill)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                # The window moves over the image; in a mirrored one it is read from right to left.
                source_i, source_j = i + rows, (width - 1 - j if flip else j) + columns
                if 0 <= source_i < height and 0 <= source_j < width:
                    out[c, i, j] = image[c, source_i, source_j]
    return out


@pytest.mark.parametrize(("height", "pixels"), [(28, 2), (8, 1), (4, 1), (32, 2), (64, 5), (224, 16)])
def test_shift_is_two_pixels_in_28(height, pixels):
    assert augment.largest_shift(height) == pixels


@given(seeds, st.integers(0, 50))
def test_same_seed_and_view_draw_the_same(seed, view):
    first = augment.draw(20, ["crop", "flip"], (1, 28, 28), seed, view)
    again = augment.draw(20, ["crop", "flip"], (1, 28, 28), seed, view)
    assert first.tolist() == again.tolist()
    assert first.shape == (20, 3)


def test_views_and_seeds_differ():
    drawn = [
        augment.draw(50, ["crop", "flip"], (1, 28, 28), s, v) for s, v in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    for i, a in enumerate(drawn):
        for b in drawn[i + 1 :]:
            assert (a != b).any(axis=1).mean() > 0.8  # two of 50 draws are alike once in 50


def test_every_move_is_drawn_about_as_often():
    drawn = augment.draw(50_000, ["crop", "flip"], (3, 28, 28), 7, 0)
    for axis in (0, 1):
        values, counts = np.unique(drawn[:, axis], return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        assert np.abs(counts / 50_000 - 0.2).max() < 0.01
    assert abs(drawn[:, 2].mean() - 0.5) < 0.01
    assert abs(np.corrcoef(drawn.T)[np.triu_indices(3, 1)]).max() < 0.02


@pytest.mark.parametrize(
    ("names", "moves", "flips"), [([], False, False), (["crop"], True, False), (["flip"], False, True)]
)
def test_only_what_is_named_happens(names, moves, flips):
    drawn = augment.draw(200, names, (1, 28, 28), 3, 1)
    assert drawn[:, :2].any() == moves
    assert drawn[:, 2].any() == flips


def test_naming_flip_too_leaves_the_moves_as_they_were():
    alone = augment.draw(30, ["crop"], (1, 28, 28), 3, 1)
    both = augment.draw(30, ["crop", "flip"], (1, 28, 28), 3, 1)
    assert alone[:, :2].tolist() == both[:, :2].tolist()


@given(
    seeds,
    st.sampled_from([np.uint8, np.float32]),
    st.sampled_from([(1, 8, 8), (3, 5, 8), (2, 28, 28)]),
    st.sampled_from([0.0, 3.0]),
)
def test_pixels_are_those_moved_by_hand(seed, dtype, shape, fill):
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 200, (4, *shape)).astype(dtype)
    shift = augment.largest_shift(shape[-1])
    params = np.column_stack([rng.integers(-shift, shift + 1, (4, 2)), rng.integers(0, 2, 4)])
    found = augment.apply(torch.from_numpy(raw), torch.from_numpy(params), fill).numpy()
    expected = np.stack([by_hand(x, *p, fill) for x, p in zip(raw, params, strict=True)])
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def test_a_small_image_by_eye():
    raw = torch.tensor([[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]] * 3, dtype=torch.uint8)
    params = torch.tensor([[1, 0, 0], [0, -1, 0], [0, 0, 1]])
    down, right, mirrored = augment.apply(raw, params, 0).squeeze(1).tolist()
    assert down == [[4, 5, 6], [7, 8, 9], [0, 0, 0]]
    assert right == [[0, 1, 2], [0, 4, 5], [0, 7, 8]]
    assert mirrored == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]


def test_tables_are_left_alone():
    rows = torch.arange(12.0).reshape(3, 4)
    params = torch.ones((3, 3), dtype=torch.int64)
    assert augment.apply(rows, params, 9.0) is rows
    assert rows.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_the_given_images_are_not_changed():
    raw = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    augment.apply(raw, torch.tensor([[1, 1, 1]]), 0)
    assert raw.flatten().tolist() == list(range(64))


def test_samples_that_are_no_images_stay_as_they_are():
    assert not augment.draw(4, [], (6,), 0, 0).any()


def test_one_sample_in_two_has_a_rectangle_within_the_image():
    drawn = augment.draw(20_000, ["crop", "flip", "erase"], (1, 28, 20), 3, 1)
    assert drawn[:, :3].tolist() == augment.draw(20_000, ["crop", "flip"], (1, 28, 20), 3, 1).tolist()
    top, left, height, width = drawn[:, 3:].T
    erased = height > 0
    assert erased.mean() == pytest.approx(0.5, abs=0.02) and not drawn[~erased, 3:].any()
    assert (
        (top >= 0).all() and (top + height <= 28).all() and (left >= 0).all() and (left + width <= 20).all()
    )
    assert (width[erased] > 0).all()
    # Sides of at most 1 : 3.3 and areas of 2 to 40%, but for rounding and for what the image cuts off.
    area = height[erased] * width[erased] / (28 * 20)
    assert area.max() < 0.45 and 0.15 < area.mean() < 0.21 and np.quantile(area, 0.05) < 0.05
    whole = erased & (height < 28) & (width < 20) & (height * width > 60)
    ratio = height[whole] / width[whole]
    assert 0.22 < ratio.min() < 0.35 and 2.9 < ratio.max() < 4.5
    assert np.median(ratio) == pytest.approx(1, abs=0.15)
    # Anywhere: of those that have room, as often in the upper half of it as in the lower.
    room = erased & (height < 20)
    assert (top[room] / (28 - height[room])).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("fill", [0.0, 3.0])
def test_a_rectangle_is_bare_and_the_rest_moved_as_before(fill):
    raw = torch.from_numpy(np.random.default_rng(0).integers(4, 200, (3, 2, 8, 8)).astype(np.uint8))
    params = torch.tensor([[1, 0, 0, 2, 3, 4, 5], [0, -1, 1, 0, 0, 8, 1], [0, 1, 1, 0, 0, 0, 0]])
    found, moved = augment.apply(raw, params, fill), augment.apply(raw, params[:, :3], fill)
    expected = moved.clone()
    expected[0, :, 2:6, 3:8] = fill
    expected[1, :, :, 0] = fill
    assert torch.equal(found, expected) and found.dtype == torch.uint8


def test_words_are_replaced_by_others_as_often_as_those_stand():
    rng = np.random.default_rng(0)
    length, common, rare = 20, 7, 8
    ids = np.zeros((400, length), np.int32)
    ids[:, 0] = 101
    for text in ids:
        end = rng.integers(5, length - 1)
        text[1:end] = np.where(rng.random(end - 1) < 0.8, common, rare)
        text[end] = 102
    ids[0][ids[0] == common], ids[1][ids[1] == rare] = rare, common  # no word stands in every text
    found = augment.replace_words(ids, 3, 1)
    assert found.dtype == np.int32 and (augment.replace_words(ids, 3, 1) == found).all()
    assert (augment.replace_words(ids, 3, 2) != found).any()
    word = np.isin(ids, (common, rare))
    assert (found[~word] == ids[~word]).all() and np.isin(found[word], (common, rare)).all()
    # 15% are drawn anew, and of the common ones a fifth of those come out as the rare one
    changed = (found != ids)[ids == common].mean()
    assert changed == pytest.approx(0.15 * 0.2, abs=0.01)
    assert (found != ids)[ids == rare].mean() == pytest.approx(0.15 * 0.8, abs=0.02)
