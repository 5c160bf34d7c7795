import numpy as np
import pytest
import torch
from nets import SPEC, TABLE, images, outputs, quiet, run_python, split, tiny_resnet, train_config
from torch import nn

from edgekd.batches import TrainingSet, steps
from edgekd.config import MixConfig
from edgekd.errors import TrainingError
from edgekd.teachers import cache

NONE = MixConfig()


def build(teacher, data, path, names=("crop", "flip"), views=1, seed=0, spec=SPEC, mix=NONE):
    @torch.no_grad()
    def asked(x):
        return teacher(torch.from_numpy(x)).numpy()

    cache.build(
        asked,
        data,
        spec,
        names,
        mix,
        views=views,
        num_outputs=5,
        seed=seed,
        path=path,
        display=quiet(),
    )
    return np.load(path, allow_pickle=False)


def seen_by_hand(raw, seed, view):
    """What the student sees in a view: moved by up to one pixel, mirrored, prepared; all by hand."""
    rng = np.random.default_rng([seed, view])
    moves = rng.integers(-1, 2, size=(len(raw), 2))
    flips = rng.integers(0, 2, size=(len(raw), 1))[:, 0]
    out = np.full_like(raw, 3)  # the lowest raw value is the background
    for n, ((rows, columns), flip) in enumerate(zip(moves, flips, strict=True)):
        for i in range(8):
            for j in range(8):
                a, b = i + rows, (7 - j if flip else j) + columns
                if 0 <= a < 8 and 0 <= b < 8:
                    out[n, :, i, j] = raw[n, :, a, b]
    return SPEC.preprocess(out)


def test_cached_logits_are_the_teachers_on_the_augmented_pixels(tmp_path):
    teacher, data = tiny_resnet(seed=3), split(images(300))  # more than one batch of 256
    found = build(teacher, data, tmp_path / "logits.npy", views=3, seed=11)
    assert found.dtype == np.float16
    assert found.shape == (3, 300, 5)
    for view in range(3):
        expected = outputs(teacher, seen_by_hand(data.inputs, 11, view))
        np.testing.assert_allclose(found[view], expected, rtol=2**-10, atol=1e-3)
    assert (found[0] != found[1]).any(axis=1).mean() > 0.8


def test_without_augmentation_the_view_is_the_sample(tmp_path):
    teacher, data = tiny_resnet(seed=3), split(images(20))
    found = build(teacher, data, tmp_path / "logits.npy", names=())
    expected = outputs(teacher, SPEC.preprocess(data.inputs)).astype(np.float16)
    np.testing.assert_allclose(found[0].astype(float), expected.astype(float), rtol=2**-10, atol=1e-4)


@pytest.mark.parametrize("mix", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_a_cached_view_is_the_teacher_on_what_the_student_sees(tmp_path, mix):
    """Epoch by epoch, sample by sample: mixed with the same partners, moved the same way."""
    teacher, data, chosen = tiny_resnet().eval(), split(images(300)), MixConfig(**mix)
    found = build(teacher, data, tmp_path / "logits.npy", views=2, seed=5, mix=chosen)
    config = train_config(augment=("crop", "flip"), batch_size=64, mix=chosen)
    seen = TrainingSet(data, SPEC, found, 2, 5, order_seed=99)
    for epoch in range(3):
        for step in steps(seen, config, epoch):
            with torch.no_grad():
                expected = teacher(step.inputs).half().float()
            np.testing.assert_allclose(step.teacher, expected, atol=2e-3)


def test_tables_are_cached_too(tmp_path):
    rows = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    teacher = nn.Linear(6, 5)
    found = build(teacher, split(rows), tmp_path / "logits.npy", names=(), views=2, spec=TABLE)
    expected = rows @ teacher.weight.detach().numpy().T + teacher.bias.detach().numpy()
    np.testing.assert_allclose(found[0].astype(float), expected, rtol=2**-10, atol=1e-4)
    np.testing.assert_array_equal(found[0], found[1])


class Counting(nn.Module):
    """Another network inside, which dies in a given call."""

    def __init__(self, inner, dies_in=None):
        super().__init__()
        self.inner, self.dies_in, self.calls = inner, dies_in, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.dies_in:
            raise KeyboardInterrupt
        return self.inner(x)


@pytest.mark.parametrize(("dies_in", "again"), [(1, 6), (2, 6), (3, 4), (4, 4), (6, 2)])
def test_a_build_that_was_killed_is_gone_on_with(tmp_path, monkeypatch, dies_in, again):
    monkeypatch.setattr(cache, "BATCHES_A_SYNC", 2)
    teacher, data = tiny_resnet(seed=3), split(images(300))  # three views of two batches
    whole = build(teacher, data, tmp_path / "whole.npy", views=3, seed=11)
    with pytest.raises(KeyboardInterrupt):
        build(Counting(teacher, dies_in), data, tmp_path / "logits.npy", views=3, seed=11)
    rest = Counting(teacher)
    np.testing.assert_array_equal(build(rest, data, tmp_path / "logits.npy", views=3, seed=11), whole)
    assert rest.calls == again
    build(rest, data, tmp_path / "logits.npy", views=3, seed=11)
    assert rest.calls == again, "what was whole was made again"
    (tmp_path / "logits.npy").unlink()
    with pytest.raises(KeyboardInterrupt):  # what said that all was there speaks of another file now
        build(Counting(teacher, 2), data, tmp_path / "logits.npy", views=3, seed=11)
    np.testing.assert_array_equal(build(rest, data, tmp_path / "logits.npy", views=3, seed=11), whole)


class Bad(nn.Module):
    """Gives `value` for the image whose first raw pixel is 16."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        logits = torch.zeros(len(x), 5)
        logits[x[:, 0, 0, 0] > 1.7, 2] = self.value
        return logits


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 70_000.0])
@pytest.mark.parametrize("index", [0, 17, 280])
@pytest.mark.filterwarnings("error")
def test_outputs_that_are_no_fp16_numbers_name_the_sample(tmp_path, value, index):
    raw = np.full((300, 2, 8, 8), 3, np.uint8)
    raw[index, 0, 0, 0] = 16
    with pytest.raises(TrainingError, match=rf"sample 'train-{index}' is not a finite fp16"):
        build(Bad(value), split(raw), tmp_path / "logits.npy", names=())


FULL = """
import sys
from pathlib import Path
import numpy as np, torch
import nets
from edgekd.config import MixConfig
from edgekd.errors import StoreError
from edgekd.store import Store
from edgekd.teachers import cache
rows = nets.split(np.zeros((100, 6), np.float32))
def make(folder):
    cache.build(torch.nn.Linear(6, 5), rows, nets.TABLE, (), MixConfig(), views=3000, num_outputs=5, seed=0,
                path=folder / "logits.npy", display=nets.quiet())
try:
    Store(Path(sys.argv[1])).put("outputs", "a" * 64, make)
except StoreError as error:
    print(error.message)
"""


def test_a_full_disk_is_an_error_and_not_a_crash(small_disk):
    assert run_python(FULL, small_disk).strip() == f"{small_disk}: no space left"
