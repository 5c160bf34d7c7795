"""ONNX files in ONNX Runtime."""

from __future__ import annotations

import collections
import contextlib
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import MeasurementError
from edgekd.runtimes import _gpus
from edgekd.runtimes._session import Delegated, OperatorInfo, Session, TensorInfo, first_line

# It computes in the file's own types, on a GPU too: there is no precision to choose.
DELEGATES = ("cpu", "xnnpack", "gpu", "cuda")
_CPU, _CUDA, _WEBGPU = "CPUExecutionProvider", "CUDAExecutionProvider", "WebGpuExecutionProvider"
_PROVIDERS = {
    "cpu": (_CPU,),
    "xnnpack": ("XnnpackExecutionProvider",),
    "gpu": (
        _CUDA,
        _WEBGPU,
        "DmlExecutionProvider",
        "ROCMExecutionProvider",
    ),
    "cuda": (_CUDA,),
}
# CUDA's default rounds the factors of float32 products to 10 bits (TF32), which is no float32.
_PROVIDER_OPTIONS = {_CUDA: {"use_tf32": "0"}}
_DTYPES = {"float": "float32", "double": "float64"}  # the others are named as numpy names them
_ERRORS_ONLY = 3
# Without this, what a provider cannot run goes to the processor without a word: all, where it does not start.
_WHOLE = ("session.disable_cpu_ep_fallback", "1")
# Copies between the processor's memory and the GPU's: operators of no file.
_COPIES = ("MemcpyFromHost", "MemcpyToHost")


def open_session(path: Path, delegate: str, num_threads: int) -> Session:
    """An ONNX file loaded on a delegate; see `edgekd.runtimes.open_session`."""
    return OnnxSession(path, delegate, num_threads)


def preload() -> None:
    """Imports the runtime."""
    _import()


class OnnxSession(Session):
    """An ONNX file, loaded."""

    runtime = "onnxruntime"

    def __init__(self, path: Path, delegate: str, num_threads: int) -> None:
        ort = _import()
        self._path, self.version = path, version()
        provider = _provider(ort, delegate)
        if provider == _CUDA and hasattr(ort, "preload_dlls"):
            with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
                ort.preload_dlls()  # CUDA's libraries, where they are packages of Python
        if provider == _CPU:
            self._session = _load(ort, path, _options(ort, num_threads), provider)
        else:
            self._session = _load_whole(ort, path, num_threads, provider)
        self._session.disable_fallback()
        self.backend = str(self._session.get_providers()[0])
        if self.backend != provider:
            raise MeasurementError(
                f"{path.name}: asked for {provider}, onnxruntime runs it on {self.backend}"
            )
        self.num_threads = int(self._session.get_session_options().intra_op_num_threads)
        self.inputs = tuple(_info(node) for node in self._session.get_inputs())
        self.outputs = tuple(_info(node) for node in self._session.get_outputs())
        self._output_names = [info.name for info in self.outputs]

    def delegated(self) -> Delegated | None:
        """What the provider ran of one inference, as a profile of it in a further session tells.

        Raises:
            MeasurementError: something ran elsewhere.
        """
        if self.backend == _CPU:
            return None
        options = _options(_import(), self.num_threads)
        options.add_session_config_entry(*_WHOLE)
        ran = _profile(_import(), self._path, options, self.backend)
        found = _delegated(ran, self.backend)
        if found.operators != found.total:
            raise MeasurementError(
                f"{self._path.name}: {self.backend} did not run {_left(ran, self.backend)}"
            )
        return found

    def gpu(self) -> _gpus.Gpu | None:
        """As the driver names it."""
        if self.backend == _CUDA:
            return _gpus.one_of(_gpus.cuda()[:1])  # it takes the first, unless told otherwise
        return _gpus.one_of(_gpus.vulkan()) if self.backend == _WEBGPU else None

    def prepare(self, arrays: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Inputs by name."""
        return {info.name: array for info, array in zip(self.inputs, arrays, strict=True)}

    def invoke(self, prepared: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """One inference."""
        outputs: list[NDArray[Any]] = self._session.run(self._output_names, prepared)
        return outputs


def list_operators(path: Path) -> tuple[OperatorInfo, ...]:
    """Operators of the optimized graph, as it runs on a processor with signed int8 kernels.

    They come from the profile of one run: it names each node with its input
    types after fusion, and needs no parser of ONNX files. Layout changes of
    the highest level are left out, since they differ from processor to processor.
    """
    ort = _import()
    options = _options(ort, 1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return tuple(
        OperatorInfo(
            event["name"].removesuffix("_kernel_time"),
            event["args"]["op_name"],
            tuple(_DTYPES.get(kind, kind) for entry in event["args"]["input_type_shape"] for kind in entry),
        )
        for event in _profile(ort, path, options, _CPU)
    )


def _profile(ort: Any, path: Path, options: Any, provider: str) -> list[Any]:
    """The nodes that one inference ran, in their order, each as onnxruntime's profile has it."""
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = _load(ort, path, options, provider)
        infos = [_info(node) for node in session.get_inputs()]
        session.run(None, {info.name: np.ones([s or 1 for s in info.shape], info.dtype) for info in infos})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]


