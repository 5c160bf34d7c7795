"""A user's own task: `package.module:function`, called with the recipe's options."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import EdgeKDError, UsageError
from edgekd.types import Task
from edgekd.user_code import function_of


def call(kind: str, options: Mapping[str, Any]) -> Task:
    """What the function named by `kind` returns for these keyword arguments.

    Raises:
        UsageError: no such module or function, it fails, or it returns no Task.
    """
    function = function_of(kind, "task")
    name = kind.partition(":")[2]
    try:
        task = function(**options)
    except EdgeKDError:
        raise
    except Exception as error:
        raise UsageError(f"task kind {kind!r}: {name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise UsageError(
            f"task kind {kind!r}: {name} returned {type(task).__name__}, expected edgekd.types.Task"
        )
    return task


def paths_in(value: Any) -> Iterator[Path]:
    """Every option, at any depth, that names an existing file or folder."""
    if isinstance(value, str):
        # A variable that is unset is left as it is: not every text is meant as a path.
        path = Path(os.path.expandvars(value))
        try:
            if value and path.exists():
                yield path
        except (OSError, ValueError):  # too long, or with a null character: no path
            return
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield from paths_in(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from paths_in(item)
