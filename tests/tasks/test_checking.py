import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from edgekd.errors import DataError
from edgekd.metric_names import metric_named
from edgekd.tasks.checking import check, keep_first, split_sha256
from edgekd.types import Metric, Split


def counts(task):
    return {n: len(s) for n, s in task.splits.items()}


def with_split(task, name, /, **change):
    return replace(task, splits={**task.splits, name: replace(task.splits[name], **change)})


def test_a_clean_task_passes_as_it_is(clean):
    checked = check(clean)
    assert checked.splits == clean.splits
    assert checked.notes == {"duplicates": {"train": 0, "val": 0, "test": 0}}
    assert check(checked) == checked  # checking twice changes nothing


def test_duplicates_within_a_split_are_counted(make_task):
    # train: [1,1] three times and [2,2] twice, thus 2 + 1 repeats; test: none
    task = make_task(
        train=([[1, 1], [2, 2], [1, 1], [3, 3], [1, 1], [2, 2]], [0, 1] * 3),
        val=([[4, 4], [4, 4]], [0, 1]),
        test=([[5, 5]], [0]),
    )
    assert check(task).notes["duplicates"] == {"train": 3, "val": 1, "test": 0}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"std": (1.0, 0.0)}, "must be finite"),
        ({"mean": (float("nan"), 0.0)}, "must be finite"),
        ({"scale": 0.0}, "must be finite"),
        ({"mean": (0.0,)}, "mean has 1 values, one for each of 2 channels"),
        ({"std": (1.0,) * 3}, "std has 3 values"),
        ({"layout": "NCHW"}, r"shape \(2,\) is not of layout NCHW"),
    ],
)
def test_an_input_spec_that_cannot_be(clean, spec, message):
    with pytest.raises(DataError, match=message):
        check(replace(clean, input_spec=replace(clean.input_spec, **spec)))


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ((), "has no metrics"),
        ((Metric("auc", "higher", "fraction"),), "has the metric .*fraction.*, which is"),
        ((Metric("cleverness", "higher", ""),), "no metric is called 'cleverness'"),
    ],
)
def test_metrics_that_are_none(clean, metrics, message):
    with pytest.raises(DataError, match=message):
        check(replace(clean, metrics=metrics))


def test_a_task_may_have_another_metric_than_accuracy(clean):
    assert check(replace(clean, metrics=(metric_named("auc"),))).metrics[0].name == "auc"


def test_a_class_that_a_split_lacks_is_noted(clean):
    val = clean.splits["val"]
    only = replace(clean, splits={**clean.splits, "val": replace(val, labels=np.zeros(len(val), np.int64))})
    assert check(only).notes["absent_classes"] == {"val": list(clean.class_names[1:][:5])}
    assert "absent_classes" not in check(clean).notes or "val" not in check(clean).notes["absent_classes"]


