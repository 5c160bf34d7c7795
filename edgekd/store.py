"""Content-addressed stage results: written whole or not at all, verified when read.

An entry is a folder `<stage>-<key>` with the stage's files and `result.json`, which
lists the sha256 of each. It is made under a temporary name, synced, and renamed, so a
killed run leaves either a whole entry or none. The key is a hash of all that the stage
depends on, so whatever is found may be used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from edgekd.errors import StoreError, UsageError

RESULT = "result.json"


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def deflated_size(path: Path) -> int:
    """Bytes of a file's content as zlib packs it (RFC 1950, level 9), as for a download."""
    packer, size = zlib.compressobj(9), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size += len(packer.compress(block))
    return size + len(packer.flush())


def sha256_tree(path: Path) -> str:
    """`sha256_file` of a file; of a folder, a hash over the names and contents of all files below it."""
    if not path.is_dir():
        return sha256_file(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return hash_of([[p.relative_to(path).as_posix(), sha256_file(p)] for p in files])


def reserved_memmap(path: Path, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """A new .npy file mapped into memory, its space taken now: a full disk is an error here, SIGBUS later."""
    array = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)


def hash_of(value: Any) -> str:
    """Hex sha256 of a JSON-able value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: temporary name, sync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with no_space_is_clear(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def no_space_is_clear(where: Path) -> Iterator[None]:
    """Turns a full disk or a read-only folder into a StoreError that names the place."""
    try:
        yield
    except Exception as error:  # safetensors has an error of its own, numpy an OSError without a number
        number = error.errno if isinstance(error, OSError) else None
        told = "No space left on device" in str(error) or "requested and" in str(error)
        if number in (errno.ENOSPC, errno.EDQUOT) or (number is None and told):
            raise StoreError(
                f"{where}: no space left", hint="free some, or `edgekd store gc --max-size 1GB`"
            ) from error
        if number in (errno.EACCES, errno.EROFS):
            raise StoreError(f"{where}: cannot be written: {os.strerror(number)}") from error
        raise


def parse_size(text: str) -> int:
    """`5GB`, `500 MB`, `0` as bytes; a UsageError for anything else."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(B|KB|MB|GB|TB)?\s*", text, re.IGNORECASE)
    if not found:
        raise UsageError(f"size {text!r}: not a number with B, KB, MB, GB or TB")
    power = ("B", "KB", "MB", "GB", "TB").index((found[2] or "B").upper())
    return int(Decimal(found[1]) * 1000**power)  # a float would turn 1.001KB into 1000 bytes


@dataclass(frozen=True)
class Entry:
    """A finished stage: its folder and what the stage returned."""

    folder: Path
    result: Mapping[str, Any]
    files: Mapping[str, str]
    seconds: float

    def file(self, name: str) -> Path:
        """Path of one of the entry's files, its checksum verified."""
        path = self.folder / name
        if name not in self.files or not path.is_file() or sha256_file(path) != self.files[name]:
            raise StoreError(
                f"{path}: damaged or missing", hint=f"delete {self.folder} and run the same command again"
            )
        return path

    def copy_to(self, folder: Path) -> None:
        """Puts the entry's files into a folder that another is made in, their checksums verified."""
        for name in self.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.file(name), folder / name)


