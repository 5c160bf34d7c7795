"""Files and functions of the user's, by what they hold: another byte makes another stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd import tasks
from edgekd.errors import UsageError
from edgekd.onnx_parts import external_files
from edgekd.store import Store
from edgekd.user_code import reads


def source_of(key: str, value: str, store: Store) -> dict[str, Any]:
    """Where a file or folder lies that a recipe names under `key`, and what it holds, as a node's config.

    Raises:
        UsageError: it, or a file of weights beside an ONNX file, is not there, or could change unseen.
    """
    path = tasks.expand_path(value, key)
    if not path.exists():
        raise UsageError(f"{key} = {value!r}: no such file")
    if links := [p for p in path.rglob("*") if p.is_symlink() and p.is_dir()]:
        raise UsageError(
            f"{key} = {value!r}: {links[0].name!r} in it is a link to a folder",
            hint="copy the folder: what it holds could change unseen",
        )
    found: dict[str, Any] = {"path": str(path), "sha256": store.hash_file(path)}
    if path.suffix == ".onnx" and path.is_file() and (beside := external_files(path)):
        if missing := [other for other in beside if not other.is_file()]:
            raise UsageError(f"{key} = {value!r}: its weights are not there: {missing[0]}")
        found["beside_sha256"] = [store.hash_file(other) for other in beside]
    return found


def hashes_of(name: str, what: str, options: Mapping[str, Any], store: Store) -> list[str]:
    """Checksums of all that a user's function depends on.

    Raises:
        UsageError: there is no such function, or a file cannot be read.
    """
    found = []
    for path in reads(name, what, options):
        try:
            found.append(store.hash_file(path))
        except OSError as error:
            raise UsageError(f"{what} kind {name!r}: {path} cannot be read: {error}") from None
    return found
