"""Fixtures of whole runs; what they are made of stands in tests/runs.py."""

import pytest
from filelock import FileLock
from runs import TINY, Commands


@pytest.fixture
def edgekd(tmp_path) -> Commands:
    return Commands(tmp_path, tmp_path / "store")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id) -> Commands:
    """One undisturbed tiny run, shared by all tests that only look at it, in all processes of pytest."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "finished"
    with FileLock(f"{folder}.lock"):
        commands = Commands(folder, folder / "store")
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            done = commands("run", commands.write(TINY))
            assert done.returncode == 3, done.stderr + done.stdout  # see test_run: one process is too few
            (folder / "done").write_text(done.stdout)
    return commands
