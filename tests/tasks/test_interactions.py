import json

import numpy as np
import pytest

from edgekd import tasks
from edgekd.config import TaskConfig
from edgekd.errors import DataError, UsageError
from edgekd.tasks import storage


def row(user, item, rating, time):
    return f"{user}\t{item}\t{rating}\t{time}"


@pytest.fixture
def read(tmp_path):
    def of(rows, seed=0, **options):
        (tmp_path / "u.data").write_text("\n".join(rows) + "\n")
        settings = {"path": str(tmp_path / "u.data"), "candidates": 3, "last_test": 1, "last_val": 1}
        return tasks.read(TaskConfig(kind="interactions", **(settings | options)), seed)

    return of


# Two users; b took z once and late, and c is there with too few to hold any out.
ROWS = [
    *(row("a", item, 5, time) for time, item in enumerate("pqrstu")),
    *(row("b", item, 5, 10 - time) for time, item in enumerate("zqpuvw")),
    row("c", "w", 5, 3),
    row("c", "v", 5, 1),
]


def test_the_last_of_each_user_are_held_out(read):
    task = read(ROWS)
    of = {
        name: [(str(u), str(i)) for u, i in zip(split.columns["user"], split.ids, strict=True)]
        for name, split in task.splits.items()
    }
    assert sorted(of["test"]) == [("a", "test:6"), ("b", "test:7")]  # u at 5; z at 10
    assert sorted(of["val"]) == [("a", "val:5"), ("b", "val:8")]
    assert len(of["train"]) == 4 + 4 + 2


def test_lists_hold_the_taken_item_and_others_that_the_user_has_not(read):
    task = read(ROWS)
    ids = json.loads(task.files["ids.json"])
    # Ids go by how often each stands in train, then by name.
    assert ids["users"] == {"a": 1, "b": 2, "c": 3} and ids["unseen"] == 0
    counts = {i: sum(1 for r in TRAIN if r[1] == i) for i in {r[1] for r in TRAIN}}
    assert list(ids["items"]) == sorted(counts, key=lambda i: (-counts[i], i))
    assert list(ids["items"].values()) == list(range(1, len(counts) + 1))
    names = {number: name for name, number in ids["items"].items()} | {0: "unseen"}
    users = {number: name for name, number in ids["users"].items()}
    until = {"train": TRAIN, "val": [*TRAIN, ("a", "t"), ("b", "q")]}
    until["test"] = [*until["val"], ("a", "u"), ("b", "z")]
    for name, split in task.splits.items():
        for sample, label in zip(split.inputs, split.labels, strict=True):
            user, items = users[int(sample[0])], [names[int(i)] for i in sample[1:]]
            assert len(set(items)) == 3
            known = {item for who, item in until[name] if who == user}
            others = [item for place, item in enumerate(items) if place != label]
            assert not known & set(others)
            assert items[label] in known | {"unseen"}
    # z is in no training row
    (at,) = np.flatnonzero(task.splits["test"].columns["user"] == "b")
    assert task.splits["test"].inputs[at, 1 + task.splits["test"].labels[at]] == 0
    assert task.notes["unseen_items"] == {"train": 0, "val": 1, "test": 1}  # t, z


TRAIN = [
    *(("a", item) for item in "pqrs"),
    *(("b", item) for item in "puvw"),
    *(("c", item) for item in "wv"),
]


def test_what_was_rated_low_was_not_taken(read):
    rows = [*ROWS[:5], row("a", "u", 1, 0.5), *ROWS[6:]]  # a did not like u, early
    rows += [row(user, item, 5, 0) for user, item in ("cs", "ct", "dx", "dy")]
    for seed in range(12):
        task = read(rows, min_rating=4, candidates=3, seed=seed, last_test=1, on_overlap="drop_from_train")
        assert task.notes["rated_lower"] == 1
        ids = json.loads(task.files["ids.json"])
        mine = [s for split in task.splits.values() for s in split.inputs if s[0] == ids["users"]["a"]]
        assert len(mine) == 5  # p, q, r; s; t
        assert all(ids["items"]["u"] not in sample[1:] for sample in mine)  # no candidate either


def test_places_of_the_taken_item_are_even(tmp_path):
    options = {"users": 200, "items": 120, "taken": 20, "candidates": 4}
    task = tasks.read(TaskConfig(kind="interactions", **options), 3)
    found = np.bincount(task.splits["train"].labels, minlength=4) / len(task.splits["train"])
    assert abs(found - 0.25).max() < 0.03
    again = tasks.read(TaskConfig(kind="interactions", **options), 3)
    np.testing.assert_array_equal(task.splits["test"].inputs, again.splits["test"].inputs)
    storage.save(task, tmp_path)
    assert storage.load(tmp_path).files == task.files


def test_the_made_table_has_tastes(tmp_path):
    """Users who share an item share others more often than chance: what popularity alone cannot tell."""
    options = {"users": 300, "items": 200, "taken": 20, "candidates": 4}
    task = tasks.read(TaskConfig(kind="interactions", **options), 0)
    ids = json.loads(task.files["ids.json"])
    taken = np.zeros((len(ids["users"]) + 1, len(ids["items"]) + 1))
    train = task.splits["train"]
    taken[train.inputs[:, 0], train.inputs[np.arange(len(train)), 1 + train.labels]] = 1
    share = taken.mean(axis=0)
    together = (taken.T @ taken) / len(taken)
    often = (share > 0.05)[:, None] & (share > 0.05)[None] & ~np.eye(len(share), dtype=bool)
    lift = together[often] / np.outer(share, share)[often]
    assert np.quantile(lift, 0.95) > 1.8


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([*ROWS, "a\tb\t3"], {}, r"u.data:15: 3 cells, expected user, item, rating and time"),
        ([*ROWS, "a\tb\tgood\t3"], {}, r"u.data:15: rating = 'good' is not a finite number"),
        ([*ROWS, "a\t\t3\t3"], {}, r"u.data:15: item is empty"),
        (ROWS, {"candidates": 40}, r"task.candidates = 40: train has 7 items, twice as many"),
        (ROWS, {"last_test": 20}, r"no user took more than 21 items"),
        ([], {}, r"u.data: no rows"),
    ],
)
def test_bad_tables_are_named(read, rows, options, message):
    with pytest.raises((DataError, UsageError), match=message):
        read(rows, **options)


def test_a_user_who_has_seen_nearly_all(read):
    rows = [row(u, i, 5, t) for u in "ab" for t, i in enumerate("pqrstuvw")]
    with pytest.raises(DataError, match=r"task.candidates = 3: a user has seen all but \d of 6 items"):
        read(rows)
