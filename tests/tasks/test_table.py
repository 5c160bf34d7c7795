import csv
import json
import math
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import OneHotEncoder

import edgekd
from edgekd import table_rows, tasks
from edgekd.config import TaskConfig
from edgekd.errors import DataError, UsageError

TRAIN = """age,colour,size,buys
1,red,0.5,no
2,blue,1.5,yes
3,red,2.5,yes
"""
VAL = "age,colour,size,buys\n4,red,1,no\n"
TEST = "age,colour,size,buys\n5,green,1,yes\n\n6,blue,1,no\n"


def read(tmp_path, train=TRAIN, val=VAL, test=TEST, **options):
    settings = {"label": "buys", "categorical": ["colour"]}
    for name, text in (("train", train), ("val", val), ("test", test)):
        if text is not None:
            (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
            settings[name] = str(tmp_path / f"{name}.csv")
    return tasks.read(TaskConfig(kind="table", **(settings | options)), 0)


def test_by_hand(tmp_path):
    task = read(tmp_path)
    assert task.notes["features"] == ["age", "size", "colour=blue", "colour=red"]
    assert task.splits["train"].inputs.tolist() == [[1, 0.5, 0, 1], [2, 1.5, 1, 0], [3, 2.5, 0, 1]]
    assert task.splits["test"].inputs.tolist() == [[5, 1, 0, 0], [6, 1, 1, 0]]  # green is not in train
    assert task.notes["unseen_categories"] == {"train": 0, "val": 0, "test": 1}
    assert task.class_names == ("no", "yes")
    assert task.splits["train"].labels.tolist() == [0, 1, 1]
    assert list(task.splits["test"].ids) == ["test:2", "test:4"]  # lines of the file, one is blank
    spec = task.input_spec
    assert (spec.shape, spec.layout, spec.raw_dtype) == ((4,), "NC", "float32")
    # of 1, 2, 3 and 0.5, 1.5, 2.5: the standard deviation is sqrt(2/3); categories stay 0 and 1
    assert spec.mean == pytest.approx([2, 1.5, 0, 0])
    assert spec.std == pytest.approx([(2 / 3) ** 0.5, (2 / 3) ** 0.5, 1, 1])
    assert spec.raw_range == (0.0, 3.0)


def test_drop(tmp_path):
    assert read(tmp_path, categorical=[], drop=["colour"]).notes["features"] == ["age", "size"]


def test_labels_that_are_numbers_stand_in_their_order(tmp_path):
    rows = "".join(f"{i},{label}\n" for i, label in enumerate((10, 9, 2)))
    text = "x,y\n" + rows
    task = read(tmp_path, text, "x,y\n7,9\n", "x,y\n8,10\n", label="y", categorical=[])
    assert task.class_names == ("2", "9", "10")
    assert task.splits["train"].labels.tolist() == [2, 1, 0]


def test_byte_order_mark_quotes_and_breaks_in_cells(tmp_path):
    train = '\ufeffage,colour,size,buys\n1,"red, ""dark""\nor so",0.5,no\n2,blue,1.5,yes\n'
    task = read(tmp_path, train)
    assert task.notes["features"] == ["age", "size", "colour=blue", 'colour=red, "dark"\nor so']
    assert list(task.splits["train"].ids) == ["train:3", "train:4"]  # the line that a row ends on


class TestFractions:
    def text(self, rows=60):
        """Every row twice; category z only once in 30."""
        lines = [f"{i},{'z' if i % 30 == 0 else 'ab'[i % 2]},{i % 3 == 0}" for i in range(rows)]
        return "x,kind,y\n" + "".join(f"{line}\n{line}\n" for line in lines)

    def read(self, tmp_path, **options):
        settings = {"label": "y", "categorical": ["kind"], "val_fraction": 0.2, "test_fraction": 0.25}
        return read(tmp_path, self.text(), None, None, **(settings | options))

    def test_equal_rows_stay_together_and_nothing_leaks(self, tmp_path):
        task = self.read(tmp_path)
        x = {n: {r[0] for r in s.inputs.tolist()} for n, s in task.splits.items()}
        assert not (x["train"] & x["val"] or x["train"] & x["test"] or x["val"] & x["test"])
        assert set.union(*x.values()) == set(range(60))
        for split in task.splits.values():
            assert abs((split.labels == 1).mean() - 1 / 3) < 0.05

    def test_categories_and_statistics_come_from_train_only(self, tmp_path):
        task = self.read(tmp_path)
        train = task.splits["train"].inputs
        assert task.input_spec.mean[0] == pytest.approx(train[:, 0].mean())
        assert task.input_spec.std[0] == pytest.approx(train[:, 0].std())
        hot = train[:, 1:]
        assert (hot.sum(axis=0) > 0).all()  # no feature for a category that train has not
        assert (hot.sum(axis=1) == 1).all()

    def test_a_category_outside_train(self, tmp_path):
        # The only row of category q is put into test by the file that holds it.
        task = read(
            tmp_path,
            self.text(),
            None,
            "x,kind,y\n900,q,True\n",
            label="y",
            categorical=["kind"],
            val_fraction=0.2,
        )
        assert task.notes["unseen_categories"]["test"] == 1
        assert list(task.splits["test"].ids) == ["test:2"]
        assert task.splits["test"].inputs[0, 0] == 900


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"train": TRAIN.replace("1.5", "much")}, r"train.csv:3: size = 'much' is not a finite number"),
            ({"train": TRAIN.replace("1.5", "")}, r"train.csv:3: size = '' is not a finite number"),
            ({"train": TRAIN.replace("1.5", "nan")}, r"train.csv:3: size = 'nan'"),
            ({"train": TRAIN.replace("1.5", "1e39")}, r"train.csv:3: size = '1e39'"),
            ({"train": TRAIN.replace(",1.5", "")}, r"train.csv:3: 3 cells, the header has 4"),
            ({"train": TRAIN.replace("yes", "")}, "label column of train has empty cells"),
            ({"train": ""}, "no rows below a header"),
            ({"train": "age,colour,size,buys\n"}, "no rows below a header"),
            ({"train": TRAIN.replace("size", "age")}, "two columns have the same name"),
            ({"train": TRAIN + '"'}, "not a readable CSV file"),
            ({"val": VAL.replace("size", "width")}, "val.csv:1: the columns are not those of train: 'size'"),
            ({"val": "colour,age,size,buys\nred,4,1,no\n"}, "val.csv:1: the columns are.*their order"),
            ({"test": TEST.replace("yes", "perhaps")}, "test.csv:2: buys = 'perhaps' is no label of train"),
            ({"label": "sells"}, "train.csv:1: no column 'sells'.*columns: age, colour, size, buys"),
            ({"categorical": ["color"]}, "no column 'color'"),
            ({"categorical": []}, "colour = 'red' is not a finite number.*task.categorical"),
            ({"categorical": [], "drop": ["age", "colour", "size"]}, "nothing in them"),
            ({"test": TEST + "1,red,0.5,no\n"}, "'train:2' is test 'test:5'"),
        ],
    )
    def test_content(self, tmp_path, change, message):
        with pytest.raises(DataError, match=message):
            read(tmp_path, **change)

    def test_not_utf8(self, tmp_path):
        read(tmp_path)
        (tmp_path / "train.csv").write_bytes(TRAIN.encode() + b"4,r\xe9d,1,no\n")
        with pytest.raises(DataError, match="not a readable CSV file"):
            tasks.read(
                TaskConfig(
                    kind="table",
                    train=str(tmp_path / "train.csv"),
                    val_fraction=0.1,
                    test_fraction=0.1,
                    label="buys",
                ),
                0,
            )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"val_fraction": 0.1}, "exactly one of val and val_fraction"),
            ({"test_fraction": 0.1}, "exactly one of test and test_fraction"),
            ({"categorical": ["buys"]}, "label 'buys' is named in categorical or drop"),
        ],
    )
    def test_options(self, tmp_path, options, message):
        with pytest.raises(UsageError, match=message):
            read(tmp_path, **options)


