"""NNCF's extension: a build that was killed must not block every later run."""

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
