"""Columns beside the label: from a task itself, from a table's own files, from a file of their own."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from edgekd import tasks
from edgekd.config import TaskConfig
from edgekd.errors import DataError, UsageError
from edgekd.tasks import check, columns_of, keep_first, load, save, split_sha256

TABLE = 'age,"home, now",size,buys\n1,Köln,0.5,no\n2,"Os, lo",1.5,yes\n3,Köln,2.5,yes\n\n4,Rom,3.5,no\n'


def texts(columns):
    return {name: list(column.texts) for name, column in columns.items()}


def table(tmp_path, train=TABLE, names=("home, now",), **options):
    (tmp_path / "train.csv").write_text(train, encoding="utf-8")
    for name in ("val", "test"):
        (tmp_path / f"{name}.csv").write_text(
            f'age,"home, now",size,buys\n{9 if name == "val" else 8},Rom,1,no\n', encoding="utf-8"
        )
        options.setdefault(name, str(tmp_path / f"{name}.csv"))
    config = TaskConfig(
        kind="table",
        train=str(tmp_path / "train.csv"),
        label="buys",
        drop=["home, now"],
        columns={"names": names},
        **{key: value for key, value in options.items() if value is not None},
    )
    return tasks.read(config, 0), config


def test_a_table_tells_by_the_lines_that_samples_stand_on(tmp_path):
    task, config = table(tmp_path)
    train = task.splits["train"]
    assert task.notes["features"] == ["age", "size"]  # a column is no feature for being named
    assert texts(columns_of(config, train)) == {"home, now": ["Köln", "Os, lo", "Köln", "Rom"]}
    # Whatever is left of the rows, in whatever order.
    assert texts(columns_of(config, replace(train, ids=train.ids[[3, 1]]))) == {
        "home, now": ["Rom", "Os, lo"]
    }
    assert texts(columns_of(config, task.splits["test"])) == {"home, now": ["Rom"]}


def test_of_a_split_that_was_cut_from_train_too(tmp_path):
    rows = "".join(f"{i},{'ab'[i % 2]}{i},0,{'no' if i < 6 else 'yes'}\n" for i in range(12))
    task, config = table(
        tmp_path,
        'age,"home, now",size,buys\n' + rows,
        test=None,
        val=None,
        val_fraction=0.25,
        test_fraction=0.5,
        names=["home, now", "age"],
    )
    test = task.splits["test"]
    assert len(test) == 6
    found = texts(columns_of(config, test))
    ages = test.inputs[:, 0].astype(int)
    assert found == {"home, now": [f"{'ab'[a % 2]}{a}" for a in ages], "age": [str(a) for a in ages]}


@pytest.mark.parametrize(
    ("names", "train", "message"),
    [
        (["homes, now"], TABLE, r"train.csv:1: no column 'homes, now'.*home, now"),
        (["buys"], TABLE, r"'buys' is the label.*gate\.slices\.label"),
        (["home, now"], TABLE.replace("Rom", ""), r"train\.csv:6: home, now is empty"),
        (["home, now"], TABLE.replace("Rom", "NaN"), r"train\.csv:6: home, now is empty"),
        (
            ["label"],
            TABLE.replace('"home, now"', "label"),
            "no column may be called 'label'",
        ),
    ],
)
def test_what_a_table_cannot_tell(tmp_path, names, train, message):
    (tmp_path / "train.csv").write_text(train, encoding="utf-8")
    drop = [train.split("\n")[0].split(",", 1)[1].rpartition(",size")[0].strip('"')]
    rest = train.split("\n")[0] + "\n8,Rom,1,no\n"
    (tmp_path / "test.csv").write_text(rest)
    (tmp_path / "val.csv").write_text(rest.replace("8", "9"))
    paths = {name: str(tmp_path / f"{name}.csv") for name in ("train", "val", "test")}
    config = TaskConfig(kind="table", label="buys", drop=drop, columns={"names": names}, **paths)
    task = tasks.read(config, 0)
    with pytest.raises(DataError) as told:
        columns_of(config, task.splits["train"])
    assert re.search(message, f"{told.value} {told.value.hint}")


@pytest.fixture
def held_out(clean):
    return clean.splits["test"]


def given(tmp_path, text, **more):
    (tmp_path / "meta.csv").write_text(text, encoding="utf-8")
    return TaskConfig(kind="digits", columns={"file": str(tmp_path / "meta.csv"), **more})


def test_a_file_is_matched_by_sample_id(tmp_path, held_out):
    config = given(tmp_path, "shop,sample_id,user\nB,other,u9\nB,test-1,3.0\nA,test-0,3\n")
    assert texts(columns_of(config, held_out)) == {"shop": ["A", "B"], "user": ["3", "3"]}
    config = given(tmp_path, "shop,sample_id,user\nB,test-1,\nA,test-0,\n", names=["shop"])
    assert texts(columns_of(config, held_out)) == {"shop": ["A", "B"]}  # what is not asked for may be empty


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_id,shop\ntest-0,A\n", r"no row for 1 of 2 samples of 'test': 'test-1'"),
        ("sample_id,shop\ntest-0,A\ntest-1,B\ntest-0,A\n", "sample_id 'test-0' stands twice"),
        ("sample_id,shop\ntest-0,A\ntest-1,\n", "column 'shop' has no value in row 2"),
        ("id,shop\ntest-0,A\n", "no column 'sample_id'"),
        ("", "empty, or its first line is"),
        ("sample_id;shop\ntest-0;A\n", "separated by semicolons"),
        ("sample_id,scores\ntest-0,A\ntest-1,B\n", "no column may be called 'scores'"),
        ("sample_id,file\ntest-0,A\ntest-1,B\n", "no column may be called 'file'"),
        ("sample_id,a/b\ntest-0,A\ntest-1,B\n", "no column may be called 'a/b'"),
        ("sample_id,user.npy\ntest-0,A\ntest-1,B\n", r"no column may be called 'user\.npy'"),
        ("sample_id, shop\ntest-0,A\ntest-1,B\n", "no column may be called ' shop'"),
        ("sample_id,shop\ntest-0,a\ntest-1,a\0\n", "'shop' has control characters in row 2"),
        (f"sample_id,shop\ntest-0,a\ntest-1,{'b' * 201}\n", "a value of 201 characters: 'bbb"),
        ("sample_id\ntest-0\ntest-1\n", "no column beside 'sample_id'"),
        ("sample_id,shop\ntest-0,A,x\n", r"meta\.csv:2: 3 values for 2 columns"),
    ],
)
def test_what_a_file_cannot_tell(tmp_path, held_out, text, message):
    with pytest.raises(DataError, match=message):
        columns_of(given(tmp_path, text), held_out)


def test_names_that_a_file_does_not_have(tmp_path, held_out):
    config = given(tmp_path, "sample_id,shop\ntest-0,A\ntest-1,B\n", names=["shops"])
    with pytest.raises(DataError, match="no column 'shops'"):
        columns_of(config, held_out)


def test_other_tasks_need_a_file(held_out):
    with pytest.raises(UsageError, match="'digits' has no columns of its own"):
        columns_of(TaskConfig(kind="digits", columns={"names": ["shop"]}), held_out)
    with pytest.raises(ValueError, match="give names, a file, or both"):
        TaskConfig(kind="digits", columns={})


@pytest.fixture
def named(clean):
    """A task that names columns itself, of odd names."""
    splits = {
        name: replace(split, columns={"a b.c": np.array([f"{name}{i}" for i in range(len(split))])})
        for name, split in clean.splits.items()
    }
    return replace(clean, splits=splits)


def test_a_task_may_name_columns_itself(named, tmp_path):
    save(named, tmp_path / "t")
    back = load(tmp_path / "t").splits["test"]
    config = TaskConfig(kind="digits")
    assert texts(columns_of(config, back)) == {"a b.c": ["test0", "test1"]}
    # They are no part of what a split is, and samples keep their own when some are left out.
    plain = replace(named.splits["train"], columns={})
    assert split_sha256(plain) == split_sha256(named.splits["train"])
    first = keep_first(named, 2, 0).splits["train"]
    assert list(first.columns["a b.c"]) == [f"train{i.rpartition('-')[2]}" for i in first.ids]
    with pytest.raises(DataError, match=r"has a column 'a b\.c' of its own"):
        columns_of(given(tmp_path, "sample_id,a b.c\ntest-0,A\ntest-1,B\n"), back)


def test_a_task_that_was_stored_before_there_were_columns_is_read(named, tmp_path):
    save(named, tmp_path)
    head = json.loads((tmp_path / "task.json").read_text())
    for split in head["splits"]:
        del split["columns"]
    (tmp_path / "task.json").write_text(json.dumps(head))
    assert load(tmp_path).splits["test"].columns == {}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"shop": np.array([1, 2])}, "column 'shop' is int64"),
        ({"shop": np.array(["a"])}, r"expected text \(2,\)"),
        ({"shop": np.array(["a", " "])}, "column 'shop' has no value in row 2"),
        ({"shop": np.array(["a", "\ud800"])}, "'shop' has control characters in row 2"),
        ({"shop": ["a", "b"]}, "column 'shop' is a list"),
        ({3: np.array(["a", "b"])}, "no column may be called 3"),
        ({"label": np.array(["a", "b"])}, "no column may be called 'label'"),
    ],
)
def test_columns_of_a_task_that_say_nothing(clean, columns, message):
    splits = {**clean.splits, "test": replace(clean.splits["test"], columns=columns)}
    with pytest.raises(DataError, match=message):
        check(replace(clean, splits=splits))


def test_naming_columns_makes_no_other_data():
    plain = TaskConfig(kind="digits")
    sliced = TaskConfig(kind="digits", columns={"file": "meta.csv"})
    assert tasks.fingerprint(plain) == tasks.fingerprint(sliced)
    assert tasks.fingerprint(plain) != tasks.fingerprint(TaskConfig(kind="digits", limit=9))
