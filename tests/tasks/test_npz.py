import numpy as np
import pytest

from edgekd import tasks
from edgekd.config import TaskConfig
from edgekd.errors import DataError


def arrays(dtype=np.uint8, shape=(2, 2, 3)):
    size = int(np.prod(shape))
    x = np.arange(12 * size).reshape(12, *shape).astype(dtype)
    return {
        "train_x": x[:6],
        "train_y": np.array([0, 1, 2] * 2),
        "val_x": x[6:9],
        "val_y": np.array([0, 1, 2], np.uint8),
        "test_x": x[9:],
        "test_y": np.array([2, 1, 0], np.int32),
    }


def read(tmp_path, content, **options):
    np.savez(tmp_path / "data.npz", **content)
    return tasks.read(TaskConfig(kind="npz", path=str(tmp_path / "data.npz"), **options), 0)


def test_images(tmp_path):
    content = arrays()
    task = read(tmp_path, content, class_names=["a", "b", "c"])
    assert (task.name, task.class_names) == ("data", ("a", "b", "c"))
    for name, split in task.splits.items():
        np.testing.assert_array_equal(split.inputs, content[f"{name}_x"])
        np.testing.assert_array_equal(split.labels, content[f"{name}_y"])
        assert split.labels.dtype == np.int64
    spec = task.input_spec
    assert (spec.shape, spec.layout, spec.raw_dtype, spec.scale) == ((2, 2, 3), "NCHW", "uint8", 255.0)
    np.testing.assert_allclose(spec.mean, content["train_x"].mean(axis=(0, 2, 3)) / 255)


def test_channels_last(tmp_path):
    content = arrays()
    task = read(tmp_path, content, layout="NHWC")
    assert task.input_spec.shape == (3, 2, 2)
    assert task.splits["val"].inputs[1, 2, 0, 1] == content["val_x"][1, 0, 1, 2]


def test_features_and_unlabelled(tmp_path):
    content = arrays(np.float32, (4,)) | {"unlabelled_x": np.full((2, 4), -1, np.float32)}
    content["unlabelled_x"][1] = -2
    task = read(tmp_path, content)
    spec = task.input_spec
    assert (spec.shape, spec.layout, spec.raw_dtype, spec.scale) == ((4,), "NC", "float32", 1.0)
    assert spec.raw_range == (0.0, 23.0)  # of train, which holds 0..23
    np.testing.assert_allclose(spec.mean, content["train_x"].mean(axis=0))
    np.testing.assert_allclose(spec.std, content["train_x"].std(axis=0), rtol=1e-6)
    assert task.splits["unlabelled"].labels is None
    assert task.class_names == ("0", "1", "2")


def test_further_inputs_of_the_same_samples(tmp_path):
    content = arrays()
    for name in ("train", "val", "test"):
        n = len(content[f"{name}_x"])
        content[f"{name}_x.words"] = np.arange(n * 5, dtype=np.float32).reshape(n, 5)
        content[f"{name}_y.odd"] = np.arange(n) % 2
    task = read(tmp_path, content)
    assert task.modalities["words"].shape == (5,) and task.modalities["words"].layout == "NC"
    seen = task.seen_as("words")
    np.testing.assert_array_equal(seen.splits["val"].inputs, content["val_x.words"])
    assert seen.splits["val"].ids.tolist() == task.splits["val"].ids.tolist() and not seen.modalities
    tasks.save(task, tmp_path / "stored")
    again = tasks.load(tmp_path / "stored")
    assert again.modalities == task.modalities
    assert again.heads == task.heads == {"odd": ("0", "1")} and task.num_outputs == task.num_classes + 2
    assert again.columns == {"": slice(0, task.num_classes), "odd": slice(task.num_classes, task.num_outputs)}
    for name, split in task.splits.items():
        np.testing.assert_array_equal(again.splits[name].modalities["words"], split.modalities["words"])
        np.testing.assert_array_equal(again.splits[name].head_labels["odd"], content[f"{name}_y.odd"])
        assert tasks.split_sha256(again.splits[name]) == tasks.split_sha256(split)
    content["test_x.words"][0, 0] += 1
    other = read(tmp_path, content)
    assert tasks.split_sha256(other.splits["test"]) != tasks.split_sha256(task.splits["test"])
    assert tasks.split_sha256(other.splits["val"]) == tasks.split_sha256(task.splits["val"])
    few = tasks.keep_first(task, 2, 0).splits["train"]
    places = [task.splits["train"].ids.tolist().index(i) for i in few.ids]
    np.testing.assert_array_equal(few.modalities["words"], content["train_x.words"][places])
    np.testing.assert_array_equal(few.head_labels["odd"], content["train_y.odd"][places])


