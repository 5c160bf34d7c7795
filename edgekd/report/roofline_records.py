"""The part of report.json that says how fast a file could be at best: a bound, no prediction."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from edgekd.report.base_records import Count, Milliseconds, Record

MOST_OPERATORS = 10


class PeakRecord(Record):
    """The target's [peak]: rates of one core, what its memory and caches give."""

    fp32_gflops: float = Field(gt=0)
    fp16_gflops: float | None = Field(gt=0, description="null: as float32")
    int8_gops: float = Field(gt=0)
    memory_gb_per_s: float = Field(gt=0)
    cache_mb: float = Field(ge=0)
    source: str


class OperatorBoundRecord(Record):
    """The least time of one operator at those rates."""

    layer: str
    op_type: str
    dtype: str = Field(description="that it computes in")
    macs: Count
    operations: Count = Field(description="two a multiply-accumulate")
    moved_bytes: float = Field(ge=0, description="that no cache can have kept")
    bound_ms: Milliseconds
    limit: Literal["compute", "memory"] = Field(description="which of the two takes longer")


class RooflineRecord(Record):
    """The least time of one inference at the target's peak rates, batch 1."""

    peak: PeakRecord
    num_threads: Count = Field(description="cores that share the operations")
    bound_ms: Milliseconds = Field(description="the sum over all operators")
    compute_ms: Milliseconds = Field(
        description="of that, operators that the processor limits, not the memory"
    )
    macs: Count
    operations: Count
    moved_bytes: float = Field(ge=0)
    operators: tuple[OperatorBoundRecord, ...] = Field(
        max_length=MOST_OPERATORS, description="those of the longest bounds"
    )
    other_operators: Count = Field(description="further operators")
    other_ms: Milliseconds = Field(description="bound of those")
    uncounted: tuple[str, ...] = Field(description="operators whose operations are not known and left out")
    reached: float | None = Field(
        ge=0,
        description="bound over median; null unless timed on the target itself; above 1 where the device has "
        "more than its profile says",
    )

    @model_validator(mode="after")
    def _adds_up(self) -> RooflineRecord:
        parts = sum(o.bound_ms for o in self.operators) + self.other_ms
        if not math.isclose(parts, self.bound_ms, rel_tol=1e-6, abs_tol=1e-12):
            raise ValueError("the operators' bounds do not add up to the file's")
        if self.compute_ms > self.bound_ms * (1 + 1e-6):
            raise ValueError("compute_ms is a part of bound_ms")
        return self
