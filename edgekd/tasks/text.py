"""Texts in CSV, as the token ids of a tokenizer: one column the text, one the label."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgekd.config import Positive, Strict
from edgekd.errors import DataError, UsageError, nearest
from edgekd.tasks.common import classification, existing, split_by_count, take
from edgekd.tokens import PADDING, PADDING_WORD, UNKNOWN_WORD, vocabulary_sha256
from edgekd.types import InputSpec, Split, Task

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

    @model_validator(mode="after")
    def _one_source(self) -> Options:
        if (self.val is None) == (self.val_fraction is None):
            raise ValueError("give exactly one of val and val_fraction")
        if (self.test is None) == (self.test_fraction is None):
            raise ValueError("give exactly one of test and test_fraction")
        if (self.val_fraction or 0) + (self.test_fraction or 0) >= 1:
            raise ValueError("val_fraction and test_fraction leave nothing for train")
        return self


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
    classes = sorted({label for _, label, _ in files["train"]})
    inputs, labels, ids, cut, unknown = {}, {}, {}, {}, {}
    for name, rows in files.items():
        inputs[name], cut[name], unknown[name] = _encoded(tokenizer, [text for text, _, _ in rows])
        labels[name] = _labels(rows, classes, options, names[name])
        ids[name] = np.array([f"{name}:{line}" for *_, line in rows], np.str_)
    fractions = {"val": options.val_fraction, "test": options.test_fraction}
    total = len(labels["train"])
    sizes = {name: max(1, round(f * total)) for name, f in fractions.items() if f is not None}
    index = {"train": np.arange(total)}
    if sizes:
        index = split_by_count(inputs["train"], labels["train"], sizes, seed)
    splits: list[Split] = []
    notes: dict[str, dict[str, Any]] = {"cut": {}, "with_unknown_words": {}}
    for name in ("train", "val", "test"):
        origin = name if name in files and name not in index else "train"
        at = index[name] if origin == "train" else np.arange(len(labels[name]))
        splits.append(take(name, at, ids[origin], inputs[origin], labels[origin]))
        notes["cut"][name] = int(cut[origin][at].sum())
        notes["with_unknown_words"][name] = int(unknown[origin][at].sum())
    size = tokenizer.get_vocab_size()
    spec = InputSpec(
        "input_ids", (options.max_length,), "NC", "int32", (0.0, float(size - 1)), 1.0, mean=(), std=()
    )
    found = existing(options.train, "train").parent.name or "text"
    task = classification(found, splits, spec, classes, {**notes, "vocabulary": vocabulary})
    return replace(task, files={TOKENIZER: tokenizer.to_str()})


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


def _rows(path: Path, options: Options) -> list[tuple[str, str, int]]:
    """(text, label, line) of each row."""
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = tuple(reader.fieldnames or ())
            for column in (options.text, options.label):
                if column not in header:
                    hint = nearest(column, header, f"columns: {', '.join(header)}")
                    raise DataError(f"{path}:1: no column {column!r}", hint=hint)
            for row in reader:
                text, label = row[options.text], row[options.label]
                if not (text or "").strip() or not label:
                    what = options.label if (text or "").strip() else options.text
                    raise DataError(
                        f"{path}:{reader.line_num}: {what} is empty", hint="fill it in, or take the row out"
                    )
                rows.append((text, label, reader.line_num))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV file: {error}") from None
    if not rows:
        raise DataError(f"{path}: no rows below a header")
    return rows


def _labels(
    rows: Sequence[tuple[str, str, int]], classes: Sequence[str], options: Options, path: str | None
) -> NDArray[np.int64]:
    number = {value: i for i, value in enumerate(classes)}
    for _, label, line in rows:
        if label not in number:
            raise DataError(
                f"{path}:{line}: {options.label} = {label!r} is no label of train",
                hint=f"known: {', '.join(classes[:20])}",
            )
    return np.array([number[label] for _, label, _ in rows], np.int64)
