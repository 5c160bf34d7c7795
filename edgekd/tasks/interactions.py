"""Who took what, and when: a table of user, item, rating and time, as lists of candidates to rank.

A sample is a user and `candidates` items, of which one was taken; its label is that one's place. Later
interactions of a user are judged, earlier ones trained on. The same table can be made from a seed, with users
whose tastes are known, for tests and first steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgekd.config import Positive, Strict
from edgekd.errors import DataError
from edgekd.tasks.common import classification, existing
from edgekd.types import InputSpec, Split, Task

VERSION = 1
UNSEEN = 0  # the id of users and items that train has not
IDS = "ids.json"  # beside a model: the id of each user and item
_PIECE = 4096


class Options(Strict):
    """Options of the kind `interactions`."""

    path: str | None = Field(
        default=None,
        description="rows of user, item, rating, time, such as MovieLens-100k's u.data; $VAR is filled in; "
        "left out: made from the seed",
    )
    separator: str = Field(default="\t", min_length=1, max_length=2, description="between the cells of a row")
    header: bool = Field(default=False, description="whether the first row names the columns")
    min_rating: float | None = Field(
        default=None, description="what is rated lower was not taken; it is no candidate of that user either"
    )
    candidates: int = Field(default=100, ge=2, le=4096, description="items of a list, one of them taken")
    last_test: Positive = Field(
        default=5, description="of each user: the last that were taken, to be judged on"
    )
    last_val: Positive = Field(default=1, description="of each user: those before")
    users: Positive = Field(default=1000, description="of a table that is made")
    items: Positive = Field(default=1500, description="of a table that is made")
    taken: Positive = Field(default=60, description="of a table that is made: items a user, on average")

    @model_validator(mode="after")
    def _room(self) -> Options:
        if self.path is None and self.items < 2 * self.candidates + self.taken:
            raise ValueError("items must be at least twice candidates, and those taken besides")
        return self


@dataclass(frozen=True)
class _Table:
    """One row an interaction: names of users and items, ratings, times, and the line that each stands on."""

    users: NDArray[np.str_]
    items: NDArray[np.str_]
    ratings: NDArray[np.float64]
    times: NDArray[np.float64]
    lines: NDArray[np.int64]


def sources(options: Options) -> tuple[Path, ...]:
    """The table, where there is a file of it."""
    return () if options.path is None else (existing(options.path, "path"),)


def read(options: Options, seed: int) -> Task:
    """Lists (N, 1 + candidates) int32: the user, then the items. Users are a column, `user`."""
    paths = sources(options)
    table = _from_file(paths[0], options) if paths else made(options, seed)
    liked = np.ones(len(table.users), np.bool_)
    if options.min_rating is not None:
        liked = table.ratings >= options.min_rating
    part = _parts(table, liked, options)
    users, items = (_numbered(names[part == _TRAIN]) for names in (table.users, table.items))
    if len(items) < 2 * options.candidates:
        raise DataError(
            f"task.candidates = {options.candidates}: train has {len(items)} items, twice as many are needed",
            hint="a smaller task.candidates",
        )
    row_users, row_items = (
        np.array([numbers.get(str(name), UNSEEN) for name in names], np.int64)
        for numbers, names in ((users, table.users), (items, table.items))
    )
    rng, splits = np.random.default_rng([seed, 1]), []
    unseen = {}
    for name, of in (("train", _TRAIN), ("val", _VAL), ("test", _TEST)):
        at = np.flatnonzero((part == of) & liked)
        # What comes later is not known yet: nothing is drawn of what a user saw until then, and that alone.
        known = part <= of
        lists, labels = _lists(at, row_users, row_items, known, len(items), options.candidates, rng)
        ids = np.array([f"{name}:{line}" for line in table.lines[at]], np.str_)
        column = np.array([str(u) for u in table.users[at]], np.str_)
        splits.append(Split(name, ids, lists, labels, columns={"user": column}))
        unseen[name] = int((row_items[at] == UNSEEN).sum())
    highest = float(max(len(users), len(items)))
    spec = InputSpec("ids", (1 + options.candidates,), "NC", "int32", (0.0, highest), 1.0, mean=(), std=())
    notes: dict[str, Any] = {
        "users": len(users) + 1,  # with the unseen one
        "items": len(items) + 1,
        "unseen_items": unseen,
        "rated_lower": int((~liked).sum()),
    }
    names = [f"candidate {i}" for i in range(1, options.candidates + 1)]
    task = classification(paths[0].stem if paths else "interactions", splits, spec, names, notes)
    numbers = {"format": 1, "unseen": UNSEEN, "users": users, "items": items}
    return replace(task, files={IDS: json.dumps(numbers, ensure_ascii=False, separators=(",", ":")) + "\n"})


_TRAIN, _VAL, _TEST = range(3)


def _parts(table: _Table, liked: NDArray[np.bool_], options: Options) -> NDArray[np.int64]:
    """(N,): of each row whether it is trained on, or among a user's last: those that were taken count.

    A user with too few for all three has all in train.
    """
    found = np.full(len(table.users), _TRAIN, np.int64)
    _, number = np.unique(table.users, return_inverse=True)
    order = np.lexsort((table.lines, table.times, number))
    starts = np.flatnonzero(np.r_[True, np.diff(number[order]) > 0])
    held = options.last_val + options.last_test
    for start, end in zip(starts, np.r_[starts[1:], len(order)], strict=True):
        rows = order[start:end]
        taken = np.flatnonzero(liked[rows])
        if len(taken) <= held:
            continue
        found[rows[taken[-held] :]] = _VAL
        found[rows[taken[-options.last_test] :]] = _TEST
    if not (found == _TEST).any():
        raise DataError(
            f"no user took more than {held} items, which task.last_val and task.last_test hold out"
        )
    return found


def _numbered(names: NDArray[np.str_]) -> dict[str, int]:
    """Ids from 1, those that stand most often first: rare ones are what small tables of vectors blur."""
    values, counts = np.unique(names, return_counts=True)
    order = np.lexsort((values, -counts))
    return {str(values[at]): i for i, at in enumerate(order, start=1)}


def _lists(
    at: NDArray[np.int64],
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    known: NDArray[np.bool_],
    num_items: int,
    candidates: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """For each row its user and candidates, the taken one at a drawn place; the others are drawn evenly.

    Args:
        at: (N,) rows that were taken.
        users: (R,) ids.
        items: (R,) ids.
        known: (R,) rows whose items are no candidates of their user but where they were taken.
        num_items: ids of items go from 1 to it.
        candidates: items a list.
        rng: draws.
    """
    span = num_items + 1
    taken = np.unique(users[known] * span + items[known])
    lists = np.empty((len(at), 1 + candidates), np.int32)
    labels = rng.integers(0, candidates, len(at))
    lists[:, 0] = users[at]
    for start in range(0, len(at), _PIECE):
        piece = slice(start, start + _PIECE)
        others = _drawn(users[at[piece]], taken, num_items, candidates - 1, rng)
        place = np.arange(candidates) - labels[piece, None]
        # Those drawn fill the places around the taken one's, in order; its own place is written last.
        lists[piece, 1:] = np.take_along_axis(others, (np.arange(candidates) - (place >= 0)).clip(0), 1)
        lists[np.arange(len(at))[piece], 1 + labels[piece]] = items[at[piece]]
    return lists, labels.astype(np.int64)


def _drawn(
    users: NDArray[np.int64], taken: NDArray[np.int64], num_items: int, count: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    """(N, count): for each user different items of 1 to `num_items`, none of which is among those taken.

    `taken` has user * (num_items + 1) + item of each, sorted.
    """
    span = num_items + 1
    some = rng.integers(1, span, (len(users), 2 * count + 20))
    order = np.argsort(some, axis=1, kind="stable")
    in_order = np.take_along_axis(some, order, 1)
    again = np.zeros(some.shape, np.bool_)
    np.put_along_axis(again, order[:, 1:], in_order[:, 1:] == in_order[:, :-1], 1)
    free = ~again & ~_among(users[:, None] * span + some, taken)
    found = np.empty((len(users), count), np.int32)
    enough = free.sum(axis=1) >= count
    first = free & (free.cumsum(axis=1) <= count)
    found[enough] = some[enough][first[enough]].reshape(-1, count)
    for n in np.flatnonzero(~enough):  # of users who know nearly all
        every = np.arange(1, span)
        every = every[~_among(users[n] * span + every, taken)]
        if len(every) < count:
            raise DataError(
                f"task.candidates = {count + 1}: a user has seen all but {len(every)} of {num_items} items",
                hint="a smaller task.candidates",
            )
        found[n] = rng.permutation(every)[:count]
    return found


def _among(values: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each value is among sorted ones."""
    place = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.asarray(known[place] == values)