LOGGED = """age,income,colour,buys
1,0,red,no
2,,blue,yes
3,7.389056,red,yes
,1.718281828,,no
"""


class TestPreparation:
    def task(self, tmp_path, **options):
        val = "age,income,colour,buys\n4,,red,no\n4,3,red,yes\n"
        test = "age,income,colour,buys\n,1,green,yes\n6,1,blue,no\n"
        settings = {"missing": "mean", "log1p": ["income"]}
        return read(tmp_path, LOGGED, val, test, **(settings | options))

    def test_logarithms_and_means_by_hand(self, tmp_path):
        task = self.task(tmp_path)
        flags = ["age is missing", "income is missing"]
        assert task.notes["features"] == ["age", "income", *flags, "colour=", "colour=blue", "colour=red"]
        logged = [0.0, math.log(8.389056), 1.0]  # of 0, 7.389056 and e - 1
        mean = sum(logged) / 3
        expected = [
            [1, logged[0], 0, 0, 0, 0, 1],
            [2, mean, 0, 1, 0, 1, 0],
            [3, logged[1], 0, 0, 0, 0, 1],
            [2, logged[2], 1, 0, 1, 0, 0],  # the mean of 1, 2 and 3
        ]
        np.testing.assert_allclose(task.splits["train"].inputs, expected, rtol=1e-6)
        np.testing.assert_allclose(task.splits["test"].inputs[0], [2, math.log(2), 1, 0, 0, 0, 0], rtol=1e-6)
        assert task.notes["missing_values"] == {"train": 2, "val": 1, "test": 1}
        assert task.notes["unseen_categories"] == {"train": 0, "val": 0, "test": 1}
        assert task.input_spec.mean[2:] == (0.0,) * 5 and task.input_spec.std[2:] == (1.0,) * 5

    def test_empty_cells_are_refused_unless_asked_for(self, tmp_path):
        with pytest.raises(DataError, match=r"train.csv:5: age = '' is not a finite.*set task.missing"):
            self.task(tmp_path, missing="error")

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"log1p": ["colour"]}, UsageError, "'colour' is named in log1p, and in categorical"),
            ({"log1p": ["incomes"]}, DataError, "no column 'incomes' of task.log1p"),
            ({"log1p": ["buys"]}, UsageError, "the label 'buys' is named"),
        ],
    )
    def test_logarithms_of_what_is_no_number(self, tmp_path, options, error, message):
        with pytest.raises(error, match=message):
            self.task(tmp_path, **options)

    def test_a_logarithm_that_there_is_not(self, tmp_path):
        with pytest.raises(DataError, match=r"train.csv:2: age = '-1' is not a finite number above -1"):
            read(tmp_path, TRAIN.replace("1,red,0.5", "-1,red,0.5"), log1p=["age"])

    def test_a_column_without_anything_in_train(self, tmp_path):
        train = TRAIN.replace("0.5", "").replace("2.5", "").replace("1.5", "nan")
        with pytest.raises(DataError, match="size is empty in every row of train"):
            read(tmp_path, train, missing="mean")

    def test_rows_are_prepared_as_the_reader_does_it(self, tmp_path):
        task = self.task(tmp_path)
        document = json.loads(table_rows.document(task))
        for name in ("train", "val", "test"):
            with (tmp_path / f"{name}.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            same_bits(task, name, rows, document)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"age": 1, "income": 2}, "no column 'colour'"),
            ({"age": "x", "income": 2, "colour": "red"}, "age = 'x' is not a finite number"),
            ({"age": 1, "income": -1, "colour": "red"}, "income = -1 is not a finite number"),
        ],
    )
    def test_rows_that_cannot_be_prepared(self, tmp_path, row, message):
        document = json.loads(table_rows.document(self.task(tmp_path)))
        with pytest.raises(DataError, match=message):
            edgekd.prepare_row(row, document)

    def test_an_empty_cell_that_training_refused(self, tmp_path):
        document = json.loads(table_rows.document(read(tmp_path)))
        with pytest.raises(DataError, match="row: age is empty"):
            edgekd.prepare_row({"age": None, "size": 1, "colour": "red"}, document)

    def test_a_file_that_is_none(self, tmp_path):
        (tmp_path / "other.json").write_text('{"format": 2}')
        with pytest.raises(DataError, match="no preparation of tables of format 1"):
            edgekd.read_preparation(tmp_path / "other.json")