class TestLeaks:
    def leaking(self, make_task):
        # By content: train-1 = test-0, train-2 = val-1, val-0 = test-1, unlabelled-0 = train-0.
        return make_task(
            train=([[0, 0], [9, 0], [1, 1], [3, 3]], [0, 1, 0, 1]),
            val=([[9, 1], [1, 1], [8, 8]], [0, 1, 0]),
            test=([[9, 0], [9, 1]], [0, 1]),
            unlabelled=([[0, 0], [7, 7]], None),
        )

    def test_error_names_both_samples_and_the_remedy(self, make_task):
        with pytest.raises(DataError, match=r"'val-0' is test 'test-1'") as caught:
            check(self.leaking(make_task))
        assert 'task.on_overlap = "drop_from_train"' in caught.value.hint

    def test_dropping_leaves_each_sample_in_one_split_only(self, make_task):
        task = check(self.leaking(make_task), "drop_from_train")
        assert {n: list(s.ids) for n, s in task.splits.items()} == {
            "train": ["train-0", "train-3"],
            "val": ["val-1", "val-2"],
            "test": ["test-0", "test-1"],
            "unlabelled": ["unlabelled-1"],
        }
        assert list(task.splits["train"].labels) == [0, 1]
        assert task.splits["train"].inputs.tolist() == [[0, 0], [3, 3]]
        assert task.notes["dropped"] == {"val": 1, "train": 2, "unlabelled": 1}
        assert list(task.splits) == ["train", "val", "test", "unlabelled"]
        # What was dropped stays on record when the stored task is checked again, even strictly.
        assert check(task).notes["dropped"] == {"val": 1, "train": 2, "unlabelled": 1}

    def test_a_sample_of_train_in_a_dropped_one_of_val(self, make_task):
        # val-0 leaves val for test's sake; train-0 has the same content and must leave too.
        task = make_task(
            train=([[5, 5], [1, 0]], [0, 1]), val=([[5, 5], [2, 0]], [0, 1]), test=([[5, 5]], [0])
        )
        checked = check(task, "drop_from_train")
        assert counts(checked) == {"train": 1, "val": 1, "test": 1}

    def test_what_was_dropped_earlier_is_counted_in(self, make_task):
        task = make_task(
            notes={"dropped": {"train": 2}},
            train=([[1, 1], [2, 2]], [0, 1]),
            val=([[3, 3]], [0]),
            test=([[1, 1]], [0]),
        )
        assert check(task, "drop_from_train").notes["dropped"] == {"train": 3}

    def test_by_id_alone(self, clean):
        ids = np.array(["val-0", "test-0"])
        leak = with_split(clean, "val", ids=ids)
        with pytest.raises(DataError, match=r"1 samples of 'val'.*'test-0' is test 'test-0'"):
            check(leak)
        assert list(check(leak, "drop_from_train").splits["val"].ids) == ["val-0"]

    def test_the_label_does_not_hide_a_leak(self, make_task):
        task = make_task(train=([[1, 1], [2, 2]], [0, 1]), val=([[3, 3]], [0]), test=([[1, 1]], [1]))
        with pytest.raises(DataError, match="'train-0' is test 'test-0'"):
            check(task)

    def test_only_the_first_are_named(self, make_task):
        same = [[i, i] for i in range(9)]
        task = make_task(train=(same, [0] * 9), val=([[0, 1]], [0]), test=(same, [0] * 9))
        with pytest.raises(DataError, match=r"9 samples of 'train'.*'train-4' is test 'test-4' and 4 more"):
            check(task)

    def test_nothing_left_of_train(self, make_task):
        task = make_task(train=([[1, 1]], [0]), val=([[3, 3]], [0]), test=([[1, 1]], [0]))
        with pytest.raises(DataError, match="split 'train' is empty"):
            check(task, "drop_from_train")


class TestRefused:
    def test_missing_split(self, clean):
        with pytest.raises(DataError, match="no split 'val'"):
            check(replace(clean, splits={n: s for n, s in clean.splits.items() if n != "val"}))

    def test_unknown_split(self, clean):
        with pytest.raises(DataError, match="'valid'"):
            check(replace(clean, splits={**clean.splits, "valid": clean.splits["val"]}))

    def test_split_under_anothers_name(self, clean):
        with pytest.raises(DataError, match=r"'val' \(called 'test'\)"):
            check(with_split(clean, "val", name="test"))

    def test_empty_split(self, clean):
        empty = replace(
            clean.splits["val"],
            ids=np.array([], np.str_),
            inputs=np.empty((0, 2), np.uint8),
            labels=np.empty(0, np.int64),
        )
        with pytest.raises(DataError, match=r"split 'val'.* is empty"):
            check(replace(clean, splits={**clean.splits, "val": empty}))

    @pytest.mark.parametrize("label", [2, -1])
    def test_label_out_of_range(self, clean, label):
        with pytest.raises(DataError, match=rf"sample 'test-1': label {label} is outside 0..1"):
            check(with_split(clean, "test", labels=np.array([0, label])))

    def test_no_labels(self, clean):
        for name in ("val", "test"):
            with pytest.raises(
                DataError, match=f"split '{name}' has no labels .it is what networks are judged"
            ):
                check(with_split(clean, name, labels=None))
        assert check(with_split(clean, "train", labels=None)).splits["train"].labels is None

    @pytest.mark.parametrize("labels", [np.array([0.0, 1.0]), np.array([0, 1, 0])])
    def test_labels_of_another_type_or_length(self, clean, labels):
        with pytest.raises(DataError, match="split 'val': labels are"):
            check(with_split(clean, "val", labels=labels))

    @pytest.mark.parametrize("inputs", [np.zeros((2, 3), np.uint8), np.zeros((2, 2), np.float32)])
    def test_inputs_that_are_not_what_the_spec_says(self, clean, inputs):
        with pytest.raises(DataError, match=r"split 'val': inputs are .*the input spec says uint8 \(2, 2\)"):
            check(with_split(clean, "val", inputs=inputs))

    def test_ids_of_another_length(self, clean):
        with pytest.raises(DataError, match="split 'val'"):
            check(with_split(clean, "val", ids=np.array(["a", "b", "c"])))

    def test_id_twice(self, clean):
        with pytest.raises(DataError, match="split 'val': ids stand more than once: 'a'"):
            check(with_split(clean, "val", ids=np.array(["a", "a"])))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_value_that_is_no_number(self, make_task, value):
        task = make_task(
            dtype=np.float32, train=([[1, 1]], [0]), val=([[2, 2]], [0]), test=([[3, 3], [4, value]], [0, 1])
        )
        with pytest.raises(DataError, match="split 'test': 1 samples hold NaN or infinite values: 'test-1'"):
            check(task)


