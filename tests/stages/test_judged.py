"""What is judged of a stage's outputs, where networks give vectors beside classes."""

from types import SimpleNamespace

import numpy as np
import pytest

from edgekd.config import GateConfig
from edgekd.errors import UsageError
from edgekd.stages import judged
from edgekd.types import ACCURACY, InputSpec, Split, Task

COUNT, WIDTH = 180, 8
THINGS = np.repeat(np.arange(COUNT // 3), 3)
LABELS = (THINGS % 3).astype(np.int64)


def context(metric="nearest_hit@1", things=THINGS):
    margin = {"max_drop_pp": 5.0} if "hit" in metric else {"max_drop": 0.05}
    policy = GateConfig(metric=metric, query="thing", cluster="thing", **margin)
    columns = {"thing": things.astype(np.str_)}
    numbers = {"vector": things.astype(np.int64)}
    split = Split(
        "val", np.arange(COUNT).astype(str), np.zeros((COUNT, 1), np.int32), LABELS, {}, numbers, columns
    )
    spec = InputSpec("ids", (1,), "NC", "int32", (0.0, 1.0), 1.0, (), ())
    task = Task("t", {"val": split}, (ACCURACY,), spec, ("a", "b", "c"), vector=WIDTH)
    recipe = SimpleNamespace(gate=policy, task=SimpleNamespace(columns=None))
    return SimpleNamespace(plan=SimpleNamespace(recipe=recipe), task=task)


def outputs(vectors):
    return np.c_[5.0 * np.eye(3)[LABELS], vectors].astype(np.float32)


@pytest.mark.parametrize("metric", ["nearest_hit@1", "nearest_ndcg@10"])
def test_vectors_that_find_no_more_than_chance_are_no_baseline(metric):
    rng = np.random.default_rng(0)
    for vectors in (np.zeros((COUNT, WIDTH)), rng.normal(size=(COUNT, WIDTH))):
        with pytest.raises(UsageError, match=rf"teacher: {metric} .* on validation, where chance gives"):
            judged.refuse_chance("teacher", outputs(vectors), context(metric))
    centres = rng.normal(size=(COUNT // 3, WIDTH))
    near = centres[THINGS] + 0.3 * rng.normal(size=(COUNT, WIDTH))
    judged.refuse_chance("teacher", outputs(near), context(metric))


def test_classes_are_looked_at_too():
    near = np.eye(COUNT // 3)[THINGS][:, :WIDTH] + 1e-3
    wrong = outputs(near)
    wrong[:, :3] = np.roll(wrong[:, :3], 1, axis=1)
    with pytest.raises(UsageError, match="right on validation"):
        judged.refuse_chance("teacher", wrong, context())


def test_a_split_without_likes_tells_nothing():
    alone = context(things=np.arange(COUNT))
    assert not judged.has_queries("val", alone)
    assert judged.figure_on("val", outputs(np.ones((COUNT, WIDTH))), alone) is None
    assert judged.text("val", outputs(np.ones((COUNT, WIDTH))), alone) == "accuracy on validation 100.00 %"