def same_bits(task, name, rows, document):
    """What an app makes of rows is what the reader and the input spec make of them, to the last bit."""
    split = task.splits[name]
    assert len(rows) == len(split)
    features = np.stack([table_rows.row_features(row, document) for row in rows])
    assert features.tobytes() == split.inputs.tobytes()
    inputs = np.stack([edgekd.prepare_row(row, document) for row in rows])
    assert inputs.tobytes() == task.input_spec.preprocess(split.inputs).tobytes()


def shoppers(folder, **more):
    settings = tomllib.loads((Path(__file__).parents[2] / "recipes/online-shoppers.toml").read_text())["task"]
    settings["train"] = [str(folder / "train.csv"), str(folder / "dev.csv")]
    return tasks.read(TaskConfig.model_validate(settings | more), 0)


class TestTheRecipesTable:
    """What recipes/online-shoppers.toml reads."""

    def rows(self, folder):
        found = {}
        for number, name in enumerate(("train.csv", "dev.csv"), start=1):
            with (folder / name).open(newline="") as file:
                found |= {f"train{number}:{line}": r for line, r in enumerate(csv.DictReader(file), start=2)}
        return found

    def test_no_row_stands_in_two_splits_though_some_stand_twice(self, real):
        folder = real("online_shoppers")
        task, rows = shoppers(folder), self.rows(folder)
        assert sum(map(len, task.splits.values())) == len(rows) == 8621 + 1227
        assert len(task.splits["test"]) >= 3800
        said = {name: [tuple(rows[i].values()) for i in s.ids] for name, s in task.splits.items()}
        twice = Counter(row for found in said.values() for row in found)
        assert sum(count - 1 for count in twice.values()) == 111  # in both files; within train.csv alone 94
        with_label = {name: set(found) for name, found in said.items()}
        without = {name: {row[:-1] for row in found} for name, found in said.items()}
        for sets in (with_label, without):
            assert not (
                sets["train"] & sets["val"] | sets["train"] & sets["test"] | sets["val"] & sets["test"]
            )

    def test_every_row_is_prepared_as_the_reader_does_it(self, real):
        folder = real("online_shoppers")
        task, rows = shoppers(folder), self.rows(folder)
        document = json.loads(table_rows.document(task))
        for name, split in task.splits.items():
            same_bits(task, name, [rows[i] for i in split.ids], document)
        # The logarithm is numpy's too, within what 32 bits show.
        at = task.notes["features"].index("PageValues")
        plain = [float(rows[i]["PageValues"]) for i in task.splits["test"].ids]
        np.testing.assert_allclose(task.splits["test"].inputs[:, at], np.log1p(plain), rtol=1e-6)

    def test_columns_of_several_files(self, real):
        folder = real("online_shoppers")
        task, rows = shoppers(folder), self.rows(folder)
        split = task.splits["test"]
        config = TaskConfig.model_validate(
            tomllib.loads((Path(__file__).parents[2] / "recipes/online-shoppers.toml").read_text())["task"]
            | {
                "train": [str(folder / "train.csv"), str(folder / "dev.csv")],
                "columns": {"names": ["Region"]},
            }
        )
        found = tasks.columns_of(config, split)["Region"].texts
        assert found.tolist() == [rows[i]["Region"] for i in split.ids]