def _delegated(ran: list[Any], provider: str) -> Delegated:
    where = [event["args"]["provider"] for event in ran if event["args"]["op_name"] not in _COPIES]
    taken = [name == provider for name in where]
    parts = sum(now and not before for before, now in zip([False, *taken], taken, strict=False))
    return Delegated(sum(taken), len(taken), parts)


def _left(ran: list[Any], provider: str) -> str:
    """What ran elsewhere: `14 x QuantizeLinear on CPUExecutionProvider`."""
    elsewhere = collections.Counter(
        (event["args"]["op_name"], event["args"]["provider"])
        for event in ran
        if event["args"]["provider"] != provider
    )
    return ", ".join(f"{count} x {kind} on {where}" for (kind, where), count in sorted(elsewhere.items()))


def version() -> str:
    """Of the package that is installed."""
    return str(_import().__version__)


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MeasurementError(
            f"onnxruntime cannot be imported: {first_line(error)}", hint="pip install onnxruntime"
        ) from None
    return onnxruntime


def _options(ort: Any, num_threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Arm's default. An x86 leaves signed activations in float between their scales, and would compute
    # otherwise than the boards that such files are for; of unsigned ones the graph is the same either way.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    return options


def _provider(ort: Any, delegate: str) -> str:
    available = ort.get_available_providers()
    for provider in _PROVIDERS[delegate]:
        if provider in available:
            return provider
    raise MeasurementError(
        f"delegate {delegate!r}: this onnxruntime {ort.__version__} has no such backend "
        f"(it has: {', '.join(available)})"
    )


def _load(ort: Any, path: Path, options: Any, provider: str) -> Any:
    try:
        # enable_fallback would load the file on the processor where the provider fails.
        asked = (provider, _PROVIDER_OPTIONS.get(provider, {}))
        return ort.InferenceSession(str(path), options, providers=[asked], enable_fallback=0)
    except Exception as error:  # its exceptions have no base class of their own
        text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : ", "", first_line(error)).replace(str(path), path.name)
        # A failed check begins with the place in its source and the condition.
        text = re.sub(r"^(\w+ : )?/\S+:\d+ .* was false\. ", "", text)
        raise MeasurementError(f"{path.name}: onnxruntime cannot load it: {text}") from None


def _load_whole(ort: Any, path: Path, num_threads: int, provider: str) -> Any:
    """The file on a provider that takes all of it; else what it left to the processor, in words."""
    options = _options(ort, num_threads)
    options.add_session_config_entry(*_WHOLE)
    try:
        return _load(ort, path, options, provider)
    except MeasurementError as error:
        _load(ort, path, _options(ort, 1), _CPU)  # a file that loads nowhere is not the provider's fault
        try:
            partly = _load(ort, path, _options(ort, num_threads), provider)
        except MeasurementError as again:
            raise _unusable(path, provider, again.message.rpartition(": ")[2]) from None
        if provider not in partly.get_providers():
            raise _unusable(path, provider, "its libraries or its GPU are missing") from None
        ran = _profile(ort, path, _options(ort, num_threads), provider)
        found = _delegated(ran, provider)
        if found.operators == found.total:
            raise error
        raise MeasurementError(
            f"{path.name}: {provider} takes {found.operators} of {found.total} operators, "
            f"in {found.partitions} parts; it leaves {_left(ran, provider)}",
            hint='delegate = "cpu" runs it on the processor',
        ) from None


def _unusable(path: Path, provider: str, words: str) -> MeasurementError:
    found = {_CUDA: _gpus.cuda, _WEBGPU: _gpus.vulkan}.get(provider)
    none = "" if found is None or found() else "there is no usable GPU here, no driver names one; "
    return MeasurementError(
        f"{path.name}: {none}{provider} does not start: {words}",
        hint='delegate = "cpu" runs it on the processor',
    )


def _info(node: Any) -> TensorInfo:
    kind = str(node.type).removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in node.shape or ())
    return TensorInfo(str(node.name), shape, _DTYPES.get(kind, kind))
