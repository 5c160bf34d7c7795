"""The roofline: how fast a file could run at best, at a processor's peak rates. A bound, not a prediction.

S. Williams, A. Waterman, D. Patterson: Roofline, CACM 52(4), 2009. An operator takes at least as long as its
operations do at the peak rate of the type that it computes in, and at least as long as its bytes do at the
memory's bandwidth, whichever is longer; operators run one after the other.

Which bytes come from memory: those that no cache can have kept. Timed runs follow one another, so a small
file's weights stay in the caches from run to run, and a tensor between two operators stays there till the
next one takes it. To count them all would give a time that real runs go below, and no bound. So of what
every run reads anew (weights, the file's input and output) all but `cache_mb` is counted, shared out over
the operators by size, and of each tensor between operators what is larger than the caches. A first run,
with nothing in the caches, takes longer than this bound for that reason alone.

What it leaves out, and stays a bound: overheads of calls, moves of data, clamps, what is inside loops and
recurrent operators (told of). What would break it: an algorithm with fewer multiplications than the plain one
(Winograd's for 3x3 convolutions), weights that are skipped for being zero, and a device with more than its
profile says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekd.config import PeakConfig
from edgekd.measure.inventory import HYBRID
from edgekd.measure.work import Work, work_of
from edgekd.types import Format

Limit = Literal["compute", "memory"]
_BYTES = ("int8", "uint8", "int4", "uint4", "int16", "uint16", HYBRID)
_HALVES = ("float16", "bfloat16")


@dataclass(frozen=True)
class OperatorBound:
    """The least time of one operator; moved_bytes are those that come from memory or go there."""

    work: Work
    moved_bytes: float
    compute_ms: float
    memory_ms: float

    @property
    def bound_ms(self) -> float:
        """The longer of the two."""
        return max(self.compute_ms, self.memory_ms)

    @property
    def limit(self) -> Limit:
        """Which of the two it is."""
        return "memory" if self.memory_ms > self.compute_ms else "compute"


@dataclass(frozen=True)
class Roofline:
    """The bounds of a file's operators on a number of cores."""

    operators: tuple[OperatorBound, ...]
    num_threads: int

    @property
    def bound_ms(self) -> float:
        """The least time of one inference."""
        return sum(o.bound_ms for o in self.operators)

    @property
    def compute_ms(self) -> float:
        """Of that, what operators take that the processor limits; the others are limited by the memory."""
        return sum(o.bound_ms for o in self.operators if o.limit == "compute")

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample."""
        return sum(o.work.macs for o in self.operators)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Types of operators whose operations are not known, and not counted."""
        return tuple(sorted({o.work.op_type for o in self.operators if not o.work.counted}))


def roofline_of(
    path: Path, file_format: Format, peak: PeakConfig, num_threads: int = 1, *, halves: bool = False
) -> Roofline:
    """The roofline of an ONNX or TFLite file at batch 1.

    Args:
        path: the file; it is read, not run.
        file_format: of the file.
        peak: rates of one core.
        num_threads: cores that share the operations; memory and caches are theirs together.
        halves: whether the backend computes floats in half precision, whatever the file says.

    Raises:
        MeasurementError: it is not of that format, or shapes that operations follow from are not known.
    """
    return bounds(work_of(path, file_format), peak, num_threads, halves=halves)


def bounds(
    works: Sequence[Work], peak: PeakConfig, num_threads: int = 1, *, halves: bool = False
) -> Roofline:
    """The roofline of operators; see `roofline_of`."""
    cache = peak.cache_mb * 1e6
    anew = sum(w.weight_bytes + w.outer_bytes for w in works)
    missed = max(1 - cache / anew, 0.0) if anew else 0.0
    found = []
    for work in works:
        moved = missed * (work.weight_bytes + work.outer_bytes)
        moved += sum(max(size - cache, 0) for size in (*work.in_bytes, *work.out_bytes))
        rate = _rate(work.dtype, peak, halves) * num_threads
        compute_ms, memory_ms = work.operations / rate / 1e6, moved / peak.memory_gb_per_s / 1e6
        found.append(OperatorBound(work, moved, compute_ms, memory_ms))
    return Roofline(tuple(found), num_threads)


def _rate(dtype: str, peak: PeakConfig, halves: bool) -> float:
    """Operations a second, in 1e9, of one core."""
    if dtype in _BYTES:  # 16-bit integers too: they are no faster than bytes
        return peak.int8_gops
    half = peak.fp16_gflops or peak.fp32_gflops
    return half if halves or dtype in _HALVES else peak.fp32_gflops
