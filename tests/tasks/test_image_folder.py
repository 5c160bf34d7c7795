import io
import stat
import zipfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from edgekd import tasks
from edgekd.config import TaskConfig
from edgekd.errors import DataError, UsageError


def png(color, size=(4, 3), mode="RGB", kind="PNG"):
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, kind)
    return file.getvalue()


def tree(numbers=range(6), start=0, **kwargs):
    """Two classes; image n of class cat is (start + n, 1, 2), of dog (start + n, 100, 200)."""
    cats = {f"cat/{n:03d}.png": png((start + n, 1, 2), **kwargs) for n in numbers}
    return cats | {f"dog/{n:03d}.png": png((start + n, 100, 200), **kwargs) for n in numbers}


def to_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def to_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def read(train, seed=0, **options):
    options = {k: str(v) if hasattr(v, "exists") else v for k, v in options.items()}
    return tasks.read(TaskConfig(kind="image_folder", train=str(train), **options), seed)


THIRDS = {"val_fraction": 1 / 3, "test_fraction": 1 / 3}


@pytest.mark.parametrize("pack", ["folder", "zip", "wrapped zip"])
def test_the_same_images_in_a_folder_and_in_a_zip(tmp_path, pack):
    files = tree()
    if pack == "folder":
        path = to_folder(tmp_path / "animals", files)
    else:
        path = to_zip(
            tmp_path / "animals.zip", files if pack == "zip" else {f"all/{n}": d for n, d in files.items()}
        )
    task = read(path, **THIRDS)
    assert task.name == "animals"
    assert task.class_names == ("cat", "dog")
    assert task.input_spec.shape == (3, 3, 4)
    seen = {}
    for split in task.splits.values():
        assert Counter(split.labels.tolist()) == {0: 2, 1: 2}
        for i, x, y in zip(split.ids, split.inputs, split.labels, strict=True):
            n = int(i[-7:-4])
            assert i == f"train/{('cat', 'dog')[y]}/{n:03d}.png"
            assert x[:, 0, 0].tolist() == ([n, 1, 2] if y == 0 else [n, 100, 200])
            seen[i] = x
    assert len(seen) == 12


def test_val_range_counts_file_numbers_both_ends_included(tmp_path):
    test = to_zip(tmp_path / "test.zip", tree(range(2), start=50))
    task = read(to_folder(tmp_path / "train", tree()), test=test, val_range=[3, 4])
    assert list(task.splits["val"].ids) == [f"train/{c}/{n:03d}.png" for c in ("cat", "dog") for n in (3, 4)]
    assert list(task.splits["train"].ids) == [
        f"train/{c}/{n:03d}.png" for c in ("cat", "dog") for n in (0, 1, 2, 5)
    ]
    assert list(task.splits["test"].ids) == [f"test/{c}/{n:03d}.png" for c in ("cat", "dog") for n in (0, 1)]
    assert task.splits["test"].labels.tolist() == [0, 0, 1, 1]
    # train's red values are 0, 1, 2, 5 in both classes; green is 1 in one and 100 in the other.
    assert task.input_spec.mean == pytest.approx([2 / 255, 50.5 / 255, 101 / 255])
    assert task.input_spec.std == pytest.approx([3.5**0.5 / 255, 49.5 / 255, 99 / 255])


def test_val_range_and_test_fraction_together(tmp_path):
    task = read(to_folder(tmp_path, tree()), val_range=[0, 1], test_fraction=1 / 3)
    assert {n: len(s) for n, s in task.splits.items()} == {"train": 4, "val": 4, "test": 4}
    assert {i[-7:-4] for i in task.splits["val"].ids} == {"000", "001"}


def test_val_and_test_from_their_own_folders(tmp_path):
    for name, start in (("a", 0), ("b", 50), ("c", 100)):
        to_folder(tmp_path / name, tree(range(2), start=start))
    task = read(tmp_path / "a", val=tmp_path / "b", test=tmp_path / "c")
    assert list(task.splits["val"].ids[:2]) == ["val/cat/000.png", "val/cat/001.png"]
    assert task.splits["val"].inputs[:, 0, 0, 0].tolist() == [50, 51, 50, 51]


def test_an_image_in_train_and_test_is_a_leak(tmp_path):
    to_folder(tmp_path / "a", tree())
    to_folder(tmp_path / "c", {"cat/9.png": png((4, 1, 2)), "dog/9.png": png((77, 100, 200))})
    with pytest.raises(DataError, match=r"'train/cat/004.png' is test 'test/cat/9.png'"):
        read(tmp_path / "a", val_range=[0, 0], test=tmp_path / "c")


def test_gray(tmp_path):
    task = read(to_folder(tmp_path, tree(range(0, 60, 10))), color="gray", **THIRDS)
    assert task.input_spec.shape == (1, 3, 4)
    split = task.splits["train"]
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B of (n, 1, 2) and (n, 100, 200)
    for i, x in zip(split.ids, split.inputs, strict=True):
        n = int(i[-7:-4])
        expected = 0.299 * n + (0.587 + 0.228 if "cat" in i else 58.7 + 22.8)
        assert abs(x.astype(float) - expected).max() <= 1


