import csv

import numpy as np
import pytest
from sklearn.preprocessing import OneHotEncoder

from edgekd import tasks
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
