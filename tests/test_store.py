import hashlib
import json
import os
import subprocess
import sys
import time
from decimal import Decimal

import numpy as np
import pytest
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st
from nets import python, run_python

from edgekd import store as store_module
from edgekd.errors import StoreError, UsageError
from edgekd.store import (
    Store,
    canonical,
    hash_of,
    lock_workdir,
    parse_size,
    sha256_file,
    sha256_tree,
    write_atomic,
)

KEY, OTHER = "a" * 64, "b" * 64


def makes(**files):
    """A stage that writes the given files and returns how many."""

    def make(folder):
        for name, content in files.items():
            (folder / f"{name}.bin").write_bytes(content)
        return {"files": len(files)}

    return make


def names(folder):
    """Every file below a folder, lock files apart."""
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"
    )


def wait_for(path):
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


def test_what_is_put_is_got(tmp_path):
    store = Store(tmp_path)
    assert store.get("prune", KEY) is None
    put = store.put("prune", KEY, makes(one=b"1234", two=b""))
    got = Store(tmp_path).get("prune", KEY)
    assert got == put
    assert got.result == {"files": 2}
    assert got.files == {
        "one.bin": hashlib.sha256(b"1234").hexdigest(),
        "two.bin": hashlib.sha256(b"").hexdigest(),
    }
    assert got.file("one.bin").read_bytes() == b"1234"
    assert store.get("prune", OTHER) is None
    assert store.get("distill", KEY) is None


def test_files_in_folders_are_listed_too(tmp_path):
    def make(folder):
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("x")
        return {}

    assert Store(tmp_path).put("s", KEY, make).file("deep/file").read_text() == "x"


def test_the_first_of_two_results_stays(tmp_path):
    store = Store(tmp_path)
    store.put("s", KEY, makes(one=b"first"))
    again = store.put("s", KEY, makes(one=b"second"))
    assert again.file("one.bin").read_bytes() == b"first"


def test_a_stage_that_raises_leaves_nothing(tmp_path):
    store = Store(tmp_path)

    def make(folder):
        (folder / "half").write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.put("s", KEY, make)
    assert names(tmp_path) == []
    assert store.get("s", KEY) is None
    assert store.put("s", KEY, makes(one=b"1")).files.keys() == {"one.bin"}


def test_a_result_that_json_cannot_hold_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        Store(tmp_path).put("s", KEY, lambda folder: {"loss": float("nan")})
    assert names(tmp_path) == []


KILLED = """
import sys, time
from pathlib import Path
from edgekd import store
root, when = Path(sys.argv[1]), sys.argv[2]
def hang(*_):
    (root / "there").touch()
    time.sleep(600)
def make(folder):
    (folder / "one.bin").write_bytes(b"1" * 100_000)
    if when == "making":
        hang()
    return {}
if when == "syncing":
    store._sync = hang
if when == "before the rename":
    store.Path.rename = hang
store.Store(root).put("s", "a" * 64, make)
"""


@pytest.mark.parametrize("when", ["making", "syncing", "before the rename"])
def test_a_killed_process_leaves_no_entry(tmp_path, when):
    process = python(KILLED, tmp_path, when)
    wait_for(tmp_path / "there")
    process.kill()
    process.communicate()
    store = Store(tmp_path)
    assert store.get("s", KEY) is None
    assert store.entries() == []
    # what it had begun goes with the next clean-up
    assert names(tmp_path / ".tmp") != []
    assert store.gc(0) == (0, 0)
    assert names(tmp_path / ".tmp") == []
    # and the next run makes it
    assert store.put("s", KEY, makes(one=b"2")).file("one.bin").read_bytes() == b"2"