def test_size_resizes(tmp_path):
    files = tree(range(4)) | {"cat/010.png": png((99, 1, 2), size=(9, 9))}
    task = read(to_folder(tmp_path, files), size=[5, 6], val_range=[0, 0], test_fraction=0.3)
    assert task.input_spec.shape == (3, 5, 6)
    everything = {i: x for s in task.splits.values() for i, x in zip(s.ids, s.inputs, strict=True)}
    assert (everything["train/cat/010.png"][0] == 99).all()  # one colour stays one colour


def test_other_files_and_upper_case_suffixes(tmp_path):
    files = {
        **tree(),
        "cat/Thumbs.db": b"x",
        "README.md": b"x",
        "__MACOSX/cat/1.png": b"x",
        "cat/._1.png": b"x",
    }
    files["dog/900.PNG"] = png((200, 0, 0))
    task = read(to_zip(tmp_path / "a.zip", files), **THIRDS)
    assert sum(len(s) for s in task.splits.values()) == 13


class TestRefused:
    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({}, "no images"),
            ({"cat/1.png": png(1)}, "only one class, 'cat'"),
            ({"1.png": png(1)}, "1.png is not of the form <class>/<image>"),
            ({"a/b/c/1.png": png(1), "a/b/d/1.png": png(1)}, "not of the form <class>/<image>"),
            (tree() | {"dog/7.png": b"no image"}, "dog/7.png: not a readable image"),
            (tree() | {"dog/7.png": png(1)[:-30]}, "dog/7.png: not a readable image"),
            (tree() | {"dog/7.png": png(1, kind="GIF", mode="P")}, "dog/7.png: not a readable image"),
            (tree() | {"dog/7.png": png(1, size=(4, 4))}, "dog/7.png is 4x4, the images before it 3x4.*size"),
        ],
    )
    @pytest.mark.parametrize("pack", [to_folder, to_zip])
    def test_images(self, tmp_path, files, message, pack):
        path = tmp_path / "x"
        if pack is to_folder:
            path.mkdir()
        with pytest.raises(DataError, match=message):
            read(pack(path, files), **THIRDS)

    def test_classes_that_differ(self, tmp_path):
        to_folder(tmp_path / "a", tree())
        to_folder(tmp_path / "c", {"cat/9.png": png((99, 1, 2)), "cow/9.png": png((77, 100, 200))})
        with pytest.raises(DataError, match="class 'cow' is not both here and in train"):
            read(tmp_path / "a", val_range=[0, 0], test=tmp_path / "c")

    def test_sizes_that_differ_between_sources(self, tmp_path):
        to_folder(tmp_path / "a", tree())
        to_folder(tmp_path / "c", tree(range(2), start=50, size=(5, 5)))
        with pytest.raises(DataError, match="is 5x5, the images before it 3x4"):
            read(tmp_path / "a", val_range=[0, 0], test=tmp_path / "c")

    def test_a_picture_too_large_is_not_decoded(self, tmp_path):
        # 9,000 x 9,000 pixels of one colour pack into little.
        with pytest.raises(DataError, match="9000x9000 pixels"):
            read(to_folder(tmp_path, {**tree(), "dog/9.png": png(1, size=(9000, 9000), mode="1")}), **THIRDS)

    @pytest.mark.parametrize("bounds", [[10, 20], [0, 5]])
    def test_val_range_that_empties_a_class(self, tmp_path, bounds):
        with pytest.raises(DataError, match=r"val_range = .* of class 'cat'.*leave every class"):
            read(to_folder(tmp_path, tree()), val_range=bounds, test_fraction=0.2)

    def test_val_range_without_numbers(self, tmp_path):
        with pytest.raises(DataError, match=r"'cat/x.png' does not end in a number"):
            read(to_folder(tmp_path, {**tree(), "cat/x.png": png(1)}), val_range=[0, 1], test_fraction=0.2)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"val_fraction": 0.1}, "exactly one of test and test_fraction"),
            ({"test_fraction": 0.1}, "exactly one of val, val_fraction and val_range"),
            ({"val": "x", "val_range": [1, 2], "test": "x"}, "exactly one of val"),
            ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave nothing for train"),
            ({"val_range": [2, 1], "test": "x"}, "ends before it starts"),
            ({"val_range": [2], "test": "x"}, "val_range"),
        ],
    )
    def test_options(self, tmp_path, options, message):
        with pytest.raises(UsageError, match=message):
            read(tmp_path, **options)


