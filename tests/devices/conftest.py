"""An Arm board that a session of tests shares, and two ways to it."""

import os

import boards
import pytest

from edgekd.devices import ssh
from edgekd.devices.known import Device


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    if told := boards.obstacle():
        pytest.skip(f"no board here: {told}")
    return boards.copy(tmp_path_factory.mktemp("arm64"))


@pytest.fixture(scope="session")
def over_ssh(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ssh")
    with boards.sshd(root, folder) as (port, key, _):
        device = Device(
            via=f"ssh://root@127.0.0.1:{port}",
            identity=str(key),
            known_hosts=str(folder / "known"),
            **boards.PYTHON,
        )
        ssh.accept(device)
        yield device


@pytest.fixture(scope="session")
def over_adb(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adb")
    with boards.adbd(root, folder) as (port, bin_, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(bin_), prepend=os.pathsep)
        yield Device(via=f"adb://127.0.0.1:{port}", **boards.PYTHON)


@pytest.fixture(params=["ssh", "adb"])
def device(request):
    return request.getfixturevalue(f"over_{request.param}")
