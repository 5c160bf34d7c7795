"""`kill -9` at any moment: nothing half-written is taken for whole, and the end is the same."""

import os
import shutil
import signal
import time

from runs import TINY, outcome


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        assert process.poll() is None, "the run ended before the moment of the kill came"
        time.sleep(0.005)
    raise AssertionError("the moment of the kill never came")


# In the middle of training, of exporting, of measuring: a checkpoint, a temporary folder, an entry.
MOMENTS = {
    "after the first epoch of distillation": ".partial/distill-*/state.json",
    "while an artifact is written": ".tmp/export-*/*",
    "while latency is measured": ".tmp/measure-*",
}


def whole(store):
    """Folder -> inode of the record of every finished stage: made again, it would be another one."""
    return {p.parent.name: p.stat().st_ino for p in store.glob("*/result.json")}


def test_a_run_killed_three_times_goes_on_and_ends_like_an_undisturbed_one(edgekd, finished):
    """The end is compared byte for byte with a run in another store, so this shows determinism too."""
    recipe = edgekd.write(TINY)
    kept = []
    for sign in MOMENTS.values():
        process = edgekd.start("run", recipe)
        try:
            wait_for(lambda sign=sign: any(edgekd.store.glob(sign)), process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        kept.append(whole(edgekd.store))
        assert not (edgekd.folder / "runs/tiny-smoke/report.json").exists()
        for leftover in edgekd.store.glob(".tmp/*"):  # so that the next moment is not this one again
            shutil.rmtree(leftover)
    again = edgekd("run", recipe)
    assert again.returncode == 3, again.stderr
    assert outcome(edgekd.report()) == outcome(finished.report())
    assert 0 < len(kept[0]) < len(kept[1]) < len(kept[2])
    after = whole(edgekd.store)
    for before in kept:
        assert {name: after[name] for name in before} == before, "a finished stage was run again"


def test_two_runs_in_one_workdir_refuse_each_other(edgekd):
    recipe = edgekd.write(TINY)
    process = edgekd.start("run", recipe)
    try:
        wait_for(lambda: any(edgekd.store.glob(".tmp/*")), process)
        second = edgekd("run", recipe)
        busy = edgekd("store", "gc", "--max-size", "0")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert second.returncode == 2 and "in use by another run" in second.stderr
    assert busy.returncode == 2 and str(process.pid) in busy.stderr


def test_a_cache_with_a_flipped_bit_is_named(finished, tmp_path):
    """What the teacher has said is verified each time that a stage reads it."""
    copied = finished.copy(tmp_path)
    (path,) = copied.store.glob("outputs-*/logits.npy")
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    done = copied("run", copied.write(TINY.replace("keep = 0.7", "keep = 0.6")), "--until", "prune")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert "logits.npy: damaged or missing (delete " in lines[0]
