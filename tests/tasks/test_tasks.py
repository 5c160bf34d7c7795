"""edgekd.tasks itself: reading by kind, fingerprints, paths."""

import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
from pydantic import ValidationError

from edgekd import tasks
from edgekd.config import Strict, TaskConfig
from edgekd.errors import DataError, UsageError
from edgekd.tasks import READERS


def config(kind="synthetic", **options):
    return TaskConfig(kind=kind, **options)


def save_npz(path, value=0):
    x = np.arange(24, dtype=np.uint8).reshape(12, 2) + np.uint8(value)
    y = np.array([0, 1] * 2)
    np.savez(path, train_x=x[:4], train_y=y, val_x=x[4:8], val_y=y, test_x=x[8:], test_y=y)


@pytest.mark.parametrize("kind", READERS)
def test_every_reader_has_what_the_table_promises(kind):
    module = import_module(READERS[kind])
    assert isinstance(module.VERSION, int)
    assert issubclass(module.Options, Strict)
    assert callable(module.sources) and callable(module.read)


def test_importing_tasks_loads_no_reader_and_no_torch():
    code = """if True:
        import sys
        from edgekd import tasks
        print([name for name in (*tasks.READERS.values(), "torch") if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_kind_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown task kind 'digit'.*did you mean 'digits'"):
        tasks.read(config("digit"), 0)


def test_unknown_option_names_the_nearest():
    with pytest.raises(UsageError, match=r"task of kind 'synthetic': unknown key 'num_trian'.*'num_train'"):
        tasks.read(config(num_trian=3), 0)


def test_keys_that_every_task_has_are_among_those_that_were_meant():
    with pytest.raises(UsageError, match=r"unknown key 'meen'.*did you mean 'mean'"):
        tasks.read(config("digits", meen=[0.5]), 0)
    with pytest.raises(UsageError, match=r"unknown key 'zzz' \(valid keys here: .*limit.*std"):
        tasks.read(config("digits", zzz=1), 0)


def test_option_of_the_wrong_type():
    with pytest.raises(UsageError, match=r"num_train = '3': .*integer"):
        tasks.fingerprint(config(num_train="3"))


def test_limit_cuts_every_split_and_notes_describe_what_is_left():
    task = tasks.read(config(num_train=100, num_val=50, num_test=10, limit=20), 0)
    assert {n: len(s) for n, s in task.splits.items()} == {"train": 20, "val": 20, "test": 10}
    assert task.notes["duplicates"] == {"train": 0, "val": 0, "test": 0}


def test_inputs_are_prepared_as_a_teacher_knows_them(tmp_path):
    save_npz(tmp_path / "a.npz")
    path = str(tmp_path / "a.npz")
    task = tasks.read(config("npz", path=path, mean=(1.0, 2), std=(0.5, 4.0), scale=2.0), 0)
    # The first sample is 0, 1: (0/2 - 1) / 0.5 and (1/2 - 2) / 4.
    first = task.input_spec.preprocess(task.splits["train"].inputs[:1])
    np.testing.assert_allclose(first, [[-2.0, -0.375]])
    kept = tasks.read(config("npz", path=path, mean=(0.0, 0.0), std=(1.0, 1.0)), 0)
    assert kept.input_spec.scale == 255 and kept.input_spec.raw_range == task.input_spec.raw_range
    own = tasks.read(config("npz", path=path), 0).input_spec
    # Train is 0 to 7: its columns 0, 2, 4, 6 and 1, 3, 5, 7.
    np.testing.assert_allclose(own.mean, [3 / 255, 4 / 255])
    np.testing.assert_allclose(own.std, [5**0.5 / 255] * 2)


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({"mean": (0.0, 0.0)}, ValidationError, "task.mean and task.std go together"),
        ({"scale": 1.0}, ValidationError, "task.scale needs task.mean and task.std beside it"),
        ({"mean": (0.0,) * 3, "std": (1.0,) * 3}, DataError, "mean has 3 values, one for each of 2"),
        ({"mean": (0.0,) * 2, "std": (1.0, 0.0)}, DataError, "the last two not 0"),
    ],
)
def test_inputs_cannot_be_prepared_so(tmp_path, said, error, message):
    save_npz(tmp_path / "a.npz")
    with pytest.raises(error, match=message):
        tasks.read(config("npz", path=str(tmp_path / "a.npz"), **said), 0)


def test_overlap_beyond_the_limit_is_found_too(tmp_path):
    x = np.arange(24, dtype=np.uint8).reshape(12, 2)
    y = np.array([0, 1] * 2)
    x[3] = x[11]  # the last of train is the last of test
    np.savez(tmp_path / "a.npz", train_x=x[:4], train_y=y, val_x=x[4:8], val_y=y, test_x=x[8:], test_y=y)
    with pytest.raises(DataError, match="'train/3' is test 'test/3'"):
        tasks.read(config("npz", path=str(tmp_path / "a.npz"), limit=2), 0)
    mended = tasks.read(config("npz", path=str(tmp_path / "a.npz"), limit=2, on_overlap="drop_from_train"), 0)
    assert mended.notes["dropped"] == {"train": 1}


class TestFingerprint:
    def test_is_the_same_for_the_same_and_does_not_decode(self, tmp_path):
        (tmp_path / "a.npz").write_bytes(b"no npz at all")
        this = config("npz", path=str(tmp_path / "a.npz"))
        assert tasks.fingerprint(this) == tasks.fingerprint(this)

    def test_follows_the_bytes_of_the_file(self, tmp_path):
        this = config("npz", path=str(tmp_path / "a.npz"))
        save_npz(tmp_path / "a.npz")
        before = tasks.fingerprint(this)
        save_npz(tmp_path / "a.npz", value=1)
        assert tasks.fingerprint(this) != before
        save_npz(tmp_path / "a.npz")
        assert tasks.fingerprint(this) == before

    def test_does_not_follow_where_the_data_lies(self, tmp_path, monkeypatch):
        found = []
        for place in ("here", "there"):
            (tmp_path / place).mkdir()
            save_npz(tmp_path / place / "a.npz")
            monkeypatch.setenv("PLACE", str(tmp_path / place))
            found.append(tasks.fingerprint(config("npz", path="${PLACE}/a.npz")))
        assert found[0] == found[1]

    @pytest.mark.parametrize("other", [{"num_train": 9}, {"limit": 5}, {"on_overlap": "drop_from_train"}])
    def test_follows_the_options(self, other):
        assert tasks.fingerprint(config()) != tasks.fingerprint(config(**other))

    def test_follows_the_readers_version(self, monkeypatch):
        before = tasks.fingerprint(config())
        monkeypatch.setattr(import_module(READERS["synthetic"]), "VERSION", 99)
        assert tasks.fingerprint(config()) != before

    def test_asks_the_given_function_for_every_source(self, tmp_path):
        (tmp_path / "train").mkdir()
        (tmp_path / "test.zip").write_bytes(b"x")
        asked = []
        folder, archive = tmp_path / "train", tmp_path / "test.zip"
        this = config("image_folder", train=str(folder), test=str(archive), val_fraction=0.1)
        tasks.fingerprint(this, lambda path: asked.append(path) or "0")
        assert asked == [folder, archive]

    def test_follows_a_files_name_in_a_folder(self, tmp_path):
        this = config("image_folder", train=str(tmp_path), val_fraction=0.1, test_fraction=0.1)
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "1.png").write_bytes(b"x")
        before = tasks.fingerprint(this)
        (tmp_path / "a").rename(tmp_path / "b")  # another class
        assert tasks.fingerprint(this) != before

    def test_missing_file(self, tmp_path):
        with pytest.raises(DataError, match="no such file or folder"):
            tasks.fingerprint(config("npz", path=str(tmp_path / "none.npz")))


class TestExpandPath:
    @pytest.mark.parametrize("text", ["$PLACE/x/a.npz", "${PLACE}/x/a.npz"])
    def test_variables(self, text, monkeypatch):
        monkeypatch.setenv("PLACE", "/data")
        assert str(tasks.expand_path(text, "task.path")) == "/data/x/a.npz"

    def test_relative_stays_relative_to_the_current_folder(self, tmp_path, monkeypatch):
        save_npz(tmp_path / "a.npz")
        monkeypatch.chdir(tmp_path)
        assert str(tasks.expand_path("a.npz", "task.path")) == "a.npz"
        assert len(tasks.read(config("npz", path="a.npz"), 0).splits["train"]) == 4

    @pytest.mark.parametrize("value", [None, ""])
    def test_unset_variable_is_named_with_its_remedy(self, value, monkeypatch):
        monkeypatch.delenv("EDGEKD_DATA", raising=False)
        if value is not None:
            monkeypatch.setenv("EDGEKD_DATA", value)
        with pytest.raises(UsageError, match=r"task.path = .*EDGEKD_DATA is not set.*export EDGEKD_DATA="):
            tasks.read(config("idx", path="${EDGEKD_DATA}/fashion_mnist"), 0)

    def test_empty_path(self):
        with pytest.raises(UsageError, match=r"task.path = ' ': not a path"):
            tasks.expand_path(" ", "task.path")