def _from_file(path: Path, options: Options) -> _Table:
    rows: list[tuple[str, str, float, float]] = []
    lines = []
    try:
        with path.open(encoding="utf-8") as file:
            for line, text in enumerate(file, start=1):
                if not text.strip() or (line == 1 and options.header):
                    continue
                rows.append(_row(text.rstrip("\r\n").split(options.separator), f"{path}:{line}"))
                lines.append(line)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable table: {error}") from None
    if not rows:
        raise DataError(f"{path}: no rows")
    users, items, ratings, times = zip(*rows, strict=True)
    return _Table(
        np.array(users), np.array(items), np.array(ratings), np.array(times), np.array(lines, np.int64)
    )


def _row(cells: Sequence[str], where: str) -> tuple[str, str, float, float]:
    if len(cells) != 4:
        raise DataError(
            f"{where}: {len(cells)} cells, expected user, item, rating and time",
            hint="task.separator says what stands between them",
        )
    user, item, rating, time = (cell.strip() for cell in cells)
    if not user or not item:
        raise DataError(f"{where}: {'item' if user else 'user'} is empty")
    numbers = []
    for name, cell in (("rating", rating), ("time", time)):
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{where}: {name} = {cell!r} is not a finite number", hint="task.header, maybe")
        numbers.append(number)
    return user, item, numbers[0], numbers[1]


