import sys

import numpy as np
import pytest

from edgekd.errors import UsageError
from edgekd.teachers import boosting
from edgekd.teachers.function import fit_function, open_function

TEXT = """
def double(x, factor=2.0): return [[factor * v for v in row] for row in x]
def fails(x): raise KeyError("oh")
def flat(x): return x.sum(axis=1)
def short(x): return x[1:]
def fitted(x, y, *, seed, shift=0.0):
    mean = x[y == 1].mean(axis=0)
    return lambda other: [[seed + shift, float((row * mean).sum())] for row in other]
def unfit(x, y, *, seed): return 3
def stumbles(x, y, *, seed): raise ValueError("too few")
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "mine_teachers.py").write_text(TEXT)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("mine_teachers", None)


def test_any_function_of_a_batch():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = open_function("mine_teachers:double", {"factor": 3.0})(x)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, 3 * x)


@pytest.mark.parametrize(
    ("name", "message"),
    [("fails", "KeyError: 'oh'"), ("flat", r"gave \(2,\) for 2"), ("short", r"gave \(1, 3\) for 2")],
)
def test_what_it_does_wrong_is_said(name, message):
    with pytest.raises(UsageError, match=f"teacher function 'mine_teachers:{name}': {message}"):
        open_function(f"mine_teachers:{name}", {})(np.zeros((2, 3), np.float32))


def test_a_function_that_is_fitted_on_training_samples():
    x = np.array([[1, 0], [3, 2], [5, 4]], np.float32)
    teacher = fit_function("mine_teachers:fitted", {"shift": 0.5}, x, np.array([0, 1, 1]), 7)
    # The mean of the rows of class 1 is (4, 3).
    np.testing.assert_array_equal(teacher(np.array([[1, 1], [0, 2]], np.float32)), [[7.5, 7], [7.5, 6]])


@pytest.mark.parametrize(
    ("name", "message"),
    [("unfit", "gave int, expected a function"), ("stumbles", "ValueError: too few")],
)
def test_what_fitting_does_wrong_is_said(name, message):
    with pytest.raises(UsageError, match=f"teacher function 'mine_teachers:{name}': {message}"):
        fit_function(f"mine_teachers:{name}", {}, np.zeros((2, 1), np.float32), np.array([0, 1]), 0)


def test_boosted_trees_are_scikit_learns_and_the_same_each_time():
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)).astype(np.float32)
    for labels in ((x[:, 0] > 0).astype(np.int64), (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0.5)):
        outputs = boosting.fit(x, labels, seed=3, max_iter=10)(x)
        plain = HistGradientBoostingClassifier(
            max_iter=10,
            learning_rate=0.05,
            max_leaf_nodes=15,
            min_samples_leaf=20,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=3,
        ).fit(x, labels)
        chances = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(chances, plain.predict_proba(x), atol=1e-6)
        np.testing.assert_array_equal(outputs, boosting.fit(x, labels, seed=3, max_iter=10)(x))


def test_boosted_trees_of_a_class_without_samples():
    with pytest.raises(UsageError, match="no training sample is of class 1"):
        boosting.fit(np.zeros((4, 1), np.float32), np.array([0, 2, 0, 2]), seed=0)
