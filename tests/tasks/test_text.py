import numpy as np
import pytest

from edgekd import tasks
from edgekd.config import TaskConfig
from edgekd.errors import DataError, UsageError
from tests.texts import VOCABULARY, sentences, write_csv, write_tokenizer


@pytest.fixture
def read(tmp_path):
    """The task of three CSV files, each a list of (text, label)."""
    folder = write_tokenizer(tmp_path / "words")

    def of(train, val=(("now", "a"),), test=(("help", "a"),), **options):
        settings = {"tokenizer": str(folder), "max_length": 6}
        for name, rows in (("train", train), ("val", val), ("test", test)):
            if rows is not None:
                settings[name] = str(write_csv(tmp_path / f"{name}.csv", rows))
        return tasks.read(TaskConfig(kind="text", **(settings | options)), 0)

    return of


def ids(*words):
    return [VOCABULARY.index(word) for word in words]


def test_by_hand(read):
    task = read([("My CARD", "b"), ("lost cash xz", "a")])
    assert task.splits["train"].inputs.tolist() == [
        ids("[CLS]", "my", "card", "[SEP]", "[PAD]", "[PAD]"),
        ids("[CLS]", "lost", "cash", "x", "##z", "[SEP]"),
    ]
    assert task.splits["train"].inputs.dtype == np.int32
    assert task.splits["train"].labels.tolist() == [1, 0]
    assert task.class_names == ("a", "b")
    spec = task.input_spec
    assert (spec.shape, spec.raw_dtype, spec.raw_range) == ((6,), "int32", (0.0, len(VOCABULARY) - 1.0))
    assert spec.preprocess(task.splits["train"].inputs) is not None
    assert spec.preprocess(task.splits["val"].inputs).dtype == np.int32
    assert list(task.splits["train"].ids) == ["train:2", "train:3"]


def test_what_is_cut_and_what_is_unknown_is_counted(read):
    # five words and both ends are one more than six
    task = read([("my lost card is late", "a"), ("my lost card is", "b")], test=[("lost ☂", "a")])
    assert task.splits["train"].inputs[0].tolist() == ids("[CLS]", "my", "lost", "card", "is", "[SEP]")
    assert task.notes["cut"] == {"train": 1, "val": 0, "test": 0}
    assert task.notes["with_unknown_words"] == {"train": 0, "val": 0, "test": 1}
    assert task.splits["test"].inputs[0, 2] == VOCABULARY.index("[UNK]")


def test_texts_of_equal_words_stay_in_one_split(read):
    rows = sentences(60)
    again = [(text.upper(), label) for text, label in rows[:12]]  # the tokenizer makes the same of it
    task = read([*rows, *again], None, None, val_fraction=0.2, test_fraction=0.2, max_length=16)
    seen = [{tuple(x) for x in split.inputs.tolist()} for split in task.splits.values()]
    assert not (seen[0] & seen[1]) and not (seen[0] & seen[2]) and not (seen[1] & seen[2])
    assert sum(len(split) for split in task.splits.values()) == 72


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("my card", "a"), ("  ", "b")], r"train.csv:3: text is empty"),
        ([("my card", "a"), ("cash", "")], r"train.csv:3: label is empty"),
        ([], r"train.csv: no rows below a header"),
    ],
)
def test_bad_rows_are_named(read, rows, message):
    with pytest.raises(DataError, match=message):
        read(rows)


def test_a_label_that_train_has_not(read):
    with pytest.raises(DataError, match=r"test.csv:2: label = 'c' is no label of train"):
        read([("my card", "a"), ("cash", "b")], test=[("now", "c")])


def test_a_column_that_is_not_there(read):
    with pytest.raises(DataError, match=r"train.csv:1: no column 'txt'") as error:
        read([("my card", "a"), ("cash", "b")], text="txt")
    assert "text" in str(error.value.hint)


def test_a_tokenizer_whose_padding_is_another_id(read, tmp_path):
    folder = write_tokenizer(tmp_path / "other", ("[UNK]", "[PAD]", *VOCABULARY[2:]))
    with pytest.raises(DataError, match=r"\[PAD\] has the id 1, it must be 0"):
        read([("my card", "a"), ("cash", "b")], tokenizer=str(folder))


def test_what_is_no_tokenizer(read, tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match="not a tokenizer"):
        read([("my card", "a"), ("cash", "b")], tokenizer=str(tmp_path / "tokenizer.json"))


def test_ids_take_no_mean(read):
    with pytest.raises((DataError, UsageError), match=r"ids .* are fed as they are"):
        read([("my card", "a"), ("cash", "b")], mean=(0.0,) * 6, std=(1.0,) * 6)


def test_things_stay_together_and_are_known(read):
    rows = [
        (f"{'abcdefghijklmnopqrst'[i]} {word}", "ab"[i % 2], f"t{i % 20}")
        for i in range(20)
        for word in ("my card", "the cash", "a rate")
    ]
    task = read(rows, None, None, val_fraction=0.2, test_fraction=0.3, vector=7, same="thing")
    assert (task.vector, task.num_judged, task.num_outputs) == (7, 9, 9)
    assert task.parts == {"": slice(0, 2), "vector": slice(2, 9)}
    seen = {}
    for name, split in task.splits.items():
        things = [rows[int(str(i).partition(":")[2]) - 2][2] for i in split.ids]
        assert list(split.columns["thing"]) == things
        numbers = split.head_labels["vector"]
        assert (
            len(set(zip(numbers.tolist(), things, strict=True)))
            == len(set(numbers.tolist()))
            == len(set(things))
        )
        seen[name] = set(things)
    assert {name: 3 * len(found) for name, found in seen.items()} == {"train": 30, "val": 12, "test": 18}
    assert len(seen["train"] | seen["val"] | seen["test"]) == 20


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ([("now", "a", "x")], {"vector": 3}, UsageError, "vector and same go together"),
        ([("now", "a", "")], {"vector": 3, "same": "thing"}, DataError, "thing is empty"),
        ([("now", "a")], {"vector": 3, "same": "thing"}, DataError, "no column 'thing'"),
    ],
)
def test_things_that_are_not_told(read, rows, options, error, message):
    with pytest.raises(error, match=message):
        read(rows, rows, rows, **options)


def test_too_few_things_to_share_out(read):
    rows = [("now", "a", "x"), ("help", "b", "y"), ("lost", "a", "z")]
    with pytest.raises(DataError, match=r"task\.same: 3 things are too few to share out between val, test"):
        read(rows, None, None, val_fraction=0.4, test_fraction=0.5, vector=3, same="thing")


def test_a_thing_that_stands_in_two_files(read):
    rows = [("now", "a", "x"), ("help", "b", "y")]
    with pytest.raises(
        DataError, match=r"train\.csv, .*test\.csv: thing = 'y' stands in both, and 0 others do"
    ):
        read(rows, [("my", "a", "v")], [("lost", "a", "y"), ("late", "a", "w")], vector=3, same="thing")