def made(options: Options, seed: int) -> _Table:
    """A table with a planted structure: tastes and items are points, and near items are taken more often.

    Popularity falls as in shops (one over the rank's root), and no item is taken twice by a user.
    """
    rng = np.random.default_rng([seed, 0])
    directions, groups = 8, 24
    centres = rng.normal(size=(groups, directions))
    items = centres[rng.integers(0, groups, options.items)] + 0.4 * rng.normal(
        size=(options.items, directions)
    )
    tastes = centres[rng.integers(0, groups, (options.users, 2))].mean(axis=1)
    tastes += 0.3 * rng.normal(size=tastes.shape)
    popular = -0.5 * np.log(rng.permutation(options.items) + 1.0)
    rows = []
    for user in range(options.users):
        count = int(np.clip(rng.poisson(options.taken), 10, options.items // 2))
        liking = 1.2 * items @ tastes[user] / math.sqrt(directions) + popular
        # The largest of liking plus Gumbel noise are a draw without replacement, by e to the liking.
        taken = np.argsort(-(liking + rng.gumbel(size=options.items)))[:count]
        times = np.sort(rng.uniform(0, 1e8, count)).round()
        rows += [(f"u{user}", f"i{i}", 5.0, t) for i, t in zip(rng.permutation(taken), times, strict=True)]
    users, names, ratings, stamps = zip(*rows, strict=True)
    return _Table(
        np.array(users), np.array(names), np.array(ratings), np.array(stamps), np.arange(1, len(rows) + 1)
    )
