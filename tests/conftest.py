import os
from pathlib import Path

import pytest
from hypothesis import settings

# On a busy machine any example may take long; in CI the examples are the same each time.
settings.register_profile("edgekd", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("edgekd")


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory):
    """No test touches the user's own store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKD_STORE", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(scope="session")
def data_root():
    """The folder of public data and weights that EDGEKD_DATA names."""
    named = os.environ.get("EDGEKD_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("EDGEKD_DATA is not set to the folder of public data and weights")
    return Path(named)


@pytest.fixture(scope="session")
def tiny_task():
    from nets import task

    return task()
