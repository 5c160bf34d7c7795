"""A user's own task: `package.module:function`, called with the recipe's options."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from edgekd.errors import EdgeKDError, UsageError
from edgekd.types import Task

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_WHERE = "a module is looked for where Python looks: install it, or put its folder on PYTHONPATH"


def call(kind: str, options: Mapping[str, Any]) -> Task:
    """What the function named by `kind` returns for these keyword arguments.

    Raises:
        UsageError: no such module or function, it fails, or it returns no Task.
    """
    module_name, function_name = _parts(kind)
    try:
        module = import_module(module_name)
    except Exception as error:  # the user's module runs while it is imported
        raise UsageError(
            f"task kind {kind!r}: importing {module_name} failed: {type(error).__name__}: {error}",
            hint=_WHERE,
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"task kind {kind!r}: {module_name} has no function {function_name!r}")
    try:
        task = function(**options)
    except EdgeKDError:
        raise
    except Exception as error:
        raise UsageError(
            f"task kind {kind!r}: {function_name} failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(task, Task):
        raise UsageError(
            f"task kind {kind!r}: {function_name} returned {type(task).__name__}, expected edgekd.types.Task"
        )
    return task


def source_of(kind: str) -> Path:
    """The source file of the module in `kind`, found without running any of the user's code.

    `importlib.util.find_spec` of a dotted name imports its parents, so only the
    first part goes through it and the rest is looked up as files.

    Raises:
        UsageError: there is no such module, or it has no source file.
    """
    module_name, _ = _parts(kind)
    first, *rest = module_name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except ValueError:  # a module that is loaded but has no spec, such as __main__
        spec = None
    if spec is None:
        raise UsageError(f"task kind {kind!r}: there is no module {first!r}", hint=_WHERE)
    if not rest:
        candidates = [Path(spec.origin)] if spec.origin else []
    else:
        folders = [Path(folder, *rest) for folder in spec.submodule_search_locations or ()]
        candidates = [c for f in folders for c in (f / "__init__.py", f.with_name(f.name + ".py"))]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UsageError(f"task kind {kind!r}: module {module_name!r} has no source file", hint=_WHERE)


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


def _parts(kind: str) -> tuple[str, str]:
    if not _NAME.fullmatch(kind):
        raise UsageError(f"task kind {kind!r} is not of the form package.module:function")
    module, _, function = kind.partition(":")
    return module, function
