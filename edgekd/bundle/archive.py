"""The zip of a bundle: one form only, so that every byte of it follows from what it holds.

Files lie in it as they are (nothing is packed, so nothing can expand), sorted by name, without dates, folders
or links. What is read is written anew in that form and compared: a byte that differs, in a header or
between two files too, is told.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from edgekd.bundle import MANIFEST
from edgekd.errors import EvidenceError, UsageError
from edgekd.store import no_space_is_clear

MOST_FILES = 20_000
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold
_MODE = (stat.S_IFREG | 0o644) << 16
_UNIX, _ENCRYPTED, _BLOCK = 3, 0x1, 1 << 20
_SEGMENT = r"[A-Za-z0-9_](?:[A-Za-z0-9._=+,@ -]*[A-Za-z0-9_=+@-])?"
_NAME = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")


def write(path: Path, files: Mapping[str, Path | bytes]) -> None:
    """Writes an archive whole or not at all; the same files give the same bytes.

    Args:
        path: of the archive; one that is there is replaced.
        files: name -> where it lies, or its content.

    Raises:
        StoreError: it cannot be written.
        UsageError: a name that archives cannot hold everywhere.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with no_space_is_clear(path):
            _write(temporary, files)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_bundle(path: Path) -> bool:
    """Whether a file looks like an archive of ours, whole or not."""
    try:
        with ZipFile(path) as found:
            return MANIFEST in found.namelist()
    except (BadZipFile, OSError):
        return False


def check_there(path: Path) -> None:
    """Tells an archive that is missing.

    Raises:
        UsageError: there is no such file.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file", hint="edgekd bundle WORKDIR -o release.zip makes one")


def read(path: Path, folder: Path) -> tuple[str, ...]:
    """Takes an archive apart into an empty folder; the names of its files.

    Raises:
        EvidenceError: it is no archive of this form: damaged, changed, or made to do harm.
        UsageError: there is no such file.
    """
    check_there(path)
    try:
        with ZipFile(path) as archive:
            entries = archive.infolist()
            _check(entries, path)
            for entry in entries:
                with archive.open(entry) as source:
                    _copy(source, folder / entry.filename)
    except (BadZipFile, NotImplementedError, OSError, EOFError, ValueError, RuntimeError) as error:
        raise EvidenceError(f"{path}: no sound archive: {error}") from None
    names = tuple(entry.filename for entry in entries)
    _check_form(path, {name: folder / name for name in names}, entries)
    return names


def _write(path: Path, files: Mapping[str, Path | bytes]) -> None:
    with ZipFile(path, "w") as archive:
        for name in sorted(files):
            if _NAME.fullmatch(name) is None:
                raise UsageError(f"{name!r} cannot be a name in a bundle", hint="letters, digits, . _ - /")
            entry, content = ZipInfo(name, _DATE), files[name]
            entry.external_attr, entry.create_system, entry.compress_type = _MODE, _UNIX, ZIP_STORED
            entry.file_size = len(content) if isinstance(content, bytes) else content.stat().st_size
            with archive.open(entry, "w") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, file, _BLOCK)


def _check(entries: list[ZipInfo], path: Path) -> None:
    """Refuses what could do harm before anything is written to disk."""
    if len(entries) > MOST_FILES:
        raise EvidenceError(f"{path}: {len(entries):,} entries, more than any bundle has")
    seen: set[str] = set()
    left = path.stat().st_size
    for entry in entries:
        name, mode = entry.orig_filename, entry.external_attr >> 16
        left -= entry.file_size
        wrong = ""
        if _NAME.fullmatch(name) is None or name != entry.filename:
            wrong = "a name that leads elsewhere or cannot be one everywhere"
        elif name.casefold() in seen:
            wrong = "stands there twice"
        elif stat.S_ISLNK(mode) or entry.external_attr != _MODE:
            wrong = "a link, a folder or no plain file"
        elif entry.flag_bits & _ENCRYPTED:
            wrong = "encrypted"
        elif entry.compress_type != ZIP_STORED or entry.file_size != entry.compress_size or left < 0:
            wrong = "packed, or larger than the archive: files of a bundle lie in it as they are"
        if wrong:
            raise EvidenceError(f"{path}: entry {name!r}: {wrong}", hint="take the archive as it was made")
        seen.add(name.casefold())


def _copy(source: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        shutil.copyfileobj(source, file, _BLOCK)  # zipfile checks the CRC as it reads


def _check_form(path: Path, files: Mapping[str, Path], entries: list[ZipInfo]) -> None:
    with TemporaryDirectory() as folder:
        again = Path(folder) / "again.zip"
        _write(again, files)
        at = _first_difference(path, again)
    if at is None:
        return
    before = [e.filename for e in entries if e.header_offset <= at]
    beside = f"beside {before[-1]!r}" if before else "before the first file"
    raise EvidenceError(f"{path}: byte {at:,}, {beside}, is not what a bundle has there")


def _first_difference(one: Path, other: Path) -> int | None:
    at = 0
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            blocks = first.read(_BLOCK), second.read(_BLOCK)
            if blocks[0] != blocks[1]:
                pairs = zip(*blocks, strict=False)
                return at + next((i for i, (a, b) in enumerate(pairs) if a != b), min(map(len, blocks)))
            if not blocks[0]:
                return None
            at += len(blocks[0])
