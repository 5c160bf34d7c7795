import pytest
from filelock import FileLock
from installed import Installed, install


@pytest.fixture(scope="session")
def installed(tmp_path_factory, worker_id) -> Installed:
    """The wheel in an environment of its own, made once for all processes of pytest."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "installed"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            install(folder)
            (folder / "done").touch()
    return Installed(folder / "venv/bin/python", folder / "commands")
