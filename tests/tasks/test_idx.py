import gzip
import hashlib
import struct

import numpy as np
import pytest

from edgekd import tasks
from edgekd.config import TaskConfig
from edgekd.errors import DataError, UsageError
from edgekd.tasks.idx import read_idx

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


def images(count, height=2, width=3, start=0):
    """By hand, as the format is described: magic 0x00000803, three sizes, bytes."""
    body = bytes((start + i) % 256 for i in range(count * height * width))
    return struct.pack(">4B3I", 0, 0, 8, 3, count, height, width) + body


def labels(values):
    return struct.pack(">4BI", 0, 0, 8, 1, len(values)) + bytes(values)


def write(folder, **change):
    files = {IMAGES: images(10), LABELS: labels([0, 1, 2, 0, 1, 2, 0, 1, 2, 0]), **change}
    for name, data in files.items():
        (folder / name).write_bytes(gzip.compress(data))
    return folder


def read(folder, **options):
    options = {"num_test": 3, "num_val": 2, **options}
    return tasks.read(TaskConfig(kind="idx", path=str(folder), **options), 0)


def test_the_last_are_test_and_those_before_them_val(tmp_path):
    task = read(write(tmp_path))
    assert {n: list(s.ids) for n, s in task.splits.items()} == {
        "train": ["train/0", "train/1", "train/2", "train/3", "train/4"],
        "val": ["train/5", "train/6"],
        "test": ["train/7", "train/8", "train/9"],
    }
    assert task.splits["val"].labels.tolist() == [2, 0]
    assert task.splits["train"].inputs[1].tolist() == [[[6, 7, 8], [9, 10, 11]]]
    assert task.splits["test"].inputs[0].tolist() == [[[42, 43, 44], [45, 46, 47]]]
    assert task.input_spec.shape == (1, 2, 3)
    assert task.class_names == ("0", "1", "2")
    # train is the bytes 0..29: mean 14.5, variance (30^2 - 1) / 12
    assert task.input_spec.mean == pytest.approx([14.5 / 255])
    assert task.input_spec.std == pytest.approx([(899 / 12) ** 0.5 / 255])


def test_t10k_files_are_test_and_the_last_of_train_are_val(tmp_path):
    write(tmp_path, **{TEST_IMAGES: images(4, start=100), TEST_LABELS: labels([1, 1, 0, 2])})
    task = read(tmp_path)
    assert {n: len(s) for n, s in task.splits.items()} == {"train": 8, "val": 2, "test": 4}
    assert list(task.splits["val"].ids) == ["train/8", "train/9"]
    assert list(task.splits["test"].ids) == ["t10k/0", "t10k/1", "t10k/2", "t10k/3"]
    assert task.splits["test"].labels.tolist() == [1, 1, 0, 2]
    assert task.splits["test"].inputs[0, 0, 0].tolist() == [100, 101, 102]


def test_class_names(tmp_path):
    assert read(write(tmp_path), class_names=["a", "b", "c"]).class_names == ("a", "b", "c")
    with pytest.raises(DataError, match=r"label 2 is outside 0..1"):
        read(tmp_path, class_names=["a", "b"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({IMAGES: b"\0\0\x08\x01" + images(10)[4:]}, "starts with 00000801, expected 00000803"),
        ({IMAGES: b"\0\0\x0d\x03" + images(10)[4:]}, "starts with 00000d03"),
        ({IMAGES: images(10)[:12]}, "header is cut short"),
        ({IMAGES: b""}, "header starts with , expected"),
        ({IMAGES: images(10)[:-1]}, r"promises 60 bytes for \(10, 2, 3\), the file holds 59"),
        ({IMAGES: images(10) + b"x"}, "promises 60 bytes.*the file holds more than 60"),
        ({IMAGES: struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 9)}, "header claims the shape"),
        ({IMAGES: images(0)}, "header claims the shape"),
        ({LABELS: labels([0] * 9)}, "10 images, but .* has 9 labels"),
        ({TEST_IMAGES: images(4)}, "not the other t10k file"),
        ({TEST_IMAGES: images(4, 3, 3), TEST_LABELS: labels([0] * 4)}, r"images are \(3, 3\)"),
    ],
)
def test_refused(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, **change))


def test_gzip_cut_short(tmp_path):
    path = write(tmp_path) / IMAGES
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"not a whole gzip file.*fetch the file again"):
        read(tmp_path)


def test_gzip_without_its_checksum(tmp_path):
    path = write(tmp_path) / IMAGES
    path.write_bytes(path.read_bytes()[:-8])  # all data, but nothing to check them by
    with pytest.raises(DataError, match="not a whole gzip file"):
        read(tmp_path)


@pytest.mark.parametrize("at", [0, 25, -6])
def test_gzip_corrupt(tmp_path, at):
    path = write(tmp_path) / IMAGES
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"IMAGES|train-images"):
        read(tmp_path)


def test_missing_file(tmp_path):
    (write(tmp_path) / LABELS).unlink()
    with pytest.raises(DataError, match=f"{LABELS}: no such file.*task.path must hold"):
        read(tmp_path)


def test_too_few_images(tmp_path):
    with pytest.raises(DataError, match="10 images are too few for num_test = 6 and num_val = 4"):
        read(write(tmp_path), num_test=6, num_val=4)


def test_path_is_needed():
    with pytest.raises(UsageError, match="key 'path' is missing"):
        tasks.read(TaskConfig(kind="idx"), 0)


class TestFashionMnist:
    def read(self, real):
        return tasks.read(TaskConfig(kind="idx", path=str(real("fashion_mnist"))), 0)

    def test_splits_and_content(self, real):
        task = self.read(real)
        assert {n: len(s) for n, s in task.splits.items()} == {"train": 45000, "val": 5000, "test": 10000}
        # The raw file read another way, and hashed: no image stands in it twice.
        with gzip.open(real("fashion_mnist") / IMAGES) as file:
            raw = file.read()[16:]
        digests = [hashlib.sha256(raw[i * 784 : (i + 1) * 784]).digest() for i in range(60000)]
        assert len(set(digests)) == 60000
        assert task.notes["duplicates"] == {"train": 0, "val": 0, "test": 0}
        test = task.splits["test"].inputs
        assert [hashlib.sha256(x.tobytes()).digest() for x in test] == digests[50000:]
        # The data set's 60,000 training images are 6,000 of each class.
        total = sum(np.bincount(s.labels, minlength=10) for s in task.splits.values())
        assert total.tolist() == [6000] * 10

    def test_statistics_are_those_that_are_published(self, real):
        # 0.2860 and 0.3530 are in wide use, over all 60,000 images.
        spec = self.read(real).input_spec
        assert spec.mean == pytest.approx([0.2860], abs=1e-3)
        assert spec.std == pytest.approx([0.3530], abs=1e-3)


def test_read_idx_of_real_labels(real):
    path = real("fashion_mnist") / LABELS
    with gzip.open(path) as file:
        assert read_idx(path, 1).tobytes() == file.read()[8:]
