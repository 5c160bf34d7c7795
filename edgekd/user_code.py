"""A user's own functions, named in a recipe as `package.module:function`.

They are looked for where Python looks, and last in the current folder: the installed
command, unlike `python -m`, does not look there by itself.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import site
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from edgekd.errors import UsageError, nearest

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


def check_call(
    name: str,
    what: str,
    options: Mapping[str, Any],
    given: int = 0,
    shown: str | None = None,
    reserved: Iterable[str] = (),
) -> None:
    """Refuses a function that is not there and options that it does not take, from its source alone.

    A name that is bound other than by `def` is taken to be a function of any options: that it
    is none is found when it is called.

    Args:
        name: `package.module:function`.
        what: "task" or "model", for errors.
        options: the recipe's keyword arguments.
        given: how many leading arguments the caller fills: they are no options.
        shown: the name that errors use, where it is another one than `name`.
        reserved: keys that the recipe never hands on: an argument of that name would never be filled.

    Raises:
        UsageError: no such module or function, an option that it does not take, one that it misses, or
            an argument whose name is reserved.
    """
    module_name, function_name = _parts(name, what)
    _look_here()
    source = _source(module_name, name, what)
    bound, star = _bound_names(_parsed(source, name, what))
    if function_name not in bound and not star:
        callables = [key for key, node in bound.items() if node is not None and not key.startswith("_")]
        hint = nearest(function_name, callables, f"it has: {', '.join(callables)}" if callables else "")
        raise UsageError(f"{what} kind {name!r}: {module_name} has no function {function_name!r}", hint=hint)
    function = bound.get(function_name)
    if function is None:
        return
    kind = f"{what} kind {shown or name!r}"
    for argument in (*function.args.args, *function.args.kwonlyargs):
        if argument.arg in reserved:
            raise UsageError(
                f"{kind}: takes {argument.arg!r}, which [{what}] keeps for itself", hint="rename the argument"
            )
    _check_options(function.args, kind, options, given)


def _check_options(takes: ast.arguments, shown: str, options: Mapping[str, Any], given: int) -> None:
    leading = [a.arg for a in (*takes.posonlyargs, *takes.args)]
    if takes.vararg is None and len(leading) < given:
        raise UsageError(f"{shown}: takes {len(leading)} leading arguments, {given} are given")
    needed = leading[given : len(leading) - len(takes.defaults)]
    needed += [
        a.arg for a, default in zip(takes.kwonlyargs, takes.kw_defaults, strict=True) if default is None
    ]
    filled = [a.arg for a in takes.args if a.arg in leading[:given]]
    known = [a.arg for a in (*takes.args, *takes.kwonlyargs) if a.arg not in leading[:given]]
    unknown = [key for key in options if key in filled or (takes.kwarg is None and key not in known)]
    if unknown:
        otherwise = f"it takes: {', '.join(known)}" if known else "it takes none"
        raise UsageError(
            f"{shown}: unknown option {unknown[0]!r}", hint=nearest(unknown[0], known, otherwise)
        )
    if missing := [key for key in needed if key not in options]:
        raise UsageError(f"{shown}: option {missing[0]!r} is missing, and it has no default")


def _parsed(source: Path, name: str, what: str) -> ast.Module:
    try:
        return ast.parse(source.read_bytes(), str(source))
    except SyntaxError as error:
        raise UsageError(f"{what} kind {name!r}: {source}:{error.lineno}: {error.msg}") from None


def _bound_names(module: ast.Module) -> tuple[dict[str, ast.FunctionDef | None], bool]:
    """Names that a module binds, with the plain function behind each; and whether it may bind others.

    A function is plain where its `def` stands at the top, is decorated by nothing, and nothing else binds
    the name: what another one takes is known only once the module has run.
    """
    bound: dict[str, list[ast.AST]] = {}
    others = False
    for node in _module_scope(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.alias):
            others = others or node.name == "*"
            bound.setdefault(node.asname or node.name.partition(".")[0], []).append(node)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.setdefault(node.id, []).append(node)
    plain: dict[str, ast.FunctionDef | None] = {}
    for name, nodes in bound.items():
        first = nodes[0]
        alone = len(nodes) == 1 and first in module.body and isinstance(first, ast.FunctionDef)
        plain[name] = first if alone and not first.decorator_list else None  # type: ignore[attr-defined,assignment]
    return plain, others or "__getattr__" in bound


def _module_scope(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below that run when the module is imported: no bodies of functions and classes."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from _module_scope(child)


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


def reads(name: str, what: str, options: Mapping[str, Any]) -> tuple[Path, ...]:
    """All files and folders that a call depends on: its sources, and what its options name.

    Raises:
        UsageError: as `sources_of`.
    """
    return (*sources_of(name, what), *paths_in(options))


def paths_in(value: Any) -> Iterator[Path]:
    """Every option, at any depth, that names an existing file or folder."""
    if isinstance(value, str):
        # A variable that is unset is left as it is: not every text is meant as a path.
        path = Path(os.path.expandvars(value)).expanduser()
        try:
            # A folder that holds the current one changes with every run: "/" or "." is no input.
            if value and path.exists() and not Path.cwd().is_relative_to(path.resolve()):
                yield path
        except (OSError, ValueError):  # too long, or with a null character: no path
            return
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield from paths_in(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from paths_in(item)


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
