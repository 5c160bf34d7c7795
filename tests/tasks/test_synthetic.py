import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from edgekd import tasks
from edgekd.config import TaskConfig
from edgekd.errors import UsageError


def read(seed=0, **options):
    return tasks.read(TaskConfig(kind="synthetic", **options), seed)


def test_images():
    task = read(num_train=40, num_val=8, num_test=12, num_classes=3, channels=2, size=5, num_unlabelled=7)
    assert {n: s.inputs.shape for n, s in task.splits.items()} == {
        "train": (40, 2, 5, 5),
        "val": (8, 2, 5, 5),
        "test": (12, 2, 5, 5),
        "unlabelled": (7, 2, 5, 5),
    }
    assert task.splits["train"].inputs.dtype == np.uint8
    assert task.splits["unlabelled"].labels is None
    for name in ("train", "val", "test"):
        assert set(task.splits[name].labels) == {0, 1, 2}


def test_moons():
    task = read(dataset="moons", num_train=50)
    assert task.splits["train"].inputs.shape == (50, 2)
    assert task.splits["train"].inputs.dtype == np.float32
    assert task.num_classes == 2
    assert task.input_spec.layout == "NC"


def test_moons_lie_on_two_half_circles():
    train = read(dataset="moons", noise=1e-6).splits["train"]
    for label, centre, side in ((0, (0.0, 0.0), 1), (1, (1.0, 0.5), -1)):
        from_centre = train.inputs[train.labels == label] - np.array(centre)
        np.testing.assert_allclose(np.hypot(*from_centre.T), 1, atol=1e-4)
        assert (side * from_centre[:, 1] > -1e-4).all()


def test_the_seed_decides_everything():
    for dataset in ("images", "moons"):
        first, again, other = (
            tasks.split_sha256(read(s, dataset=dataset).splits["train"]) for s in (0, 0, 1)
        )
        assert first == again != other


def fit(task, model):
    train, test = task.splits["train"], task.splits["test"]
    model.fit(task.input_spec.preprocess(train.inputs).reshape(len(train), -1), train.labels)
    return model.score(task.input_spec.preprocess(test.inputs).reshape(len(test), -1), test.labels)


def test_images_can_be_learnt_and_are_not_trivial_at_more_noise():
    assert fit(read(), LogisticRegression()) > 0.95
    assert 0.3 < fit(read(noise=1.0, num_test=500), LogisticRegression()) < 0.95


def test_moons_need_more_than_a_line():
    task = read(dataset="moons", num_train=500, num_test=500, noise=0.1)
    assert fit(task, LogisticRegression()) < 0.92 < fit(task, KNeighborsClassifier())


@pytest.mark.parametrize("options", [{"num_train": 0}, {"noise": 0.0}, {"dataset": "spirals"}, {"size": 3}])
def test_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        read(**options)
