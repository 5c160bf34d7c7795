"""`kill -9` at any moment: nothing half-written is taken for whole, and the end is the same."""

import json
import os
import signal
import time

import pytest
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
    "after the first epoch of distillation": lambda s: any(s.glob(".partial/distill-*/history.json")),
    "while an artifact is written": lambda s: any(s.glob(".tmp/export-*")),
    "while latency is measured": lambda s: any(s.glob(".tmp/measure-*")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_and_ends_like_an_undisturbed_one(moment, edgekd, finished):
    recipe = edgekd.write(TINY)
    process = edgekd.start("run", recipe)
    try:
        wait_for(lambda: MOMENTS[moment](edgekd.store), process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    whole = {p.parent.name: p.stat().st_ino for p in edgekd.store.glob("*/result.json")}
    assert whole, "nothing was finished before the kill"
    again = edgekd("run", recipe)
    assert again.returncode in (0, 1, 3), again.stderr
    assert outcome(edgekd.report()) == outcome(finished.report())
    after = {p.parent.name: p.stat().st_ino for p in edgekd.store.glob("*/result.json")}
    assert {name: after[name] for name in whole} == whole, "a finished stage was run again"
    printed = again.stdout.splitlines()
    for folder in whole:
        key = json.loads((edgekd.store / folder / "result.json").read_text())
        assert key["stage"] not in printed or key["stage"] in ("export", "evaluate", "measure")
    assert not list(edgekd.store.glob(".tmp/*-" + str(os.getpid())))


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
