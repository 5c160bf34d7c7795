from collections import Counter

import numpy as np
import pytest

from edgekd.config import CalibrationPolicy, available, load_calibration
from edgekd.errors import DataError
from edgekd.tasks.calibration import check_disjoint, draw

LABELS = [0] * 60 + [1] * 30 + [2] * 10


@pytest.fixture
def train(split):
    return split("train", np.array([[i, 0] for i in range(100)], np.uint8), np.array(LABELS))


def policy(strategy, seed=0, **count):
    return CalibrationPolicy(
        name="p", description="", strategy=strategy, observer="min_max", seed=seed, **count
    )


POLICIES = [
    policy("random", num_samples=20),
    policy("stratified", num_samples=20),
    policy("per_class", per_class=5),
]


@pytest.mark.parametrize("this", POLICIES, ids=lambda p: p.strategy)
def test_draws_are_distinct_ordered_and_follow_the_seed(train, this):
    drawn = draw(train, this)
    assert drawn.dtype == np.int64
    assert (np.diff(drawn) > 0).all()
    assert 0 <= drawn[0] and drawn[-1] < 100
    assert drawn.tolist() == draw(train, this).tolist()
    assert drawn.tolist() != draw(train, this.model_copy(update={"seed": 1})).tolist()


@pytest.mark.parametrize(
    ("this", "expected"),
    [
        (policy("stratified", num_samples=20), {0: 12, 1: 6, 2: 2}),  # 60:30:10 of 20
        (policy("stratified", num_samples=3), {0: 1, 1: 1, 2: 1}),
        (policy("per_class", per_class=10), {0: 10, 1: 10, 2: 10}),
        (policy("random", num_samples=100), {0: 60, 1: 30, 2: 10}),
    ],
)
def test_samples_of_each_class(train, this, expected):
    assert Counter(train.labels[draw(train, this)].tolist()) == expected


def test_random_is_uniform(train):
    # Each of 100 is drawn with p = 0.2; over 400 seeds 80 +- 8 (one sigma), so 40..120 is 5 sigma.
    hits = np.zeros(100)
    for seed in range(400):
        hits[draw(train, policy("random", seed=seed, num_samples=20))] += 1
    assert 40 < hits.min() and hits.max() < 120


@pytest.mark.parametrize("strategy", ["random", "stratified"])
def test_fewer_samples_than_asked(train, strategy):
    this = policy(strategy, num_samples=101)
    with pytest.raises(DataError, match="'p' asks for 101 samples, split 'train' has 100"):
        draw(train, this)
    assert draw(train, this, allow_fewer=True).tolist() == list(range(100))


def test_fewer_samples_of_a_class_than_asked(train):
    this = policy("per_class", per_class=11)
    with pytest.raises(DataError, match="asks for 11 samples of each class, split 'train' has 10 of class 2"):
        draw(train, this)
    drawn = train.labels[draw(train, this, allow_fewer=True)]
    assert Counter(drawn.tolist()) == {0: 11, 1: 11, 2: 10}


@pytest.mark.parametrize("this", POLICIES[1:], ids=lambda p: p.strategy)
def test_classes_need_labels(split, this):
    bare = split("unlabelled", np.zeros((100, 2), np.uint8), None)
    with pytest.raises(DataError, match="needs labels"):
        draw(bare, this)
    assert len(draw(bare, POLICIES[0])) == 20


@pytest.mark.parametrize("name", available("calibration"))
def test_shipped_policies_draw_what_they_say(split, name):
    this = load_calibration(name)
    train = split("train", np.zeros((2000, 2), np.uint8), np.arange(2000) % 10)
    drawn = Counter(train.labels[draw(train, this)].tolist())
    assert sum(drawn.values()) == (this.num_samples or 10 * this.per_class)
    if this.strategy != "random":
        assert max(drawn.values()) - min(drawn.values()) <= 1


class TestDisjoint:
    def test_train_samples_pass(self, clean):
        check_disjoint(np.array(["train-0", "train-7"]), clean)

    def test_unlabelled_samples_pass(self, make_task):
        task = make_task(
            train=([[0, 0]], [0]), val=([[0, 1]], [0]), test=([[0, 2]], [0]), unlabelled=([[0, 3]], None)
        )
        check_disjoint(np.array(["unlabelled-0"]), task)

    @pytest.mark.parametrize("name", ["val", "test"])
    def test_by_id(self, clean, name):
        with pytest.raises(DataError, match=f"'{name}-1' belongs to split '{name}'"):
            check_disjoint(np.array(["train-0", f"{name}-1"]), clean)

    @pytest.mark.parametrize(("name", "content"), [("val", [0, 1]), ("test", [1, 2])])
    def test_by_content(self, make_task, name, content):
        task = make_task(
            train=([[5, 5], content, [6, 6]], [0, 1, 0]),
            val=([[0, 1], [1, 1]], [0, 1]),
            test=([[0, 2], [1, 2]], [0, 1]),
        )
        with pytest.raises(DataError, match=f"'train-1' has the content of {name} sample"):
            check_disjoint(np.array(["train-0", "train-1"]), task)
        check_disjoint(np.array(["train-0", "train-2"]), task)  # the leak is not among these

    def test_unknown_id(self, clean):
        with pytest.raises(DataError, match="'elsewhere' is in no split"):
            check_disjoint(np.array(["elsewhere"]), clean)
