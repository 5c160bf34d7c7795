"""What every runtime gives: a session that runs one model file, and what is known of its tensors.

This file, the runtimes and `devices/agent.py` travel to boards as they are:
only the standard library and numpy, and nothing newer than Python 3.10.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import MeasurementError
from edgekd.runtimes._gpus import Gpu


class TensorInfo(NamedTuple):
    """An input or output of a file; None in `shape` is a dimension that the caller chooses.

    `scale` is 0 where the file says nothing of quantization; else real = scale * (q - zero_point).
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0

    def encode(self, values: NDArray[Any]) -> NDArray[Any]:
        """Real values in the file's own dtype, quantized where the file takes integers."""
        wanted = np.dtype(self.dtype)
        if wanted.kind == "f" or values.dtype == wanted:
            return np.ascontiguousarray(values, wanted)
        if wanted.kind in "iu" and self.scale:
            limits = np.iinfo(wanted)
            steps = np.rint(np.asarray(values, np.float32) / np.float32(self.scale)) + self.zero_point
            quantized: NDArray[Any] = np.clip(steps, limits.min, limits.max).astype(wanted)
            return quantized
        if wanted.kind in "iu" and values.dtype.kind in "iu":
            return np.ascontiguousarray(values, wanted)
        raise MeasurementError(
            f"input {self.name!r} is {self.dtype} without a scale: {values.dtype} values do not go into it"
        )

    def decode(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The file's own values as real ones."""
        if not self.scale:
            return np.asarray(values, np.float32)
        return (np.asarray(values, np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


class OperatorInfo(NamedTuple):
    """One operator of the graph that the runtime built, with its inputs' dtypes in order."""

    name: str
    op_type: str
    input_dtypes: tuple[str, ...]


class Delegated(NamedTuple):
    """What a backend took of the graph that the runtime built: operators, of how many, in how many parts."""

    operators: int
    total: int
    partitions: int


class Session(ABC):
    """A model file, loaded.

    Attributes:
        runtime: name in the table of runtimes.
        version: the runtime's own version.
        backend: what really runs the graph, as the runtime tells it; never what was asked for.
        num_threads: threads that the runtime may use.
        inputs: what the file takes.
        outputs: what it gives.
    """

    runtime: str
    version: str
    backend: str
    num_threads: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def delegated(self) -> Delegated | None:
        """What the backend took of the graph; None where there is only one. Asking may take a while."""
        return None

    def gpu(self) -> Gpu | None:
        """The GPU that runs the graph; None where none does, or no driver tells. Asking takes a while."""
        return None

    @abstractmethod
    def prepare(self, arrays: Sequence[NDArray[Any]]) -> Any:
        """One array an input, in the file's own dtypes, made ready for `invoke`."""

    @abstractmethod
    def invoke(self, prepared: Any) -> list[NDArray[Any]]:
        """One inference, as an application does it: inputs handed over, run, outputs fetched.

        This is what is timed, so nothing else happens here.
        """

    def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Scores (N, classes) of a batch (N, ...) in the file's layout, of its first output.

        A file with a batch dimension of its own choice runs it in one go, one
        with a fixed batch runs it in pieces of that size.
        """
        if len(self.inputs) != 1:
            raise MeasurementError(f"the file has {len(self.inputs)} inputs; only one can be fed a batch")
        info = self.inputs[0]
        if not _fits(info.shape[1:], batch.shape[1:]):
            raise MeasurementError(
                f"input {info.name!r} takes samples of shape {_shown(info.shape[1:])}, "
                f"got {_shown(batch.shape[1:])}"
            )
        size = info.shape[0] or len(batch)
        if len(batch) == 0 or len(batch) % size:
            raise MeasurementError(
                f"the file's batch is fixed at {size}; {len(batch)} samples do not divide by it"
            )
        pieces = [self._scores(batch[start : start + size]) for start in range(0, len(batch), size)]
        return np.concatenate(pieces)

    def _scores(self, piece: NDArray[Any]) -> NDArray[np.float32]:
        values = self.invoke(self.prepare([self.inputs[0].encode(piece)]))[0]
        if values.ndim == 0 or len(values) != len(piece):
            raise MeasurementError(
                f"output {self.outputs[0].name!r} has shape {values.shape} for a batch of {len(piece)}"
            )
        return self.outputs[0].decode(values).reshape(len(piece), -1)

    def random_inputs(self, seed: int) -> list[NDArray[Any]]:
        """Inputs of the right shape and dtype, free dimensions 1, the same for the same seed."""
        rng = np.random.default_rng(seed)
        return [_random(rng, info) for info in self.inputs]


def _random(rng: np.random.Generator, info: TensorInfo) -> NDArray[Any]:
    shape = tuple(size or 1 for size in info.shape)
    dtype = np.dtype(info.dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind in "iu" and dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if dtype.kind in "iub":
        # Wide integers are indices (token ids, masks): 0 and 1 stay inside any table.
        return rng.integers(0, 2, shape).astype(dtype)
    raise MeasurementError(f"input {info.name!r} is {info.dtype}: no random values can be made for it")


def _fits(free: Sequence[int | None], given: Sequence[int]) -> bool:
    return len(free) == len(given) and all(a is None or a == b for a, b in zip(free, given, strict=True))


def _shown(shape: Sequence[int | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


def first_line(error: BaseException) -> str:
    """An error's first line that says something, for a message of one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
