"""A user's own task: `package.module:function`, called with the recipe's options."""

from __future__ import annotations

from collections.abc import Mapping
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
