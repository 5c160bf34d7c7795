"""Texts in CSV, as the token ids of a tokenizer: one column the text, one the label."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgekd.config import Positive, Strict
from edgekd.errors import DataError, UsageError, nearest
from edgekd.tasks.common import classification, existing, split_by_count, take
from edgekd.tokens import PADDING, PADDING_WORD, UNKNOWN_WORD, vocabulary_sha256
from edgekd.types import VECTOR, InputSpec, Split, Task

VERSION = 1
TOKENIZER = "tokenizer.json"


class Options(Strict):
    """Options of the kind `text`. Each of val and test comes from exactly one place."""

    train: str = Field(description="CSV with a header; $VAR is filled in")
    val: str | None = Field(default=None, description="CSV with the same columns")
    test: str | None = Field(default=None, description="CSV with the same columns")
    val_fraction: float | None = Field(default=None, gt=0, lt=1, description="share of train, by class")
    test_fraction: float | None = Field(default=None, gt=0, lt=1, description="share of train, by class")
    text: str = Field(default="text", description="the column to read")
    label: str = Field(default="label", description="the column to predict")
    tokenizer: str = Field(
        description="tokenizer.json of the tokenizers library, or a folder that holds one; [PAD] has the id 0"
    )
    max_length: Positive = Field(
        default=64, description="ids a text, padded or cut to it; what was cut is counted"
    )
    vector: Positive | None = Field(
        default=None, description="numbers that networks give beside the classes: near for what is alike"
    )
    same: str | None = Field(
        default=None,
        description="with vector: the column whose equal values say that texts are of one thing; those of a "
        "thing stay in one split",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Options:
        if (self.val is None) == (self.val_fraction is None):
            raise ValueError("give exactly one of val and val_fraction")
        if (self.test is None) == (self.test_fraction is None):
            raise ValueError("give exactly one of test and test_fraction")
        if (self.val_fraction or 0) + (self.test_fraction or 0) >= 1:
            raise ValueError("val_fraction and test_fraction leave nothing for train")
        if (self.vector is None) != (self.same is None):
            raise ValueError("vector and same go together")
        return self


class _Row(NamedTuple):
    """One line of a file: the text, its class, and of which thing it is, where that is asked for."""

    text: str
    label: str
    line: int
    same: str


def sources(options: Options) -> tuple[Path, ...]:
    """The CSV files and the tokenizer."""
    given = (("train", options.train), ("val", options.val), ("test", options.test))
    return (
        *(existing(value, key) for key, value in given if value is not None),
        _tokenizer_file(options),
    )


def read(options: Options, seed: int) -> Task:
    """Ids (N, max_length) int32, 0 where a text has ended."""
    *_, path = sources(options)  # a missing one is told before the first is read
    tokenizer, vocabulary = _tokenizer(path, options.max_length)
    names = {"train": options.train, "val": options.val, "test": options.test}
    files = {n: _rows(existing(v, n), options) for n, v in names.items() if v is not None}
    classes = sorted({row.label for row in files["train"]})
    inputs, labels, ids, cut, unknown, same = {}, {}, {}, {}, {}, {}
    for name, rows in files.items():
        inputs[name], cut[name], unknown[name] = _encoded(tokenizer, [row.text for row in rows])
        labels[name] = _labels(rows, classes, options, names[name])
        ids[name] = np.array([f"{name}:{row.line}" for row in rows], np.str_)
        same[name] = np.array([row.same for row in rows], np.str_)
    if options.same is not None:
        _refuse_shared(same, names, options.same)
    fractions = {"val": options.val_fraction, "test": options.test_fraction}
    total = len(labels["train"])
    sizes = {name: max(1, round(f * total)) for name, f in fractions.items() if f is not None}
    index = {"train": np.arange(total)}
    if sizes:
        index = (
            split_by_count(inputs["train"], labels["train"], sizes, seed)
            if options.same is None
            else _split_by_thing(same["train"], sizes, seed)
        )
    splits: list[Split] = []
    notes: dict[str, dict[str, Any]] = {"cut": {}, "with_unknown_words": {}}
    for name in ("train", "val", "test"):
        origin = name if name in files and name not in index else "train"
        at = index[name] if origin == "train" else np.arange(len(labels[name]))
        split = take(name, at, ids[origin], inputs[origin], labels[origin])
        if options.same is not None:
            things = same[origin][at]
            numbers = np.unique(things, return_inverse=True)[1].astype(np.int64)
            split = replace(split, columns={options.same: things}, head_labels={VECTOR: numbers})
        splits.append(split)
        notes["cut"][name] = int(cut[origin][at].sum())
        notes["with_unknown_words"][name] = int(unknown[origin][at].sum())
    size = tokenizer.get_vocab_size()
    spec = InputSpec(
        "input_ids", (options.max_length,), "NC", "int32", (0.0, float(size - 1)), 1.0, mean=(), std=()
    )
    found = existing(options.train, "train").parent.name or "text"
    task = classification(found, splits, spec, classes, {**notes, "vocabulary": vocabulary})
    return replace(task, files={TOKENIZER: tokenizer.to_str()}, vector=options.vector or 0)


def _refuse_shared(
    same: Mapping[str, NDArray[np.str_]], names: Mapping[str, str | None], column: str
) -> None:
    """A thing that is asked for was never learned: the files' things are others."""
    for one, other in itertools.combinations(same, 2):
        if both := sorted(set(same[one]) & set(same[other])):
            raise DataError(
                f"{names[one]}, {names[other]}: {column} = {str(both[0])!r} stands in both, "
                f"and {len(both) - 1:,} others do",
                hint="all texts of a thing belong into one file",
            )


