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
            folder.mkdir()
            done = commands("run", commands.write(TINY))
            assert done.returncode in (0, 1, 3), done.stderr + done.stdout
            (folder / "done").touch()
    return commands
