import sys

import numpy as np
import pytest

from edgekd.errors import UsageError
from edgekd.teachers.function import open_function

TEXT = """
def double(x, factor=2.0): return [[factor * v for v in row] for row in x]
def fails(x): raise KeyError("oh")
def flat(x): return x.sum(axis=1)
def short(x): return x[1:]
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
