import base64
import hashlib
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from edgekd.errors import DataError
from edgekd.gallery import with_gallery
from edgekd.report.schema import dumps, parse
from edgekd.types import ACCURACY, InputSpec, Split, Task

IDS = np.array(["t/3", "t/1", "t/2", "t/0", "t/4"])
LABELS = np.array([0, 1, 2, 0, 1])
TEACHER = np.array([0, 1, 2, 1, 1])
# Of t/3 both files are wrong, of t/2 one; t/0 both have won; t/1 and t/4 are as the teacher has them.
ANSWERS = {"host": np.array([1, 1, 2, 0, 1]), "x86-onnx": np.array([2, 1, 0, 0, 1])}


def spec(shape, raw_dtype="uint8", raw_range=(0.0, 255.0)):
    layout = "NC" if len(shape) == 1 else "NCHW"
    return InputSpec("x", shape, layout, raw_dtype, raw_range, 1.0, (0.0,) * shape[0], (1.0,) * shape[0])


def task_of(inputs, **more):
    split = Split("test", IDS, inputs, LABELS)
    return Task("t", {"test": split}, (ACCURACY,), spec(inputs.shape[1:], **more), ("a", "b", "c"))


@pytest.fixture
def report(make, tmp_path):
    """A report of two files whose predictions lie in tmp_path."""
    data = make("PASS", ("host", "x86-onnx"))

    def store(record, answers):
        path = tmp_path / record["path"]
        path.parent.mkdir(exist_ok=True, parents=True)
        scores = np.eye(3, dtype=np.float32)[answers]
        np.savez(path, sample_ids=IDS, labels=LABELS, scores=scores)
        record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()

    store(data["teacher"]["predictions"], TEACHER)
    for artifact in data["artifacts"]:
        if artifact["role"] == "target":
            store(artifact["predictions"], ANSWERS[artifact["id"]])
    return parse(data)


def images(channels=1, side=4):
    return np.random.default_rng(0).integers(0, 256, (5, channels, side, side)).astype(np.uint8)


def opened(sample):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(sample.png_base64))))


def test_those_that_most_files_lost_come_first_with_all_answers(report, tmp_path):
    found = with_gallery(report, tmp_path, task_of(images()), 24).gallery
    assert found.flipped == 3
    # t/3 is lost by two, t/2 by one; t/0 is won by both and lost by none.
    assert [s.sample_id for s in found.samples] == ["t/3", "t/2", "t/0"]
    assert [dict(s.answers) for s in found.samples] == [
        {"host": 1, "x86-onnx": 2},
        {"x86-onnx": 0},
        {"host": 0, "x86-onnx": 0},
    ]
    assert [(s.label, s.teacher_class) for s in found.samples] == [(0, 0), (2, 2), (0, 1)]
    assert len(with_gallery(report, tmp_path, task_of(images()), 2).gallery.samples) == 2


def test_nothing_is_shown_that_was_not_asked_for(report, tmp_path):
    assert with_gallery(report, tmp_path, task_of(images()), 0) is report
    assert report.gallery is None


def test_images_are_the_raw_samples_pixel_by_pixel(report, tmp_path):
    raw = images()
    found = with_gallery(report, tmp_path, task_of(raw), 9).gallery
    for sample in found.samples:
        at = IDS.tolist().index(sample.sample_id)
        assert np.array_equal(opened(sample), raw[at, 0])
        assert not sample.values and sample.note == ""
    coloured = images(3)
    first = with_gallery(report, tmp_path, task_of(coloured), 1).gallery.samples[0]
    assert np.array_equal(opened(first), coloured[0].transpose(1, 2, 0))


def test_other_ranges_and_channels_are_made_visible(report, tmp_path):
    raw = np.linspace(-1, 1, 5 * 2 * 2 * 2).reshape(5, 2, 2, 2).astype(np.float32)
    task = task_of(raw, raw_dtype="float32", raw_range=(-1.0, 1.0))
    first = with_gallery(report, tmp_path, task, 1).gallery.samples[0]
    pixels = opened(first)
    assert pixels.shape == (2, 4) and first.note == "2 of 2 channels side by side"
    # -1 is black; the sample has values 0 to 7 of 40 from -1 to 1 in steps of 2/39.
    expected = [[round(255 * i / 39) for i in row] for row in ([0, 1, 4, 5], [2, 3, 6, 7])]
    assert pixels.tolist() == expected


def test_large_images_are_made_smaller_and_say_so(report, tmp_path):
    raw = np.full((5, 3, 60, 240), 128, np.uint8)
    first = with_gallery(report, tmp_path, task_of(raw), 1).gallery.samples[0]
    assert opened(first).shape == (24, 96, 3) and (opened(first) == 128).all()
    assert first.note == "made smaller, from 240 × 60"


def test_tables_show_their_values(report, tmp_path):
    raw = np.arange(5 * 20, dtype=np.float32).reshape(5, 20) / 4
    task = task_of(raw, raw_dtype="float32", raw_range=(0.0, 25.0))
    first = with_gallery(report, tmp_path, task, 1).gallery.samples[0]
    assert first.values == tuple(i / 4 for i in range(12)) and first.num_values == 20
    assert first.png_base64 is None


def test_the_same_samples_give_the_same_bytes(report, tmp_path):
    first, second = (dumps(with_gallery(report, tmp_path, task_of(images()), 9)) for _ in range(2))
    assert first == second
    assert parse(first).gallery.flipped == 3


def test_samples_of_another_task_are_refused(report, tmp_path):
    task = task_of(images())
    for ids in itertools.islice(itertools.permutations(IDS), 1, 4):
        split = Split("test", np.array(ids), task.splits["test"].inputs, LABELS)
        other = Task("t", {"test": split}, (ACCURACY,), task.input_spec, task.class_names)
        with pytest.raises(DataError, match="not of this task's test split"):
            with_gallery(report, tmp_path, other, 3)
