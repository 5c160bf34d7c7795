"""NNCF's extension: a build that was killed must not block every later run."""

from pathlib import Path

import pytest

from edgekd.errors import UsageError
from edgekd.quantize import qat


def test_a_lock_file_that_a_killed_build_left_is_taken_away():
    qat.ready_kernels()
    from nncf.torch.quantization.extensions import QuantizedFunctionsCPULoader

    stale = Path(QuantizedFunctionsCPULoader.get_build_dir()) / "lock"
    stale.touch()
    try:
        qat.ready_kernels.cache_clear()
        qat.ready_kernels()  # waits for ever where the file is taken for a living build's
        assert not stale.exists()
    finally:
        stale.unlink(missing_ok=True)


def test_without_a_compiler_nothing_slower_is_taken_in_its_place(monkeypatch):
    from nncf.torch.quantization import extensions, reference

    monkeypatch.setattr(
        extensions.QuantizedFunctionsCPULoader,
        "load",
        classmethod(lambda _: reference.ReferenceQuantizedFunctions),
    )
    with pytest.raises(UsageError, match=r"could not be compiled.*apt-get install g\+\+"):
        qat.ready_kernels.__wrapped__()
