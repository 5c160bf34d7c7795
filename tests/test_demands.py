"""What a recipe asks of its data: each demand is refused by the name of its own table."""

import copy
import tomllib
from dataclasses import replace

import nets
import numpy as np
import pytest
from runs import TINY

from edgekd.config import Recipe, build
from edgekd.demands import check
from edgekd.errors import UsageError


def two_kinds(name, labels=True):
    """A split of images whose samples have rows too."""
    found = nets.split(nets.images(4), name)
    return replace(
        found, labels=found.labels if labels else None, modalities={"row": np.zeros((4, 6), np.float32)}
    )


def task(**changes):
    splits = {name: two_kinds(name) for name in ("train", "val", "test")}
    return replace(nets.task(), splits=splits, modalities={"row": nets.TABLE}, **changes)


def with_split(split):
    return replace(task(), splits={**task().splits, split.name: split})


def recipe(**changes):
    """Each key is a path such as distill__mix."""
    said = copy.deepcopy(tomllib.loads(TINY))
    for path, value in changes.items():
        *tables, key = path.split("__")
        place = said
        for table in tables:
            place = place[table]
        place[key] = value
    return build(Recipe, said, "recipe")


KD = [{"kind": "kd", "temperature": 2.0}]
BOTH_HEADS = [*KD, {"kind": "kd", "head": "odd", "temperature": 2.0}]
ASSISTANT = {"model": {"kind": "mlp", "hidden": [8]}, "distill": {"epochs": 1}}
MEMBERS = [
    {"model": {"kind": "mlp", "hidden": [8]}, "train": {"epochs": 1, "seed": 0}},
    {"model": {"kind": "mlp", "hidden": [8]}, "train": {"epochs": 1, "seed": 1, "augment": ["flip"]}},
]


def test_what_the_data_have_is_no_matter():
    alone = {"student": {"model": {"kind": "mlp"}, "checkpoint": "a.safetensors"}, "distill": None}
    check(recipe(**alone, teacher=None, prune=None, quantize={"method": "ptq"}), task())
    check(recipe(distill__augment=["crop"], distill__mix={"cutmix": 1.0}, prune__mix={"mixup": 0.2}), task())
    # A teacher that looks at rows may blend them; the student's images may be moved meanwhile.
    check(
        recipe(teacher__modality="row", teacher__train__mix={"mixup": 0.2}, distill__augment=["flip"]), task()
    )
    several = {"distill__losses": BOTH_HEADS, "prune__losses": BOTH_HEADS, "quantize__losses": BOTH_HEADS}
    check(recipe(**several), task(heads={"odd": ("even", "odd")}))
    with_more = with_split(two_kinds("unlabelled", labels=False))
    check(recipe(distill__unlabelled_weight=1.0), with_more)
    check(recipe(distill__reestimate_batch_norm="unlabelled"), with_more)
    check(recipe(distill__reestimate_batch_norm="train"), task())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"teacher__modality": "rows"},
            r"teacher.modality = 'rows': .* no such modality.*did you mean 'row'",
        ),
        ({"teacher__modality": "sound"}, "no such modality.*it has: row"),
        (
            {"teacher__modality": "row", "teacher__train__augment": ["flip"]},
            r"\[teacher.train\] augment works on images, samples here have shape \(6,\)",
        ),
        (
            {"teacher__modality": "row", "teacher__train__mix": {"cutmix": 1.0}},
            r"\[teacher.train\] mix.cutmix",
        ),
        ({"teacher": {"members": MEMBERS, "modality": "row"}}, "train of teacher.members 2 augment works on"),
        ({"distill__unlabelled_weight": 1.0}, r"\[distill\] unlabelled_weight .* no split 'unlabelled'"),
        ({"prune__unlabelled_weight": 1.0}, r"\[prune\] unlabelled_weight"),
        ({"quantize__reestimate_batch_norm": "unlabelled"}, r"\[quantize\] reestimate_batch_norm = 'unlab"),
        (
            {"assistants": [{**ASSISTANT, "distill": {"epochs": 1, "unlabelled_weight": 1.0}}]},
            "distill of assistants 1 unlabelled_weight",
        ),
        (
            {"distill__losses": BOTH_HEADS},
            "a loss names the head 'odd', which the task has not.*one head only",
        ),
    ],
)
def test_what_the_data_lack(changes, message):
    with pytest.raises(UsageError, match=message):
        check(recipe(**changes), task())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"\[teacher.train\] cannot be done: the split 'train' has no labels"),
        ({"teacher": {"file": "teacher.onnx"}}, r"\[distill\] the loss 'cross_entropy' needs labels"),
        (
            {"teacher": {"file": "teacher.onnx"}, "distill__losses": KD},
            r"\[prune\] the loss 'cross_entropy' needs labels",
        ),
        (
            {"teacher": {"file": "teacher.onnx"}, "distill__losses": KD, "distill__unlabelled_weight": 1.0},
            r"\[distill\] unlabelled_weight is set, and train has no labels either",
        ),
    ],
)
def test_no_labels(changes, message):
    bare = with_split(two_kinds("train", labels=False))
    with pytest.raises(UsageError, match=message):
        check(recipe(**changes), bare)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"\[distill\] no loss is about the head 'odd'"),
        ({"distill__losses": BOTH_HEADS}, r"\[prune\] no loss is about the head 'odd'"),
        (
            {"distill__losses": BOTH_HEADS, "prune__losses": BOTH_HEADS},
            r"\[quantize\] no loss is about the head 'odd'",
        ),
        ({"distill__losses": [*KD, {"kind": "kd", "head": "od"}]}, "names the head 'od'.*did you mean 'odd'"),
    ],
)
def test_several_heads(changes, message):
    with pytest.raises(UsageError, match=message):
        check(recipe(**changes), task(heads={"odd": ("even", "odd")}))


def test_calibration_alone_asks_nothing_of_heads():
    several = {"distill__losses": BOTH_HEADS, "prune__losses": BOTH_HEADS, "quantize": {"method": "ptq"}}
    check(recipe(**several), task(heads={"odd": ("even", "odd")}))