def _split_by_thing(
    things: NDArray[np.str_], sizes: dict[str, int], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Places (N,) of each named split, of so many texts or a few more, and of `train`, which gets the rest.

    Whatever is the same thing is in one of them.
    """
    numbers = np.unique(things, return_inverse=True)[1]
    counts = np.bincount(numbers)
    order = np.random.default_rng(seed).permutation(len(counts))
    ends = np.cumsum(counts[order])
    found, start = {}, 0
    for name, size in sizes.items():
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + size)) + 1
        found[name] = np.flatnonzero(np.isin(numbers, order[start:stop]))
        start = stop
    if start >= len(counts):
        raise DataError(
            f"task.same: {len(counts)} things are too few to share out between {', '.join(sizes)} and train"
        )
    found["train"] = np.flatnonzero(np.isin(numbers, order[start:]))
    return found


def _tokenizer_file(options: Options) -> Path:
    path = existing(options.tokenizer, "tokenizer")
    return path / TOKENIZER if path.is_dir() else path


def _tokenizer(path: Path, length: int) -> tuple[Any, dict[str, Any]]:
    """The tokenizer, padding and cutting to `length`, and what is known of its vocabulary."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UsageError(
            "a task of kind 'text' needs tokenizers", hint="pip install 'edgekd[text]'"
        ) from None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise DataError(
            f"task.tokenizer: {path}: not a tokenizer: {error}",
            hint="tokenizer.json, as save_pretrained writes it",
        ) from None
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if vocabulary.get(PADDING_WORD) != PADDING:
        raise DataError(
            f"task.tokenizer: {path}: {PADDING_WORD} has the id {vocabulary.get(PADDING_WORD)}, it must be 0",
            hint="id 0 is what networks take for the end of a text",
        )
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=PADDING, pad_token=PADDING_WORD)
    return tokenizer, {
        "size": len(vocabulary),
        "sha256": vocabulary_sha256(vocabulary),
        "unknown_id": tokenizer.token_to_id(UNKNOWN_WORD),
    }


def _encoded(
    tokenizer: Any, texts: Sequence[str]
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Ids (N, L), whether a text was cut, and whether it has a word that the tokenizer does not know."""
    found = tokenizer.encode_batch(list(texts))
    ids = np.array([one.ids for one in found], np.int32)
    unknown_id = tokenizer.token_to_id(UNKNOWN_WORD)
    cut = np.array([bool(one.overflowing) for one in found], np.bool_)
    return ids, cut, (ids == unknown_id).any(axis=1) if unknown_id is not None else np.zeros_like(cut)


def _rows(path: Path, options: Options) -> list[_Row]:
    rows = []
    needed = (options.text, options.label, *((options.same,) if options.same is not None else ()))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = tuple(reader.fieldnames or ())
            for column in needed:
                if column not in header:
                    hint = nearest(column, header, f"columns: {', '.join(header)}")
                    raise DataError(f"{path}:1: no column {column!r}", hint=hint)
            for row in reader:
                if lacking := [column for column in needed if not (row[column] or "").strip()]:
                    raise DataError(
                        f"{path}:{reader.line_num}: {lacking[0]} is empty",
                        hint="fill it in, or take the row out",
                    )
                same = "" if options.same is None else row[options.same]
                rows.append(_Row(row[options.text], row[options.label], reader.line_num, same))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV file: {error}") from None
    if not rows:
        raise DataError(f"{path}: no rows below a header")
    return rows


def _labels(
    rows: Sequence[_Row], classes: Sequence[str], options: Options, path: str | None
) -> NDArray[np.int64]:
    number = {value: i for i, value in enumerate(classes)}
    for row in rows:
        if row.label not in number:
            raise DataError(
                f"{path}:{row.line}: {options.label} = {row.label!r} is no label of train",
                hint=f"known: {', '.join(classes[:20])}",
            )
    return np.array([number[row.label] for row in rows], np.int64)