def test_train_without_labels(tmp_path):
    content = {k: v for k, v in arrays().items() if k != "train_y"}
    task = read(tmp_path, content)
    assert task.splits["train"].labels is None
    assert task.num_classes == content["val_y"].max() + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_y": None}, "array 'val_y' is missing"),
        ({"train_y.Odd": np.zeros(3, np.int64)}, "array 'train_y.Odd' is none that is read.*small letters"),
        ({"labels": np.zeros(3, np.int64)}, "array 'labels' is none that is read"),
        ({"train_x": np.zeros((6, 2, 3), np.uint8)}, r"train_x is uint8 \(6, 2, 3\)"),
        ({"train_x": np.zeros((6, 2, 2, 3))}, "train_x is float64"),
        ({"val_x": np.zeros((3, 2, 2, 4), np.uint8)}, "split 'val': inputs are"),
        ({"test_y": np.array([0.0, 1.0, 2.0])}, "test_y is float64"),
        ({"test_y": np.array([0, 1])}, "test_y is int64"),
        ({"test_y": np.array([0, 1, 3])}, "sample 'test/2': label 3 is outside 0..2"),
        ({"train_x": np.zeros((0, 2, 2, 3), np.uint8), "train_y": np.zeros(0, int)}, "train split is empty"),
        ({"train_y": np.array([object()] * 6)}, "not a readable .npz file"),
    ],
)
def test_refused(tmp_path, change, message):
    content = {k: v for k, v in (arrays() | change).items() if v is not None}
    with pytest.raises(DataError, match=message):
        read(tmp_path, content)


def test_nan(tmp_path):
    content = arrays(np.float32, (4,))
    content["test_x"][1, 1] = np.nan
    with pytest.raises(DataError, match="'test/1'"):
        read(tmp_path, content)


@pytest.mark.parametrize("data", [b"", b"PK nothing", b"junk" * 100])
def test_not_an_npz(tmp_path, data):
    (tmp_path / "bad.npz").write_bytes(data)
    with pytest.raises(DataError, match=r"not a readable .npz file"):
        tasks.read(TaskConfig(kind="npz", path=str(tmp_path / "bad.npz")), 0)


def test_a_single_array(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="a single array"):
        tasks.read(TaskConfig(kind="npz", path=str(tmp_path / "one.npy")), 0)


def test_classes_of_heads_are_those_of_train(tmp_path):
    content = arrays()
    for name in ("train", "val", "test"):
        content[f"{name}_y.c"] = np.zeros(len(content[f"{name}_x"]), int)
    content["train_y.c"][0] = 4
    assert read(tmp_path, content).heads == {"c": ("0", "1", "2", "3", "4")}
    del content["train_y"]
    with pytest.raises(DataError, match=r"labels of the heads \['c'\] and none of its classes"):
        read(tmp_path, content)


def test_columns(tmp_path):
    task = read(
        tmp_path, arrays() | {"test_column.Shop 1": np.array([3, 1, 2]), "test_column.b": np.array(["x"] * 3)}
    )
    columns = tasks.columns_of(TaskConfig(kind="npz"), task.splits["test"])
    assert {name: list(c.texts) for name, c in columns.items()} == {"Shop 1": ["3", "1", "2"], "b": ["x"] * 3}
    with pytest.raises(DataError, match=r"test_column\.b is float64, expected texts or whole numbers"):
        read(tmp_path, arrays() | {"test_column.b": np.zeros(3)})
    with pytest.raises(DataError, match=r"expected text \(3,\)"):
        read(tmp_path, arrays() | {"test_column.b": np.zeros(2, int)})