def test_checkpoints_stay_over_a_kill_and_go_when_the_stage_is_done(tmp_path):
    store = Store(tmp_path)
    (store.partial("s", KEY) / "epoch-1").write_text("weights")

    def dies(folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put("s", KEY, dies)
    assert (Store(tmp_path).partial("s", KEY) / "epoch-1").read_text() == "weights"
    store.put("s", KEY, makes())
    assert list(store.partial("s", KEY).iterdir()) == []


def test_a_changed_byte_is_found_and_named(tmp_path):
    entry = Store(tmp_path).put("s", KEY, makes(one=b"1234", two=b"5678"))
    path = entry.folder / "one.bin"
    path.write_bytes(b"1235")
    got = Store(tmp_path).get("s", KEY)
    assert got.file("two.bin").read_bytes() == b"5678"
    with pytest.raises(StoreError, match=r"one\.bin: damaged or missing \(delete .*s-aaaa.* and run"):
        got.file("one.bin")
    path.unlink()
    with pytest.raises(StoreError, match=r"one\.bin"):
        got.file("one.bin")


def test_a_file_that_the_stage_did_not_write_is_not_given(tmp_path):
    entry = Store(tmp_path).put("s", KEY, makes(one=b"1"))
    (entry.folder / "added").write_text("x")
    with pytest.raises(StoreError, match="added"):
        entry.file("added")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", json.dumps({"key": OTHER, "result": {}})])
def test_a_damaged_record_is_an_error_that_says_what_to_delete(tmp_path, content):
    entry = Store(tmp_path).put("s", KEY, makes())
    (entry.folder / "result.json").write_text(content)
    with pytest.raises(StoreError, match=r"result\.json: damaged: .*\(delete .*s-aaaa"):
        Store(tmp_path).get("s", KEY)


def test_keys_that_begin_alike_are_told_apart(tmp_path):
    store = Store(tmp_path)
    store.put("s", KEY, makes())
    with pytest.raises(StoreError, match="key differs"):
        store.get("s", KEY[:24] + "b" * 40)


def used(store, stage, seconds_ago, size):
    entry = store.put(stage, KEY, makes(one=b"x" * size))
    then = time.time() - seconds_ago
    os.utime(entry.folder / "result.json", (then, then))
    return sum(p.stat().st_size for p in entry.folder.iterdir())


def test_gc_removes_what_was_used_longest_ago(tmp_path):
    store = Store(tmp_path)
    sizes = {
        stage: used(store, stage, ago, 5000) for stage, ago in [("a", 30), ("b", 40), ("c", 20), ("d", 10)]
    }
    assert [(p.name[0], size) for p, size, _ in store.entries()] == [(s, sizes[s]) for s in "bacd"]
    store.get("b", KEY)  # used now
    assert [p.name[0] for p, _, _ in store.entries()] == ["a", "c", "d", "b"]
    assert store.gc(sum(sizes.values())) == (0, 0)
    assert store.gc(sum(sizes.values()) - 1) == (1, sizes["a"])
    assert store.gc(sizes["d"] + sizes["b"]) == (1, sizes["c"])
    assert store.get("a", KEY) is None
    assert store.get("b", KEY).file("one.bin").stat().st_size == 5000
    assert store.gc(0) == (2, sizes["d"] + sizes["b"])
    assert store.entries() == []


IN_USE = """
import sys, time
from pathlib import Path
from edgekd.store import Store
with Store(Path(sys.argv[1])).in_use():
    Path(sys.argv[2]).touch()
    time.sleep(600)
"""


def test_gc_waits_for_a_run_in_another_process(tmp_path):
    store = Store(tmp_path / "store")
    used(store, "a", 10, 100)
    process = python(IN_USE, tmp_path / "store", tmp_path / "there")
    wait_for(tmp_path / "there")
    try:
        assert store.running() == [str(process.pid)]
        with pytest.raises(StoreError, match=rf"in use by process {process.pid} \(wait for it to end\)"):
            store.gc(0)
        assert store.get("a", KEY) is not None
    finally:
        process.kill()
        process.communicate()
    assert store.running() == []  # killed, so its lock file is still there, but nobody holds it
    assert store.gc(0)[0] == 1


def test_two_runs_at_once_both_keep_gc_out(tmp_path):
    store = Store(tmp_path)
    with store.in_use():
        assert store.running() == [str(os.getpid())]
    assert store.running() == []
    assert list((tmp_path / ".runs").glob("*.lock")) == []


def test_a_run_that_fails_does_not_keep_gc_out(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError), store.in_use():
        raise ZeroDivisionError
    assert list((tmp_path / ".runs").glob("*.lock")) == []
    assert store.gc(0) == (0, 0)


def test_a_lock_file_is_removed_only_while_its_lock_is_held(tmp_path, monkeypatch):
    # Else a run that takes the lock just before the removal holds a lock that has no name any more.
    store, held = Store(tmp_path), []
    unlink = store_module.Path.unlink

    def watched(path, missing_ok=False):
        if path.suffix == ".lock":
            try:
                with FileLock(path, timeout=0):
                    held.append(False)
            except Timeout:
                held.append(True)
        unlink(path, missing_ok)

    monkeypatch.setattr(store_module.Path, "unlink", watched)
    with store.in_use():
        pass
    (tmp_path / ".runs" / "1.lock").touch()
    assert store.running() == []
    assert held == [True, True]


LOCKED = """
import sys, time
from pathlib import Path
from edgekd.store import lock_workdir
with lock_workdir(Path(sys.argv[1])):
    (Path(sys.argv[1]) / "there").touch()
    time.sleep(600)
"""


def test_a_workdir_belongs_to_one_process(tmp_path):
    workdir = tmp_path / "runs" / "digits"
    process = python(LOCKED, workdir)
    wait_for(workdir / "there")
    try:
        with pytest.raises(
            StoreError, match=r"digits: in use by another run \(wait for it, or give --workdir\)"
        ):
            with lock_workdir(workdir):
                raise AssertionError("two runs in one workdir")
    finally:
        process.kill()
        process.communicate()
    with lock_workdir(workdir):  # the killed run's lock went with it
        pass


def test_a_full_disk_is_said_and_leaves_nothing(small_disk):
    store = Store(small_disk / "store")
    with pytest.raises(StoreError, match=r"store: no space left \(free some, or `edgekd store gc --max-size"):
        store.put("s", KEY, makes(one=b"x" * 2_000_000))
    with pytest.raises(StoreError, match=r"report\.json: no space left"):
        write_atomic(small_disk / "report.json", "x" * 2_000_000)
    assert names(small_disk) == []
    assert store.put("s", KEY, makes(one=b"x" * 500_000)).file("one.bin").stat().st_size == 500_000


def saves_arrays(folder):
    np.save(folder / "scores.npy", np.zeros(500_000))
    return {}


def saves_weights(folder):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(500_000)}, folder / "model.safetensors")
    return {}


