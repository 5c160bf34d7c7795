"""Fake quantizers by NNCF, their ranges by our observers; then trained like any other network."""

from __future__ import annotations

import functools
import math
import os
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.config import CalibrationPolicy
from edgekd.errors import ExportError, UsageError
from edgekd.folding import for_integers
from edgekd.quantize import gaps
from edgekd.quantize.observers import BINS, choose_range
from edgekd.quantize.schemes import OutputQuantizer, QuantizedNet

BATCH = 32


@functools.cache
def ready_kernels() -> None:
    """NNCF's extension, compiled on first use: by one process at a time, however long it takes.

    PyTorch guards a build by a plain file; a process killed while it compiles leaves that
    file, and every later one would wait for ever. Ours is a lock that dies with its holder,
    so whoever holds it knows that the file is stale. The build runs the ninja that was
    installed beside this Python, also where the environment is not activated: another one
    writes the commands down differently, and PyTorch would compile anew at each change.
    """
    scripts = sysconfig.get_path("scripts")
    if os.environ.get("PATH", "").split(os.pathsep)[0] != scripts:
        os.environ["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])
    os.environ.setdefault("NNCF_CI", "1")  # switches its telemetry off; read at import
    os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "0")  # its 60 s are short for a busy machine
    from nncf.torch.quantization.extensions import QuantizedFunctionsCPULoader
    from nncf.torch.quantization.reference import ReferenceQuantizedFunctions

    build = Path(QuantizedFunctionsCPULoader.get_build_dir())
    with FileLock(build.with_name(f"{build.name}.edgekd.lock")):
        (build / "lock").unlink(missing_ok=True)
        functions = QuantizedFunctionsCPULoader.load()
    if functions is ReferenceQuantizedFunctions:  # NNCF's slow stand-in, which it takes with a warning only
        raise UsageError(
            "NNCF's extension could not be compiled, see the log of the run",
            hint="install a C++ compiler (apt-get install g++); ninja comes with pip install ninja",
        )


def prepare(module: nn.Module, samples: NDArray[np.float32], policy: CalibrationPolicy) -> QuantizedNet:
    """A calibrated copy with fake quantizers: ready to judge (PTQ) or to train on (QAT).

    Args:
        module: a float network with its BatchNorms; left as it is.
        samples: calibration inputs (N, *shape), preprocessed.
        policy: which observer chooses the ranges.

    Raises:
        ExportError: NNCF cannot quantize the network, or put no quantizer anywhere.
        UsageError: NNCF's extension cannot be compiled.
    """
    ready_kernels()
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    batches = [torch.from_numpy(samples[i : i + BATCH]) for i in range(0, len(samples), BATCH)]
    # Per-channel activation ranges, NNCF's choice for depthwise convolutions, run in no kernel.
    advanced = AdvancedQuantizationParameters(
        activations_quantization_params=QuantizationParameters(per_channel=False)
    )
    folded = _folded(module)
    try:
        body = nncf.quantize(
            folded,
            nncf.Dataset(batches),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(batches),
            advanced_parameters=advanced,
        )
    except Exception as error:  # NNCF raises whatever its tracing met
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"{type(module).__name__}: NNCF cannot quantize it: {reason}") from error
    net = QuantizedNet(body, OutputQuantizer())
    _set_ranges(net, gaps.fill(body, batches[0][:1]), batches, policy)
    return net.eval()


def fix_ranges(net: QuantizedNet) -> None:
    """Leaves the ranges of activations and weights as they are now: training moves the weights alone."""
    from nncf.torch.quantization.layers import BaseQuantizer

    for module in net.modules():
        if isinstance(module, BaseQuantizer):
            module.disable_gradients()


def _folded(module: nn.Module) -> nn.Module:
    return gaps.named(for_integers(module))


def _set_ranges(
    net: QuantizedNet, added: list[Any], batches: list[Tensor], policy: CalibrationPolicy
) -> None:
    quantizers: dict[str, Any] = dict(activation_quantizers(net.body))
    if not quantizers:
        raise ExportError(f"{type(net.body).__name__}: no layer takes a quantizer")
    for quantizer in added:
        quantizer.disable_quantization()  # without a range yet it would clip what comes after it
    found = _histograms(net, batches, quantizers)
    for quantizer in added:
        quantizer.enable_quantization()
    for name, (counts, low, high) in found.items():
        if (gate := gaps.gate_of(name)) is not None:
            _set_range(quantizers[name], *gate)
            quantizers[name].disable_gradients()
        else:
            _set_range(quantizers[name], *choose_range(counts, low, high, policy.observer, policy.percentile))
    # The logits keep the full range that they have now: a clipped logit changes who wins.
    _, low, high = _histograms(net, batches, {"output": net.output})["output"]
    net.output = OutputQuantizer(low, high)


def _histograms(
    net: QuantizedNet, batches: list[Tensor], watched: dict[str, nn.Module]
) -> dict[str, tuple[NDArray[np.int64], float, float]]:
    """Name -> histogram of what the module is fed, and its ends.

    Runs twice over the samples, since keeping what every layer is fed takes gigabytes.
    """
    ends = dict.fromkeys(watched, (math.inf, -math.inf))
    counts = {name: np.zeros(BINS, np.int64) for name in watched}

    def widen(name: str, x: Tensor) -> None:
        low, high = ends[name]
        ends[name] = min(low, float(x.min())), max(high, float(x.max()))

    def tally(name: str, x: Tensor) -> None:
        counts[name] += torch.histc(x, BINS, *ends[name]).numpy().astype(np.int64)

    for see in (widen, tally):
        with _watching(watched, see):
            _run(net, batches)
    return {name: (counts[name], *ends[name]) for name in watched}


def activation_quantizers(body: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """NNCF's quantizers of activations, by path; those of weights hang before the layers' weights."""
    from nncf.torch.quantization.layers import BaseQuantizer

    for name, module in body.named_modules():
        if isinstance(module, BaseQuantizer) and not module.per_channel:
            yield name, module


def _set_range(quantizer: Any, low: float, high: float) -> None:
    width = max(high - low, 1e-6)
    with torch.no_grad():
        if hasattr(quantizer, "input_low"):
            quantizer.input_low.fill_(low)
            quantizer.input_range.fill_(width)
        else:
            quantizer.scale.fill_(max(-low, high, 1e-6))


@contextmanager
def _watching(modules: dict[str, nn.Module], see: Any) -> Iterator[None]:
    """Calls see(name, input) whenever one of the modules runs."""
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: see(name, args[0]))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _run(net: nn.Module, batches: list[Tensor]) -> None:
    net.eval()
    for batch in batches:
        net(batch)


def describe(net: QuantizedNet) -> dict[str, Any]:
    """What NNCF needs to put the same quantizers on the same network again, as JSON."""
    import nncf.torch

    return dict(nncf.torch.get_config(net.body))


def rebuild(module: nn.Module, description: dict[str, Any]) -> QuantizedNet:
    """The quantized network's structure on a float network; weights and scales are loaded afterwards."""
    ready_kernels()
    import nncf.torch

    body = nncf.torch.load_from_config(_folded(module), description)
    return QuantizedNet(body, OutputQuantizer()).eval()
