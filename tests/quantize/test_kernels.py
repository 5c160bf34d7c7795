"""NNCF's extension: a build that was killed must not block every later run."""

import sysconfig
from pathlib import Path

import pytest

from edgekd.errors import UsageError
from edgekd.quantize import qat


@pytest.fixture
def loader(monkeypatch, tmp_path):
    """NNCF's loader, building in a folder of the test's own."""
    from nncf.torch.quantization.extensions import QuantizedFunctionsCPULoader

    build = tmp_path / "build"
    build.mkdir()
    monkeypatch.setattr(QuantizedFunctionsCPULoader, "get_build_dir", classmethod(lambda _: str(build)))
    return QuantizedFunctionsCPULoader


def test_a_lock_file_that_a_killed_build_left_is_taken_away(loader, monkeypatch, tmp_path):
    stale = tmp_path / "build" / "lock"
    stale.touch()
    seen = []
    monkeypatch.setattr(loader, "load", classmethod(lambda _: seen.append(stale.exists())))
    qat.ready_kernels.__wrapped__()
    assert seen == [False]  # PyTorch waits for ever where the file is there


def test_without_a_compiler_nothing_slower_is_taken_in_its_place(loader, monkeypatch):
    from nncf.torch.quantization.reference import ReferenceQuantizedFunctions

    monkeypatch.setattr(loader, "load", classmethod(lambda _: ReferenceQuantizedFunctions))
    with pytest.raises(UsageError, match=r"could not be compiled.*apt-get install g\+\+"):
        qat.ready_kernels.__wrapped__()


def test_the_real_extension_is_loaded():
    qat.ready_kernels()
    from nncf.torch.quantization.quantize_functions import QuantizedFunctionsCPU

    assert "Reference" not in str(QuantizedFunctionsCPU)


def test_ninja_is_found_where_no_environment_is_activated(monkeypatch, tmp_path):
    """PyTorch calls `ninja` by name, and pip puts it beside Python, which need not be on PATH."""
    import subprocess
    import sys

    for program in Path("/usr/bin").iterdir():
        if not program.name.startswith("ninja"):
            (tmp_path / program.name).symlink_to(program)
    code = """
import shutil
assert shutil.which("ninja") is None
from edgekd.quantize import qat
qat.ready_kernels()
print(shutil.which("ninja"))
"""
    monkeypatch.setenv("PATH", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip().splitlines()[-1]).parent == Path(sysconfig.get_path("scripts"))
