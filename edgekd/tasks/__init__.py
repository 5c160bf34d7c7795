"""A task is its splits, its metric and its preprocessing, read by a small module of its kind.

A reader has `VERSION`, an `Options` class, `sources(options)` (the files it
will read) and `read(options, seed)`. Its line in `READERS` is all that makes it
known; it is imported only when a recipe names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from edgekd.config import Strict, TaskConfig, build
from edgekd.errors import DataError, UsageError, nearest
from edgekd.store import sha256_tree
from edgekd.tasks import user
from edgekd.tasks.checking import check, keep_first, split_sha256
from edgekd.tasks.columns import read_columns
from edgekd.tasks.common import expand_path
from edgekd.tasks.storage import load, save
from edgekd.types import Column, Split, Task
from edgekd.user_code import check_call, reads

__all__ = [
    "BESIDE",
    "READERS",
    "admit",
    "check",
    "columns_of",
    "expand_path",
    "fingerprint",
    "keep_first",
    "load",
    "options_of",
    "read",
    "save",
    "split_sha256",
]

READERS: Mapping[str, str] = {
    "digits": "edgekd.tasks.digits",
    "idx": "edgekd.tasks.idx",
    "image_folder": "edgekd.tasks.image_folder",
    "interactions": "edgekd.tasks.interactions",
    "npz": "edgekd.tasks.npz",
    "synthetic": "edgekd.tasks.synthetic",
    "table": "edgekd.tasks.table",
    "text": "edgekd.tasks.text",
}

# Raised when `check` or `keep_first` change what they keep, so that stored tasks are read anew.
VERSION = 1
# What a recipe says of samples that nothing is trained by.
BESIDE = {"columns"}


class Reader(Protocol):
    """What a module in `READERS` offers."""

    VERSION: int
    Options: type[Strict]

    def sources(self, options: Any) -> tuple[Path, ...]:
        """Files and folders that `read` will read."""

    def read(self, options: Any, seed: int) -> Task:
        """The task, unchecked."""


def read(config: TaskConfig, seed: int) -> Task:
    """The task that a recipe names, checked for leaks and cut to `config.limit` samples a split.

    The check comes before the cut as well as after, so that a smoke run finds
    the faults that a full run would find.

    Raises:
        UsageError: an unknown kind or option, an unset variable in a path.
        DataError: files missing or corrupt, or data that `check` refuses.
    """
    if ":" in config.kind:
        task = user.call(config.kind, config.options)
    else:
        reader, options = _reader(config)
        task = reader.read(options, seed)
    return admit(task, config, seed)


def admit(task: Task, config: TaskConfig, seed: int) -> Task:
    """A task, prepared, checked and cut as `config` says; for tasks that were made in Python too."""
    said = {key: value for key in ("mean", "std", "scale") if (value := getattr(config, key)) is not None}
    task = check(replace(task, input_spec=replace(task.input_spec, **said)), config.on_overlap)
    if config.limit is None:
        return task
    return check(keep_first(task, config.limit, seed), config.on_overlap)


def columns_of(config: TaskConfig, split: Split) -> dict[str, Column]:
    """What is known of a split's samples beside their label: columns that the gate may ask for, by name.

    Raises:
        UsageError: a kind of task that has no columns of its own.
        DataError: a column or a row that is not there, or a value that is missing.
    """
    asked, own = config.columns, {}
    if asked is not None and asked.file is None:
        if config.kind != "table":
            raise UsageError(
                f"task.columns: a task of kind {config.kind!r} has no columns of its own",
                hint='file = "FILE.csv" with sample_id and the columns',
            )
        from edgekd.tasks import table

        own = table.cells(build(table.Options, config.options, "task"), asked.names, split.ids)
    return read_columns(split, asked, own)


def fingerprint(config: TaskConfig, hash_file: Callable[[Path], str] = sha256_tree) -> str:
    """Identity of what `read(config, seed)` yields, in hex, without decoding any data.

    Equal fingerprints and equal seeds mean equal tasks: the seed is not part of
    it. Where the data lies is not either, only paths as the recipe writes them.

    Args:
        config: the recipe's [task].
        hash_file: sha256 of a file or folder; pass a caching one where they are large.
    """
    if ":" in config.kind:
        check_call(config.kind, "task", config.options, reserved=TaskConfig.model_fields)
        version = 0
        sources = reads(config.kind, "task", config.options)
    else:
        reader, options = _reader(config)
        version = reader.VERSION
        sources = reader.sources(options)
    identity = {
        "version": [VERSION, version],
        "config": config.model_dump(mode="json", exclude=BESIDE),
        "sources": [[(source.name, hash_file(_there(source)))] for source in sources],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _reader(config: TaskConfig) -> tuple[Reader, Strict]:
    if config.kind not in READERS:
        hint = nearest(config.kind, READERS, f"known: {', '.join(READERS)}")
        raise UsageError(
            f"unknown task kind {config.kind!r}", hint=f"{hint}; package.module:function names your own"
        )
    reader = _reader_of(config.kind)
    known = (*reader.Options.model_fields, *TaskConfig.model_fields)
    if unknown := [key for key in config.options if key not in known]:
        hint = nearest(unknown[0], known, f"valid keys here: {', '.join(known)}")
        raise UsageError(f"task of kind {config.kind!r}: unknown key {unknown[0]!r}", hint=hint)
    return reader, build(reader.Options, config.options, f"task of kind {config.kind!r}")


def _reader_of(kind: str) -> Reader:
    return cast(Reader, import_module(READERS[kind]))


def options_of(kind: str) -> type[Strict]:
    """What a kind of `READERS` takes beside the keys that every task has."""
    return _reader_of(kind).Options


def _there(source: Path) -> Path:
    if not source.exists():
        raise DataError(f"{source}: no such file or folder", hint="check the paths under [task]")
    return source