@pytest.mark.parametrize("make", [saves_arrays, saves_weights])
def test_a_full_disk_is_said_by_whatever_library_met_it(small_disk, make):
    store = Store(small_disk / "store")
    with pytest.raises(StoreError, match=r"store: no space left"):
        store.put("s", KEY, make)
    assert names(small_disk) == []


def test_other_errors_of_a_stage_pass_as_they_are(tmp_path):
    def make(folder):
        (folder / "absent").read_text()

    with pytest.raises(FileNotFoundError):
        Store(tmp_path).put("s", KEY, make)


def test_a_folder_that_cannot_be_written_is_said(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match=r"store: cannot be written: Read-only file system"):
        Store(small_disk / "store")
    with pytest.raises(StoreError, match=r"x/report\.json: cannot be written: Read-only"):
        write_atomic(small_disk / "x" / "report.json", "{}")


def test_write_atomic_writes_whole_files_and_replaces_them(tmp_path):
    path = tmp_path / "new" / "report.json"
    write_atomic(path, "über")
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert names(tmp_path) == ["new/report.json"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("0", 0), ("17", 17), ("17B", 17), ("5GB", 5_000_000_000), ("500 MB", 500_000_000)),
        *((" 1.5kb ", 1500), ("0.25TB", 250_000_000_000), ("1.001 KB", 1001), ("4.35MB", 4_350_000)),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1e9", "5 GiB", "1,5GB", "1.GB", "5GBs", "nan"])
def test_what_is_no_size_is_said(text):
    with pytest.raises(UsageError, match="not a number with B, KB, MB, GB or TB"):
        parse_size(text)


@given(st.decimals(0, 10_000, places=3), st.sampled_from(["KB", "MB", "GB", "TB"]))
def test_sizes_are_exact_in_decimal(number, unit):
    power = ["", "KB", "MB", "GB", "TB"].index(unit)
    assert parse_size(f"{number}{unit}") == number * Decimal(1000) ** power