class Store:
    """The folder of finished stages, shared by all runs of a user."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            with no_space_is_clear(root):
                root.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
            raise StoreError(
                f"{root}: the store cannot be made: {error.strerror}",
                hint="let EDGEKD_STORE name a folder that can be written",
            ) from error

    @staticmethod
    def default_root() -> Path:
        """`$EDGEKD_STORE`, else the user's cache folder."""
        named = os.environ.get("EDGEKD_STORE")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return Path(named) if named else cache / "edgekd" / "store"

    def folder(self, stage: str, key: str) -> Path:
        """Where an entry lies, or would."""
        return self.root / f"{stage}-{key[:24]}"

    def get(self, stage: str, key: str) -> Entry | None:
        """The finished entry, or None; a StoreError where its record cannot be read."""
        folder = self.folder(stage, key)
        path = folder / RESULT
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text())
            if record["key"] != key:
                raise ValueError("key differs")
            entry = Entry(folder, record["result"], record["files"], record["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path}: damaged: {error}", hint=f"delete {folder} and run the same command again"
            ) from error
        os.utime(path)  # last use, for gc
        return entry

    def partial(self, stage: str, key: str) -> Path:
        """A folder for a stage's checkpoints, kept over a kill and removed when the stage ends."""
        folder = self.root / ".partial" / f"{stage}-{key[:24]}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def put(
        self,
        stage: str,
        key: str,
        make: Callable[[Path], Mapping[str, Any]],
        on_wait: Callable[[], None] = lambda: None,
    ) -> Entry:
        """Runs `make(folder)`, which writes files there and returns its result, and keeps both.

        Two runs that want the same entry do not make it twice, nor write into each other's
        checkpoints: one makes it, the other calls `on_wait` and takes what the first has made.
        """
        path = self.root / ".making" / f"{stage}-{key[:24]}.lock"
        path.parent.mkdir(exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
        try:
            return self.get(stage, key) or self._make(stage, key, make)
        finally:
            lock.release()

    def _make(self, stage: str, key: str, make: Callable[[Path], Mapping[str, Any]]) -> Entry:
        temporary = self.root / ".tmp" / f"{stage}-{key[:24]}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        started = time.monotonic()
        try:
            with no_space_is_clear(self.root):
                temporary.mkdir(parents=True)
                result = make(temporary)
                seconds = round(time.monotonic() - started, 3)
                files = {
                    str(path.relative_to(temporary)): sha256_file(path)
                    for path in sorted(temporary.rglob("*"))
                    if path.is_file()
                }
                record = {
                    "stage": stage,
                    "key": key,
                    "seconds": seconds,
                    "files": files,
                    "result": result,
                }
                for name in files:
                    _sync(temporary / name)
                write_atomic(
                    temporary / RESULT, json.dumps(record, indent=1, sort_keys=True, allow_nan=False)
                )
                final = self.folder(stage, key)
                shutil.rmtree(final, ignore_errors=True)  # of a gc that was killed
                temporary.rename(final)
                _sync(self.root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(self.root / ".partial" / f"{stage}-{key[:24]}", ignore_errors=True)
        entry = self.get(stage, key)
        assert entry is not None
        return entry

    def hash_file(self, path: Path) -> str:
        """sha256 of a source file, or of all names and contents below a folder.

        It is remembered by path, size and times of change. The time of the last change of
        status tells what the other one hides: `cp -p` and `rsync` put the old time back.
        """
        # What is neither file nor folder is taken for a file, which then cannot be read: an error.
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        stats = [(str(p.relative_to(path)), p.stat()) for p in files]
        identity = hash_of(
            [str(path.resolve()), [[n, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for n, s in stats]]
        )
        memo = self.root / ".hashes" / identity
        if memo.is_file() and len(known := memo.read_text()) == 64:
            return known
        digest = sha256_tree(path)
        write_atomic(memo, digest)
        return digest

    def entries(self) -> list[tuple[Path, int, float]]:
        """(folder, bytes, last use as seconds since the epoch) of each entry, oldest use first."""
        found = []
        for result in self.root.glob(f"*/{RESULT}"):
            size = sum(p.stat().st_size for p in result.parent.rglob("*") if p.is_file())
            found.append((result.parent, size, result.stat().st_mtime))
        return sorted(found, key=lambda item: item[2])

    def gc(self, max_bytes: int) -> tuple[int, int]:
        """Removes the entries used least recently until the rest fits; (entries, bytes) removed.

        Raises:
            StoreError: a run is using the store.
        """
        with self._door():
            if busy := self.running():
                raise StoreError(
                    f"{self.root}: in use by process {', '.join(busy)}", hint="wait for it to end"
                )
            shutil.rmtree(self.root / ".tmp", ignore_errors=True)  # of runs that were killed
            # Checkpoints of runs that were killed count too: what was used longest ago goes first.
            entries = sorted([*self.entries(), *self._checkpoints()], key=lambda item: item[2])
            total, removed, freed = sum(e[1] for e in entries), 0, 0
            for folder, size, _ in entries:
                if total - freed <= max_bytes:
                    break
                # First, so that a kill leaves no entry that looks whole.
                (folder / RESULT).unlink(missing_ok=True)
                shutil.rmtree(folder)
                removed, freed = removed + 1, freed + size
            return removed, freed

    def _checkpoints(self) -> list[tuple[Path, int, float]]:
        """As `entries`, of stages that were begun and not finished."""
        found = []
        for folder in (self.root / ".partial").glob("*"):
            files = [p.stat() for p in folder.rglob("*") if p.is_file()]
            used = max((s.st_mtime for s in files), default=folder.stat().st_mtime)
            found.append((folder, sum(s.st_size for s in files), used))
        return found

    def _door(self) -> FileLock:
        """Held while a run enters and while gc works, so that no run enters a store that is being cleared."""
        return FileLock(self.root / ".door.lock")

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps gc out while a run lasts: each run holds a lock of its own."""
        folder = self.root / ".runs"
        folder.mkdir(exist_ok=True)
        path = folder / f"{os.getpid()}.lock"
        lock = FileLock(path)
        with self._door():
            lock.acquire()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            lock.release()

    def running(self) -> list[str]:
        """Process ids of the runs that use this store now."""
        busy = []
        for path in sorted((self.root / ".runs").glob("*.lock")):
            try:
                with FileLock(path, timeout=0):
                    path.unlink(missing_ok=True)  # held, so that no run takes a lock that loses its name
            except Timeout:
                busy.append(path.stem)
        return busy


@contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Holds a workdir for one run; a StoreError where another run has it."""
    if workdir.exists() and not workdir.is_dir():
        raise UsageError(f"workdir {workdir}: a file, not a folder", hint="give --workdir")
    lock = FileLock(workdir / ".lock", timeout=0)
    with no_space_is_clear(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise StoreError(
                f"{workdir}: in use by another run", hint="wait for it, or give --workdir"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