class TestZip:
    def entry(self, tmp_path, name="cat/9.png", data=None, **change):
        info = zipfile.ZipInfo(name)
        for key, value in change.items():
            setattr(info, key, value)
        path = to_zip(tmp_path / "a.zip", tree())
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(info, png((9, 9, 9)) if data is None else data)
        return path

    @pytest.mark.parametrize(
        "name",
        ["../cat/9.png", "cat/../../9.png", "/cat/9.png", "C:/cat/9.png", "cat\\..\\9.png", "../x.txt"],
    )
    def test_names_that_point_outside(self, tmp_path, name):
        with pytest.raises(DataError, match="points outside the archive"):
            read(self.entry(tmp_path, name), **THIRDS)

    @pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
    def test_links_and_devices(self, tmp_path, kind):
        with pytest.raises(DataError, match="is a link or a device"):
            read(self.entry(tmp_path, external_attr=(kind | 0o777) << 16), **THIRDS)

    def test_plain_files_with_a_mode_pass(self, tmp_path):
        path = self.entry(tmp_path, external_attr=(stat.S_IFREG | 0o644) << 16)
        assert sum(len(s) for s in read(path, **THIRDS).splits.values()) == 13

    # Too large though stored as it is; small, but a thousand times what it takes packed.
    @pytest.mark.parametrize(("size", "packing"), [(65, zipfile.ZIP_STORED), (4, zipfile.ZIP_DEFLATED)])
    def test_an_entry_that_unpacks_to_absurd_sizes(self, tmp_path, size, packing):
        path = self.entry(tmp_path, data=bytes(size * 2**20), compress_type=packing)
        with pytest.raises(DataError, match=rf"unpacks from .* to {size * 2**20} bytes"):
            read(path, **THIRDS)

    def test_unusual_packing(self, tmp_path):
        with pytest.raises(DataError, match="packed in an unusual way"):
            read(self.entry(tmp_path, compress_type=zipfile.ZIP_LZMA), **THIRDS)

    def test_encrypted(self, tmp_path):
        path = to_zip(tmp_path / "a.zip", tree())
        data = bytearray(path.read_bytes())
        at = data.find(b"PK\x01\x02")  # the flags of the first entry in the central directory
        data[at + 8] |= 1
        path.write_bytes(data)
        with pytest.raises(DataError, match="is encrypted"):
            read(path, **THIRDS)

    def test_the_same_name_twice(self, tmp_path):
        with pytest.warns(UserWarning, match="Duplicate name"):
            path = self.entry(tmp_path, "cat/001.png")
        with pytest.raises(DataError, match="two entries have the same name"):
            read(path, **THIRDS)

    def test_not_a_zip(self, tmp_path):
        (tmp_path / "a.zip").write_bytes(b"PK nothing")
        with pytest.raises(DataError, match="not a readable zip file"):
            read(tmp_path / "a.zip", **THIRDS)

    @pytest.mark.parametrize("at", [60, -60])
    def test_damaged(self, tmp_path, at):
        path = to_zip(tmp_path / "a.zip", tree())
        data = bytearray(path.read_bytes())
        data[at] ^= 0xFF
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"a\.zip"):
            read(path, **THIRDS)


class TestCifar10:
    def test_a_zip_of_jpegs(self, real):
        path = real("cifar10_jpeg") / "cifar10_jpeg_test_first500.zip"
        task = read(path, val_range=[450, 499], test_fraction=0.2)
        names = "airplane automobile bird cat deer dog frog horse ship truck"
        assert task.class_names == tuple(names.split())
        assert {n: np.bincount(s.labels).tolist() for n, s in task.splits.items()} == {
            "train": [350] * 10,
            "val": [50] * 10,
            "test": [100] * 10,
        }
        assert task.notes["duplicates"] == {"train": 0, "val": 0, "test": 0}
        with zipfile.ZipFile(path) as archive:
            one = np.asarray(Image.open(io.BytesIO(archive.read("test/deer/0470.jpg"))))
        val = task.splits["val"]
        at = list(val.ids).index("train/deer/0470.jpg")
        np.testing.assert_array_equal(val.inputs[at], one.transpose(2, 0, 1))
        assert val.labels[at] == 4
        # Widely used for CIFAR-10: (.4914, .4822, .4465).
        assert task.input_spec.mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.02)


@pytest.mark.parametrize("pack", ["folder", "zip"])
def test_images_of_no_known_class_lie_in_whatever_folders(tmp_path, pack):
    files = {"a.png": png((7, 7, 7)), "deep/er/b.png": png((8, 8, 8)), "cat/c.png": png((9, 9, 9))}
    path = to_folder(tmp_path / "more", files) if pack == "folder" else to_zip(tmp_path / "more.zip", files)
    task = read(to_folder(tmp_path / "animals", tree()), unlabelled=path, **THIRDS)
    split = task.splits["unlabelled"]
    assert split.labels is None
    assert dict(zip(split.ids.tolist(), split.inputs[:, 0, 0, 0].tolist(), strict=True)) == {
        "unlabelled/a.png": 7,
        "unlabelled/deep/er/b.png": 8,
        "unlabelled/cat/c.png": 9,
    }
    wrong = to_folder(tmp_path / "wrong", {"a.png": png((7, 7, 7), size=(5, 5))})
    with pytest.raises(DataError, match=r"a\.png is 5x5"):
        read(tmp_path / "animals", unlabelled=wrong, **THIRDS)