def test_online_shoppers_as_scikit_learn_encodes_it(real):
    folder = real("online_shoppers")
    categorical = ["Month", "VisitorType", "Weekend", "OperatingSystems", "Browser", "Region", "TrafficType"]
    task = tasks.read(
        TaskConfig(
            kind="table",
            train=str(folder / "train.csv"),
            test=str(folder / "dev.csv"),
            val_fraction=0.1,
            label="Revenue",
            categorical=categorical,
        ),
        0,
    )
    rows = {}
    for split, name in (("train", "train.csv"), ("test", "dev.csv")):
        with (folder / name).open(newline="") as file:
            rows |= {f"{split}:{n}": row for n, row in enumerate(csv.DictReader(file), start=2)}
    numeric = [c for c in rows["train:2"] if c not in (*categorical, "Revenue")]
    at = {n: [rows[i] for i in s.ids] for n, s in task.splits.items()}
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    encoder.fit([[r[c] for c in categorical] for r in at["train"]])
    for name, split in task.splits.items():
        numbers = np.array([[float(r[c]) for c in numeric] for r in at[name]], np.float32)
        hot = encoder.transform([[r[c] for c in categorical] for r in at[name]])
        np.testing.assert_array_equal(split.inputs, np.hstack([numbers, hot]))
        assert [str(label) for label in split.labels] == [r["Revenue"] for r in at[name]]
        if name == "train":
            np.testing.assert_allclose(task.input_spec.mean[: len(numeric)], numbers.astype(float).mean(0))
            np.testing.assert_allclose(task.input_spec.std[: len(numeric)], numbers.astype(float).std(0))
    assert sum(len(s) for s in task.splits.values()) == 8621 + 1227
