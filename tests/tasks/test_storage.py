import json
from dataclasses import replace

import numpy as np
import pytest

from edgekd.errors import DataError, StoreError
from edgekd.tasks import load, save, split_sha256


@pytest.fixture
def task(make_task):
    return make_task(
        notes={"duplicates": {"train": 1}, "third": 1 / 3, "word": "é"},
        dtype=np.float32,
        train=([[1, 2], [3, np.pi]], [0, 1]),
        val=([[5, 6]], [0]),
        test=([[7, 8]], [1]),
        unlabelled=([[0, 1e-30]], None),
    )


def test_round_trip_is_exact(task, tmp_path):
    save(task, tmp_path / "new" / "folder")
    back = load(tmp_path / "new" / "folder")
    for field in ("name", "metrics", "input_spec", "class_names", "notes", "num_classes"):
        assert getattr(back, field) == getattr(task, field)
    assert list(back.splits) == list(task.splits)
    for name, split in task.splits.items():
        other = back.splits[name]
        assert other.name == name
        for array, read in zip(
            (split.ids, split.inputs, split.labels), (other.ids, other.inputs, other.labels), strict=True
        ):
            assert (array is None) == (read is None)
            if array is not None:
                assert read.dtype == array.dtype
                np.testing.assert_array_equal(read, array)
        assert split_sha256(other) == split_sha256(split)


def test_arrays_are_read_only_maps_and_hold_no_pickle(task, tmp_path):
    save(task, tmp_path)
    train = load(tmp_path).splits["train"]
    assert isinstance(train.inputs, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        train.inputs[0] = 0
    for path in tmp_path.glob("*.npy"):
        np.load(path, allow_pickle=False)


@pytest.mark.parametrize("notes", [{"a": object()}, {"a": (1, 2)}, {"a": float("nan")}, {1: "a"}])
def test_notes_that_json_would_change(task, tmp_path, notes):
    with pytest.raises(DataError, match="notes of task 't' do not survive JSON"):
        save(replace(task, notes=notes), tmp_path)


class TestBroken:
    def broken(self, tmp_path):
        with pytest.raises(StoreError, match=r"not a stored task.*delete the folder") as caught:
            load(tmp_path)
        return caught.value.message

    def test_nothing_there(self, tmp_path):
        self.broken(tmp_path / "none")

    def test_missing_array(self, task, tmp_path):
        save(task, tmp_path)
        (tmp_path / "val.labels.npy").unlink()
        assert "val.labels.npy" in self.broken(tmp_path)

    def test_array_cut_short(self, task, tmp_path):
        save(task, tmp_path)
        path = tmp_path / "train.inputs.npy"
        path.write_bytes(path.read_bytes()[:-1])
        self.broken(tmp_path)

    def test_pickled_array(self, task, tmp_path):
        save(task, tmp_path)
        np.save(tmp_path / "train.ids.npy", np.array([object(), object()]), allow_pickle=True)
        self.broken(tmp_path)

    def test_arrays_that_differ_in_length(self, task, tmp_path):
        save(task, tmp_path)
        np.save(tmp_path / "train.labels.npy", np.zeros(3, np.int64))
        assert "'train' differ in length" in self.broken(tmp_path)

    @pytest.mark.parametrize("change", [{"format": 99}, {"splits": 3}, {"input_spec": {}}])
    def test_head_of_another_form(self, task, tmp_path, change):
        save(task, tmp_path)
        head = json.loads((tmp_path / "task.json").read_text())
        (tmp_path / "task.json").write_text(json.dumps({**head, **change}))
        self.broken(tmp_path)

    def test_head_that_is_no_json(self, task, tmp_path):
        save(task, tmp_path)
        (tmp_path / "task.json").write_text("{")
        self.broken(tmp_path)


def test_a_vector_and_what_is_the_same_come_back(task, tmp_path):
    labelled = {
        name: replace(split, head_labels={"vector": np.arange(len(split), dtype=np.int64)})
        if split.labels is not None
        else split
        for name, split in task.splits.items()
    }
    save(replace(task, vector=5, splits=labelled), tmp_path / "folder")
    back = load(tmp_path / "folder")
    assert (back.vector, back.num_outputs) == (5, 7)
    assert back.splits["train"].head_labels["vector"].tolist() == [0, 1]