class TestKeepFirst:
    def test_first_of_each_class_in_proportion(self, make_task):
        # 6 of class 0 and 3 of class 1: four samples are shared out 2.67 : 1.33, thus 3 : 1.
        labels = [0, 0, 1, 0, 0, 1, 0, 1, 0]
        task = make_task(
            train=([[i, i] for i in range(9)], labels), val=([[0, 1]], [0]), test=([[0, 2]], [0])
        )
        kept = keep_first(task, 4, seed=0)
        assert list(kept.splits["train"].ids) == ["train-0", "train-1", "train-2", "train-3"]
        assert len(kept.splits["val"]) == 1

    def test_every_class_is_kept_where_there_is_room(self, make_task):
        labels = [0] * 30 + [1, 2]
        train = ([[i, i] for i in range(32)], labels)
        task = make_task(classes=3, train=train, val=([[0, 1]], [0]), test=([[0, 2]], [0]))
        kept = keep_first(task, 5, seed=0).splits["train"]
        assert Counter(kept.labels.tolist()) == {0: 3, 1: 1, 2: 1}
        assert len(keep_first(task, 2, seed=0).splits["train"]) == 2

    def test_the_seed_decides_ties_and_nothing_else(self, make_task):
        train = ([[i, i] for i in range(8)], [0, 1] * 4)
        task = make_task(train=train, val=([[0, 1]], [0]), test=([[0, 2]], [0]))
        kept = {tuple(keep_first(task, 5, seed=s).splits["train"].ids) for s in range(20)}
        assert kept == {
            tuple(f"train-{i}" for i in (0, 1, 2, 3, 4)),
            tuple(f"train-{i}" for i in (0, 1, 2, 3, 5)),
        }
        again = keep_first(task, 5, seed=3).splits["train"].ids
        assert (again == keep_first(task, 5, seed=3).splits["train"].ids).all()

    def test_unlabelled_samples(self, make_task):
        task = make_task(unlabelled=([[i, i] for i in range(5)], None))
        assert list(keep_first(task, 2, 0).splits["unlabelled"].ids) == ["unlabelled-0", "unlabelled-1"]


class TestDigest:
    def test_is_what_is_documented(self):
        split = Split("val", np.array(["a", "bé"]), np.array([[1, 2], [3, 4]], np.uint8), np.array([0, 1]))
        parts = [
            b"a",
            "bé".encode(),
            b"|u1 (2, 2)",
            bytes([1, 2, 3, 4]),
            b"<i8 (2,)",
            bytes([0] * 8 + [1] + [0] * 7),
        ]
        expected = hashlib.sha256(b"".join(len(p).to_bytes(8, "little") + p for p in parts)).hexdigest()
        assert split_sha256(split) == expected

    def test_follows_every_part(self, clean):
        split = clean.splits["val"]
        changed = [
            replace(split, ids=np.array(["val-0", "val-x"])),
            replace(split, inputs=split.inputs + np.uint8(1)),
            replace(split, inputs=split.inputs.view(np.int8)),
            replace(split, labels=split.labels[::-1]),
            replace(split, labels=None),
        ]
        assert len({split_sha256(s) for s in (split, *changed)}) == 6

    def test_does_not_follow_memory_layout_or_width_of_ids(self, clean):
        split = clean.splits["val"]
        same = replace(split, inputs=np.asfortranarray(split.inputs), ids=split.ids.astype("<U40"))
        assert split_sha256(same) == split_sha256(split)
