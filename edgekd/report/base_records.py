"""What the models of report.json are made of: their base, checked numbers, a metric of one model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgekd.types import Direction

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, hexadecimal")]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[float, Field(ge=0)]
Interval = tuple[float, float]
Role = Literal["target", "teacher_float", "student_float"]


class Record(BaseModel):
    """Base of every part of a report: frozen, no unknown keys, no conversion, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class MetricValue(Record):
    """A metric of one model on the test split, against the teacher on the same samples."""

    name: str
    direction: Direction = Field(description="which way is better")
    unit: str = Field(description="of value; the drop of a percentage is in percentage points")
    value: float
    drop: float | None = Field(description="positive is a loss; null for the teacher itself")
    drop_interval: Interval | None = Field(description="two-sided at level 1 - 2 alpha")
    margin: float | None = Field(description="largest drop allowed; null where nothing is judged")

    @model_validator(mode="after")
    def _ordered(self) -> MetricValue:
        if self.drop_interval is not None and self.drop_interval[0] > self.drop_interval[1]:
            raise ValueError("drop_interval has its lower end above its upper end")
        return self


class StoredFile(Record):
    """A file in the report's folder."""

    path: str
    sha256: Sha256


class PredictionsFile(StoredFile):
    """Stored per-sample outputs, so that a report can be judged again."""
