"""What is known of test samples beside their label: from the task itself, a table's own files, or a file."""

from __future__ import annotations

from collections.abc import Mapping

from edgekd.columns import Texts, columns_of, of_samples, read_csv
from edgekd.errors import DataError, nearest
from edgekd.settings import ColumnsConfig
from edgekd.tasks.common import existing
from edgekd.types import Column, Split

ID = "sample_id"


def read_columns(split: Split, asked: ColumnsConfig | None, own: Mapping[str, Texts]) -> dict[str, Column]:
    """The columns of a split's samples, by name.

    Args:
        split: whose samples; columns that it has itself are among them.
        asked: of the recipe; None: nothing besides.
        own: what the recipe names of the task's own files, a text a sample.

    Raises:
        DataError: a column that is not there, taken or given twice, a sample without a row, a missing value.
    """
    found = of_samples(split.columns, f"split {split.name!r}")
    if asked is not None:
        more = _of_file(asked, split) if asked.file is not None else of_samples(own, "task.columns")
        if both := found.keys() & more.keys():
            raise DataError(f"task.columns: the task has a column {sorted(both)[0]!r} of its own")
        found |= more
    return columns_of(found)


def _of_file(asked: ColumnsConfig, split: Split) -> dict[str, Texts]:
    assert asked.file is not None  # as the caller knows
    path = existing(asked.file, "columns.file")
    rows = read_csv(path)
    if ID not in rows:
        raise DataError(f"{path}: no column {ID!r}", hint=f"columns: {', '.join(rows)}")
    names = asked.names or tuple(name for name in rows if name != ID)
    if not names:
        raise DataError(f"{path}: no column beside {ID!r}")
    for name in names:
        if name not in rows:
            raise DataError(
                f"{path}: no column {name!r}", hint=nearest(name, rows, f"columns: {', '.join(rows)}")
            )
    line = {name: at for at, name in enumerate(rows[ID])}
    if len(line) < len(rows[ID]):
        twice = next(name for at, name in enumerate(rows[ID]) if line[name] != at)
        raise DataError(f"{path}: {ID} {twice!r} stands twice")
    ids = [str(i) for i in split.ids]
    if lacking := [i for i in ids if i not in line]:
        raise DataError(
            f"{path}: no row for {len(lacking)} of {len(ids)} samples of {split.name!r}: {lacking[0]!r} ...",
            hint=f"a row for each; {ID} is what predictions call a sample",
        )
    return of_samples({name: [rows[name][line[i]] for i in ids] for name in names}, str(path))
