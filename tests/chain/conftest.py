"""Fixtures of whole runs; what they are made of stands in tests/runs.py."""

import pytest
from runs import TINY, Commands


@pytest.fixture
def edgekd(tmp_path) -> Commands:
    return Commands(tmp_path, tmp_path / "store")


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Commands:
    """One undisturbed tiny run, shared by all tests that only look at it."""
    folder = tmp_path_factory.mktemp("finished")
    commands = Commands(folder, folder / "store")
    done = commands("run", commands.write(TINY))
    assert done.returncode in (0, 1, 3), done.stderr + done.stdout
    return commands