def test_hash_file_notices_every_change(tmp_path):
    store, path = Store(tmp_path / "store"), tmp_path / "data.bin"
    path.write_bytes(b"first")
    stat = path.stat()
    assert store.hash_file(path) == hashlib.sha256(b"first").hexdigest()
    path.write_bytes(b"longer than that")
    assert store.hash_file(path) == hashlib.sha256(b"longer than that").hexdigest()
    # As long as before, and with the old time put back, as `cp -p` and `rsync` do.
    time.sleep(0.02)
    path.write_bytes(b"other")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.hash_file(path) == hashlib.sha256(b"other").hexdigest()


def test_what_is_not_there_has_no_hash(tmp_path):
    for hash_of_path in (Store(tmp_path / "store").hash_file, sha256_tree):
        with pytest.raises(FileNotFoundError):
            hash_of_path(tmp_path / "absent")


def test_hash_of_a_folder_notices_every_change(tmp_path):
    store, folder = Store(tmp_path / "store"), tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a").write_text("1")
    seen = [store.hash_file(folder)]
    assert store.hash_file(folder) == seen[0] == Store(tmp_path / "other").hash_file(folder)
    for change in (
        lambda: (folder / "deep" / "a").write_text("2"),
        lambda: (folder / "b").write_text("2"),
        lambda: (folder / "b").rename(folder / "c"),
        lambda: (folder / "deep" / "a").unlink(),
    ):
        change()
        seen.append(store.hash_file(folder))
    assert len(set(seen)) == len(seen)


def test_hash_file_reads_an_unchanged_file_once(tmp_path, monkeypatch):
    store, path = Store(tmp_path / "store"), tmp_path / "data.bin"
    path.write_bytes(b"data")
    first = store.hash_file(path)
    monkeypatch.setattr(store_module, "sha256_file", None)
    assert Store(tmp_path / "store").hash_file(path) == first


def test_sha256_file_is_that_of_the_tool(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(range(256)) * 5000)
    told = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout
    assert sha256_file(path) == told.split()[0]


def test_canonical_by_hand():
    assert canonical({"b": (1, 2.5), "a": None, "é": True}) == '{"a":null,"b":[1,2.5],"\\u00e9":true}'
    assert hash_of([1]) == hashlib.sha256(b"[1]").hexdigest()


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=6))
def test_hashes_do_not_depend_on_the_order_of_keys(value):
    assert hash_of(value) == hash_of(dict(reversed(value.items())))


def test_the_store_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "s"))
    assert Store.default_root() == tmp_path / "s"
    monkeypatch.delenv("EDGEKD_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert Store.default_root() == tmp_path / "c" / "edgekd" / "store"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "h"))
    assert Store.default_root() == tmp_path / "h" / ".cache" / "edgekd" / "store"


def test_the_store_needs_no_torch():
    assert (
        run_python("import sys, edgekd.store, edgekd.plan; print('torch' in sys.modules)").strip() == "False"
    )


TWICE = """
import sys, time
from pathlib import Path
from edgekd.store import Store
store = Store(Path(sys.argv[1]))
def make(folder):
    (store.root / "made").open("a").write("x")
    end = time.monotonic() + 60
    while not (store.root / "waits").exists() and time.monotonic() < end:
        time.sleep(0.01)  # until the other one has come, however late it was started
    return {"by": sys.argv[2]}
waited = []
def wait():
    waited.append(1)
    (store.root / "waits").touch()
entry = store.put("s", "a" * 64, make, on_wait=wait)
print(entry.result["by"], len(waited))
"""


def test_two_processes_that_want_the_same_entry_make_it_once(tmp_path):
    both = [
        subprocess.Popen([sys.executable, "-c", TWICE, tmp_path, name], stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    said = [process.communicate(timeout=120)[0].split() for process in both]
    assert (tmp_path / "made").read_text() == "x"
    assert said[0][0] == said[1][0]
    assert sorted(waited for _, waited in said) == ["0", "1"]


def test_gc_takes_checkpoints_of_killed_runs_too(tmp_path):
    store = Store(tmp_path)
    (store.partial("s", KEY) / "epoch-1").write_bytes(b"x" * 1000)
    assert store.gc(1000) == (0, 0)
    assert store.gc(999) == (1, 1000)
    assert not list((tmp_path / ".partial").iterdir())
