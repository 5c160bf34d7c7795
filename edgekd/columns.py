"""Columns of texts: what is known of each sample beside its label, as files and tasks have it."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import DataError
from edgekd.table_rows import is_missing
from edgekd.types import Column

_WHOLE = re.compile(r"(-?\d+)\.0+")
# What files of predictions say of a sample themselves; numpy takes the last two for its own.
_TAKEN = re.compile(
    r"sample_ids?|labels?|predictions?|scores?|score_\d+|vectors|file|allow_pickle|.*\.npy|\s.*|.*\s|.*[/\\].*|",
    re.DOTALL,
)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
LONGEST = 200  # characters: what is longer describes a sample, and is no slice or cluster

Texts = Sequence[str]


def read_csv(path: Path) -> dict[str, list[str]]:
    """The columns of a CSV file by name, blank lines left out.

    Raises:
        DataError: it cannot be read, a column stands twice, or a row is too short; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            _check_head(file.readline(), path)
            file.seek(0)
            reader = csv.reader(file, strict=True)
            head = next(reader)
            if len(set(head)) < len(head):
                raise DataError(f"{path}: a column stands twice: {', '.join(head)}")
            found: list[list[str]] = [[] for _ in head]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(head):
                    raise DataError(f"{path}:{reader.line_num}: {len(row)} values for {len(head)} columns")
                for values, value in zip(found, row, strict=True):
                    values.append(value)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not a CSV file: {error}") from None
    return dict(zip(head, found, strict=True))


def _check_head(line: str, path: Path) -> None:
    """Tells what would else read as a single column, or as none."""
    if not line.strip():
        raise DataError(f"{path}: empty, or its first line is", hint="it names the columns")
    for separator, named in ((";", "semicolons"), ("\t", "tabs")):
        if separator in line and "," not in line:
            raise DataError(
                f"{path}: its columns seem to be separated by {named}", hint="save it again with commas"
            )


def texts_of(values: Sequence[Any] | NDArray[Any], where: str, name: str) -> Texts:
    """Each value as a text; 3.0 and 3 are the same class or user, whichever type a file keeps them in.

    Raises:
        DataError: a value is missing (nothing, an empty text, NaN), or holds what cannot be shown.
    """
    found = values.tolist() if isinstance(values, np.ndarray) else values
    texts = [str(value).strip() for value in found]
    for i, (value, text) in enumerate(zip(found, texts, strict=True)):
        if value is None or is_missing(text):
            raise DataError(f"{where}: column {name!r} has no value in row {i + 1}: {value!r}")
        if _UNPRINTABLE.search(text):
            raise DataError(f"{where}: column {name!r} has control characters in row {i + 1}: {value!r}")
    return [whole[1] if (whole := _WHOLE.fullmatch(text)) else text for text in texts]


def column_of(texts: Texts) -> Column:
    """(N,) texts with their different values in order, numbers first."""
    places: dict[str, int] = {}
    codes = np.array([places.setdefault(value, len(places)) for value in texts], np.int64)
    order = sorted(places, key=_by_number)
    rank = np.empty(len(order), np.int64)
    rank[[places[value] for value in order]] = np.arange(len(order))
    return Column(rank[codes], tuple(order))


def columns_of(columns: Mapping[str, Texts]) -> dict[str, Column]:
    """As `column_of`, by name."""
    return {name: column_of(values) for name, values in columns.items()}


def of_samples(columns: Mapping[str, Sequence[Any] | NDArray[Any]], where: str) -> dict[str, Texts]:
    """What is known of samples beside their label, as texts by name; the same whoever says it, and when.

    Raises:
        DataError: a name that stored predictions have for something else, or a value that is missing or long.
    """
    found = {}
    for name, values in columns.items():
        if not isinstance(name, str) or _TAKEN.fullmatch(name) or _UNPRINTABLE.search(name):
            hint = "the label is a slice as it is: [gate.slices.label]" if name == "label" else "rename it"
            raise DataError(f"{where}: no column may be called {name!r}", hint=hint)
        found[name] = texts_of(values, where, name)
        if (longest := max(found[name], key=len, default="")) and len(longest) > LONGEST:
            raise DataError(
                f"{where}: column {name!r} has a value of {len(longest):,} characters: {longest[:30]!r} ...",
                hint=f"{LONGEST} at most: longer texts describe a sample, and are no slice or cluster",
            )
    return found


def _by_number(text: str) -> tuple[int, float, str]:
    """Numbers first, in their order."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)
