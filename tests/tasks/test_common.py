import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import DataError
from edgekd.tasks.common import apportion, channel_statistics, input_spec, sample_hashes, split_by_count


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_sample_hashes_are_blake2b_of_the_raw_bytes(dtype):
    x = np.random.default_rng(1).uniform(0, 255, (3, 2, 4)).astype(dtype)
    expected = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x]
    assert sample_hashes(x) == expected
    assert sample_hashes(x.transpose(0, 2, 1).transpose(0, 2, 1)) == expected
    assert sample_hashes(x[:0]) == []


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(0, 120))
def test_apportion_keeps_its_promises(counts, total):
    share = apportion(np.array(counts), total, rng())
    assert share.sum() == min(total, sum(counts))
    assert ((share >= 0) & (share <= counts)).all()
    if total >= sum(c > 0 for c in counts):
        assert ((share > 0) == (np.array(counts) > 0)).all()


# Worked out by hand: floors first, then the largest remainders.
@pytest.mark.parametrize(
    ("counts", "total", "expected"),
    [
        ([60, 30, 10], 10, [6, 3, 1]),
        ([50, 30, 20], 9, [4, 3, 2]),  # 4.5, 2.7, 1.8: the two missing go to .8 and .7
        ([98, 1, 1], 10, [8, 1, 1]),  # 9.8 gives way so that no class is lost
        ([2, 2], 9, [2, 2]),
    ],
)
def test_apportion_by_hand(counts, total, expected):
    assert apportion(np.array(counts), total, rng()).tolist() == expected


class TestSplitByCount:
    def test_proportions_and_disjointness(self):
        labels = np.repeat([0, 1], [60, 40])
        x = np.arange(100, dtype=np.float32)[:, None]
        index = split_by_count(x, labels, {"test": 30, "val": 10}, seed=0)
        assert sorted(np.concatenate(list(index.values()))) == list(range(100))
        assert Counter(labels[index["test"]].tolist()) == {0: 18, 1: 12}
        assert Counter(labels[index["val"]].tolist()) == {0: 6, 1: 4}

    def test_depends_on_the_seed_only(self):
        labels, x = np.repeat([0, 1], 50), np.arange(100, dtype=np.float32)[:, None]
        first, again, other = (
            split_by_count(x, labels, {"val": 20}, seed=s)["val"].tolist() for s in (0, 0, 1)
        )
        assert first == again != other

    def test_equal_samples_stay_together(self):
        x = (np.arange(90) // 3).astype(np.float32)[:, None]  # everything three times
        index = split_by_count(x, np.arange(90) % 2, {"val": 8, "test": 8}, seed=5)
        contents = [set(x[i, 0].tolist()) for i in index.values()]
        assert sum(map(len, contents)) == len(set.union(*contents)) == 30


class TestStatistics:
    def test_bytes_as_numpy_has_it(self):
        x = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5), dtype=np.uint8)
        mean, std = channel_statistics(x, 255.0)
        np.testing.assert_allclose(mean, (x / 255.0).mean(axis=(0, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose(std, (x / 255.0).std(axis=(0, 2, 3)), rtol=1e-12)

    def test_features_as_numpy_has_it(self):
        x = np.random.default_rng(0).normal(5, 2, (50, 3)).astype(np.float32)
        mean, std = channel_statistics(x, 1.0)
        np.testing.assert_allclose(mean, x.astype(np.float64).mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(std, x.astype(np.float64).std(axis=0), rtol=1e-12)

    # Eleven bytes of 3 / 255 have a standard deviation of 2e-18 by rounding alone.
    @pytest.mark.parametrize(
        ("value", "scale"),
        [(np.uint8(3), 255.0), (np.uint8(7), 1.0), (np.float32(0.1), 1.0), (np.float32(0), 1.0)],
    )
    def test_a_constant_channel_maps_to_zero(self, value, scale):
        x = np.full((11, 2), value)
        spec = input_spec(x, scale)
        assert spec.std == (1.0, 1.0)
        np.testing.assert_allclose(spec.preprocess(x), 0, atol=1e-6)

    def test_train_becomes_mean_0_and_spread_1(self):
        x = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5), dtype=np.uint8)
        fed = input_spec(x, 255.0, (0.0, 255.0)).preprocess(x)
        np.testing.assert_allclose(fed.mean(axis=(0, 2, 3)), 0, atol=1e-5)
        np.testing.assert_allclose(fed.std(axis=(0, 2, 3)), 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
def test_nothing_to_learn_from(shape):
    with pytest.raises(DataError, match=r"empty|nothing in them"):
        input_spec(np.empty(shape, np.float32), 1.0)
