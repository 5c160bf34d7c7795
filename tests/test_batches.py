import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import SPEC, TABLE, images, split, train_config
from numpy.lib.format import open_memmap

from edgekd.batches import TrainingSet, mapped_view, steps, with_unlabelled
from edgekd.config import MixConfig
from edgekd.types import VECTOR, Split


def both(n=12, more=9):
    raw = images(n + more)
    first = split(raw[:n])
    return raw, with_unlabelled(first, Split("unlabelled", np.arange(more).astype(str), raw[n:], None))


def test_samples_without_labels_stand_behind_the_others():
    raw, found = both()
    assert len(found) == 21
    np.testing.assert_array_equal(found.labels[:12], split(raw[:12]).labels)
    assert (found.labels[12:] == -1).all()
    for picked in ([0, 11, 12, 20], [13], [3, 2]):
        np.testing.assert_array_equal(found.inputs[np.array(picked)], raw[picked])


def test_an_epoch_goes_through_all_of_them():
    raw, found = both()
    data = TrainingSet(found, SPEC, None, 1, 0)
    seen = list(steps(data, train_config(batch_size=7), 0))
    assert sorted(np.concatenate([s.picked for s in seen])) == list(range(21))
    for step in seen:
        np.testing.assert_allclose(step.inputs, SPEC.preprocess(raw[step.picked.numpy()]), atol=1e-6)


def test_a_mixture_with_one_that_has_no_label_has_none():
    _, found = both()
    data = TrainingSet(found, SPEC, None, 1, 0)
    config = train_config(batch_size=21, mix=MixConfig(mixup=1.0))
    (step,) = steps(data, config, 0)
    own, others = step.picked.numpy() >= 12, step.other_labels.numpy() < 0
    assert own.any() and others.any() and not (own | others).all()
    np.testing.assert_array_equal(step.labels.numpy() < 0, own | others)


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_one_view_of_a_file_is_a_mapping_of_its_own(tmp_path, mode):
    values = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float16)
    open_memmap(tmp_path / "a.npy", "w+", np.float16, values.shape)[:] = values
    whole = np.load(tmp_path / "a.npy", mmap_mode=mode)
    for view in range(3):
        found = mapped_view(whole, view)
        np.testing.assert_array_equal(found, values[view])
        assert found.base is not whole.base and not np.shares_memory(found, whole)
        assert found.flags.writeable == (mode == "r+")
    np.testing.assert_array_equal(mapped_view(values, 1), values[1])


def test_processes_share_each_step():
    data = TrainingSet(split(np.zeros((50, 6), np.float32)), TABLE, None, 1, 0)
    whole = list(steps(data, train_config(batch_size=16), 2))
    parts = [list(steps(data, train_config(batch_size=8), 2, rank, 2)) for rank in (0, 1)]
    assert len(whole) == len(parts[0]) == len(parts[1]) == 3
    for step, first, second in zip(whole, *parts, strict=True):
        assert len(first.picked) == len(second.picked) == 8
        assert set(torch.cat((first.picked, second.picked)).tolist()) == set(step.picked.tolist())


def test_what_a_teacher_elsewhere_has_said_goes_with_every_view_of_the_student():
    raw = images(12)
    rows = np.random.default_rng(1).normal(size=(12, 6)).astype(np.float32)
    first = split(raw)
    said = np.random.default_rng(2).normal(size=(1, 12, 5)).astype(np.float16)
    config = train_config(batch_size=12, augment=("crop", "flip"))
    data = TrainingSet(first, SPEC, said, 1, 0, others=(split(rows), TABLE))
    seen = [next(steps(data, config, epoch)) for epoch in range(3)]
    for step in seen:
        np.testing.assert_array_equal(step.teacher, said[0].astype(np.float32))
    assert not torch.equal(seen[0].inputs, seen[1].inputs)
    live = TrainingSet(first, SPEC, None, 1, 0, live=torch.nn.Identity(), others=(split(rows), TABLE))
    np.testing.assert_array_equal(next(steps(live, config, 1)).teacher_inputs, rows)
    mixed = next(steps(live, train_config(batch_size=12, mix=MixConfig(mixup=1.0)), 0))
    shares = mixed.shares[:, None].numpy()
    partners = [int(np.argmin(np.abs(rows - other).sum(axis=1))) for other in
                (mixed.teacher_inputs.numpy() - shares * rows) / (1 - shares)]  # fmt: skip
    np.testing.assert_array_equal(first.labels[partners], mixed.other_labels)


def test_a_mixture_of_the_student_is_that_of_the_teachers_cached_view():
    """Two views were asked; the third epoch is mixed as the first, though the teacher looks elsewhere."""
    first, rows = split(images(12)), np.random.default_rng(1).normal(size=(12, 6)).astype(np.float32)
    said = np.random.default_rng(2).normal(size=(2, 12, 5)).astype(np.float16)
    data = TrainingSet(first, SPEC, said, 2, 0, others=(split(rows), TABLE))
    config = train_config(batch_size=12, mix=MixConfig(mixup=1.0))
    seen = [next(steps(data, config, epoch)) for epoch in range(3)]
    assert torch.equal(seen[0].other_labels, seen[2].other_labels) and torch.equal(
        seen[0].shares, seen[2].shares
    )
    assert not torch.equal(seen[0].shares, seen[1].shares)
    np.testing.assert_array_equal(seen[2].teacher, said[0].astype(np.float32))


def test_things_come_in_pairs():
    """Eleven samples of four things: of each as many pairs as can be, in another order an epoch."""
    things = np.array([0, 1, 2, 0, 1, 2, 0, 1, 0, 3, 0])
    raw = images(len(things))
    plain = split(raw)
    own = replace(plain, head_labels={VECTOR: things.astype(np.int64)})
    data = TrainingSet(own, SPEC, None, 1, 0)
    orders = []
    for epoch in range(20):
        seen = list(steps(data, train_config(batch_size=1), epoch))
        orders.append([int(step.picked[0]) for step in seen])
        assert sorted(orders[-1]) == list(range(11))
        of = things[orders[-1]]
        next_to = {i for i in range(10) if of[i] == of[i + 1]} | {
            i + 1 for i in range(10) if of[i] == of[i + 1]
        }
        # five, three, two and one of them: four, two, two and none at least stand beside their like
        for thing, paired in ((0, 4), (1, 2), (2, 2)):
            assert sum(of[i] == thing for i in next_to) >= paired
        assert int(seen[0].head_labels[VECTOR][0]) == of[0]
    assert len({tuple(order) for order in orders}) == 20
    # and each meets each: it is not always the same two
    partners = {
        (a, b) for order in orders for a, b in itertools.pairwise(order) if things[a] == things[b] == 0
    }
    assert len(partners) > 10


def test_pairs_stay_in_one_of_several_processes():
    things = np.repeat(np.arange(20), 2)
    raw = images(40)
    data = TrainingSet(replace(split(raw), head_labels={VECTOR: things}), SPEC, None, 1, 0)
    whole = list(steps(data, train_config(batch_size=20), 3))
    parts = [list(steps(data, train_config(batch_size=10), 3, rank, 2)) for rank in (0, 1)]
    for step, one, other in zip(whole, *parts, strict=True):
        assert sorted([*one.picked.tolist(), *other.picked.tolist()]) == step.picked.tolist()
        for part in (one, other):
            assert sorted(np.bincount(things[part.picked], minlength=20).tolist()) == [0] * 15 + [2] * 5
