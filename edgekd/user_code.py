"""A user's own functions, named in a recipe as `package.module:function`.

They are looked for where Python looks, and last in the current folder: the installed
command, unlike `python -m`, does not look there by itself.
"""

from __future__ import annotations

import importlib.util
import re
import site
import sys
from collections.abc import Callable
from importlib import import_module
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from edgekd.errors import UsageError

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_WHERE = "run from the folder that holds it, install it, or put its folder on PYTHONPATH"


def function_of(name: str, what: str) -> Callable[..., Any]:
    """The function that `name` stands for, its module imported.

    Args:
        name: `package.module:function`.
        what: "task" or "model", for errors.

    Raises:
        UsageError: no such module or function, or the module fails while it is imported.
    """
    module_name, function_name = _parts(name, what)
    _look_here()
    try:
        module = import_module(module_name)
    except Exception as error:  # the user's module runs while it is imported
        raise UsageError(
            f"{what} kind {name!r}: importing {module_name} failed: {type(error).__name__}: {error}",
            hint=_WHERE if isinstance(error, ModuleNotFoundError) else "",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"{what} kind {name!r}: {module_name} has no function {function_name!r}")
    return function  # type: ignore[no-any-return]


def sources_of(name: str, what: str) -> tuple[Path, ...]:
    """The source files that the function's result depends on, found without running any of them.

    These are its module's file and the files of all modules beside it that it imports,
    at any depth. Of an installed module only its own file counts.

    Raises:
        UsageError: there is no such module, it has no source file, or a file is not Python.
    """
    module_name, _ = _parts(name, what)
    _look_here()
    own = _source(module_name, name, what)
    depth = module_name.count(".") + (own.name == "__init__.py")
    root = own.parents[depth]
    if str(root) in (*site.getsitepackages(), site.getusersitepackages()):
        return (own,)
    finder = ModuleFinder(path=[str(root)])
    try:
        finder.import_hook(module_name)
    except SyntaxError as error:
        raise UsageError(f"{what} kind {name!r}: {error.filename}:{error.lineno}: {error.msg}") from None
    found = (getattr(module, "__file__", None) for module in finder.modules.values())
    files = {Path(path) for path in found if path is not None}
    return (own, *sorted(files - {own}))


def _source(module_name: str, name: str, what: str) -> Path:
    """The module's file. `find_spec` of a dotted name would import its parents: only the first goes there."""
    first, *rest = module_name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except ValueError:  # a module that is loaded but has no spec, such as __main__
        spec = None
    if spec is None:
        raise UsageError(f"{what} kind {name!r}: there is no module {first!r}", hint=_WHERE)
    if not rest:
        candidates = [Path(spec.origin)] if spec.origin else []
    else:
        folders = [Path(folder, *rest) for folder in spec.submodule_search_locations or ()]
        candidates = [c for f in folders for c in (f / "__init__.py", f.with_name(f.name + ".py"))]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UsageError(f"{what} kind {name!r}: module {module_name!r} has no source file", hint=_WHERE)


def _look_here() -> None:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last: a file here must not hide an installed library


def _parts(name: str, what: str) -> tuple[str, str]:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{what} kind {name!r} is not of the form package.module:function")
    module, _, function = name.partition(":")
    return module, function
