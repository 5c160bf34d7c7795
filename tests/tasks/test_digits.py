import numpy as np
from sklearn.datasets import load_digits

from edgekd import tasks
from edgekd.config import TaskConfig


def read(seed=0, **options):
    return tasks.read(TaskConfig(kind="digits", **options), seed)


def test_every_sample_once_with_its_own_label():
    task = read()
    assert {n: len(s) for n, s in task.splits.items()} == {"train": 1000, "val": 200, "test": 597}
    bunch = load_digits()
    seen = []
    for split in task.splits.values():
        number = np.array([int(i.removeprefix("digits/")) for i in split.ids])
        np.testing.assert_array_equal(split.inputs.reshape(-1, 64), bunch.data[number])
        np.testing.assert_array_equal(split.labels, bunch.target[number])
        seen.extend(number)
    assert sorted(seen) == list(range(1797))


def test_no_two_digits_are_the_same_image():
    assert read().notes["duplicates"] == {"train": 0, "val": 0, "test": 0}
    assert len(np.unique(load_digits().data, axis=0)) == 1797


def test_classes_are_in_proportion():
    whole = np.bincount(load_digits().target) / 1797
    for split in read().splits.values():
        assert abs(np.bincount(split.labels) - whole * len(split)).max() < 1


def test_spec_comes_from_train():
    task = read()
    spec, train = task.input_spec, task.splits["train"].inputs
    assert (spec.shape, spec.layout, spec.raw_dtype, spec.raw_range) == (
        (1, 8, 8),
        "NCHW",
        "uint8",
        (0.0, 16.0),
    )
    assert (train.min(), train.max()) == (0, 16)
    np.testing.assert_allclose(spec.mean, (train / 16).mean(), rtol=1e-12)
    np.testing.assert_allclose(spec.std, (train / 16).std(), rtol=1e-12)
    assert task.class_names == tuple("0123456789")


def test_the_seed_decides_the_split():
    first, again, other = (tasks.split_sha256(read(seed).splits["test"]) for seed in (0, 0, 1))
    assert first == again != other


def test_fingerprint_reads_the_file_that_scikit_learn_ships():
    asked = []
    tasks.fingerprint(TaskConfig(kind="digits"), lambda path: asked.append(path) or "0")
    assert [path.name for path in asked] == ["digits.csv.gz"]
    assert asked[0].is_file()
