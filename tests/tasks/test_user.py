import sys

import pytest

from edgekd import tasks, user_code
from edgekd.config import TaskConfig
from edgekd.errors import DataError, UsageError

SOURCE = """
import numpy as np
from edgekd.errors import DataError
from edgekd.types import ACCURACY, InputSpec, Split, Task

def make(count=4, start=0, folder=None):
    def split(name, at):
        x = np.full((count, 1), at, np.float32) + np.arange(count, dtype=np.float32)[:, None] / 10
        return Split(name, np.array([f"{name}{i}" for i in range(count)]), x, np.arange(count) % 2)
    splits = {n: split(n, at + start) for n, at in (("train", 1), ("val", 2), ("test", 3))}
    spec = InputSpec("x", (1,), "NC", "float32", (0.0, 9.0), 1.0, (0.0,), (1.0,))
    return Task("mine", splits, (ACCURACY,), spec, ("a", "b"))

def fails():
    raise KeyError("oh")

def refuses():
    raise DataError("the third file is missing")

def other():
    return 3

number = 5
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A package `mine_<n>` with a module `inner.data`; importing the parents leaves a mark."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    package = tmp_path / name
    (package / "inner").mkdir(parents=True)
    mark = "import pathlib; pathlib.Path(__file__).with_name('imported').write_text('')\n"
    for file in (package / "__init__.py", package / "inner" / "__init__.py"):
        file.write_text(mark)
    (package / "inner" / "data.py").write_text(SOURCE)
    (tmp_path / f"{name}_flat.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for loaded in [m for m in sys.modules if m.startswith(name)]:
        del sys.modules[loaded]


def read(kind, **options):
    return tasks.read(TaskConfig(kind=kind, **options), 0)


def test_reads_what_the_function_returns(module):
    task = read(f"{module}.inner.data:make", count=6)
    assert task.name == "mine"
    assert len(task.splits["train"]) == 6
    assert "duplicates" in task.notes  # it is checked like any other


def test_an_argument_that_the_recipe_would_never_fill_is_refused(module, tmp_path):
    path = tmp_path / f"{module}_flat.py"
    path.write_text(SOURCE.replace("count=4, start=0", "count=4, *, scale=2, start=0"))
    with pytest.raises(UsageError, match=r"takes 'scale', which \[task\] keeps for itself .rename"):
        tasks.fingerprint(TaskConfig(kind=f"{module}_flat:make"))


def test_what_it_returns_is_cut_to_the_limit(module):
    assert len(read(f"{module}.inner.data:make", count=6, limit=2).splits["train"]) == 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "no_such_module_here:make",
            r"importing no_such_module_here failed.*\(run from the folder",
        ),
        ("{}.inner.data:mak", "has no function 'mak'"),
        ("{}.inner.data:number", "has no function 'number'"),
        ("{}.inner.data:fails", "fails failed: KeyError: 'oh'"),
        ("{}.inner.data:other", "other returned int, expected edgekd.types.Task"),
        ("{}.inner.data:", "not of the form package.module:function"),
        (":make", "not of the form package.module:function"),
        ("a/b:make", "not of the form package.module:function"),
    ],
)
def test_errors(module, kind, message):
    with pytest.raises(UsageError, match=message):
        read(kind.format(module))


def test_an_option_that_the_function_does_not_take(module):
    with pytest.raises(UsageError, match=r"make failed: TypeError: .*'cuont'"):
        read(f"{module}.inner.data:make", cuont=6)


def test_an_error_of_edgekds_own_kind_comes_through_as_it_is(module):
    with pytest.raises(DataError, match=r"^the third file is missing$"):
        read(f"{module}.inner.data:refuses")


class TestFingerprint:
    def of(self, module, **options):
        return tasks.fingerprint(TaskConfig(kind=f"{module}.inner.data:make", **options))

    def test_follows_the_source(self, module, tmp_path):
        before = self.of(module)
        with (tmp_path / module / "inner" / "data.py").open("a") as file:
            file.write("# more\n")
        assert self.of(module) != before
        assert not [m for m in sys.modules if m.startswith(module)]

    def test_follows_what_the_source_imports(self, module, tmp_path):
        (tmp_path / module / "inner" / "more.py").write_text("FACTOR = 1\n")
        with (tmp_path / module / "inner" / "data.py").open("a") as file:
            file.write("from .more import FACTOR\n")
        before = self.of(module)
        (tmp_path / module / "inner" / "more.py").write_text("FACTOR = 2\n")
        assert self.of(module) != before

    def test_follows_options(self, module):
        assert self.of(module, count=6) != self.of(module, count=7)

    @pytest.mark.parametrize("option", ["{}/data", "$HERE/data", "{}/data/x.bin"])
    def test_follows_files_that_options_name(self, module, tmp_path, monkeypatch, option):
        monkeypatch.setenv("HERE", str(tmp_path))
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "x.bin").write_bytes(b"1")
        options = {"folder": option.format(tmp_path)}
        before = self.of(module, **options), self.of(module, start={"deep": [options["folder"]]})
        (tmp_path / "data" / "x.bin").write_bytes(b"2")
        after = self.of(module, **options), self.of(module, start={"deep": [options["folder"]]})
        assert before[0] != after[0]
        assert before[1] != after[1]

    def test_text_that_is_no_path(self, module):
        for text in ("", "no such file", "$NOT_SET_ANYWHERE/x", "a" * 5000, "nul\0l"):
            assert list(user_code.paths_in(text)) == []

    def test_folders_that_hold_the_current_one_are_no_inputs(self, tmp_path, monkeypatch):
        (tmp_path / "here" / "data").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "here")
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "weights.pt").write_bytes(b"1")
        for text in ("/", ".", "..", str(tmp_path)):
            assert list(user_code.paths_in(text)) == []
        assert [p.resolve() for p in user_code.paths_in("data")] == [tmp_path / "here" / "data"]
        assert list(user_code.paths_in("~/weights.pt")) == [tmp_path / "weights.pt"]
