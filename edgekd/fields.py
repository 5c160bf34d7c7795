"""What configs are made of: the strict base, plug-ins by kind, numbers that change while training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Strict(BaseModel):
    """Base of every config: frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Plugin(BaseModel):
    """A choice by `kind` whose other keys belong to the plug-in, which checks them itself."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    kind: str = Field(description="a name from the table of built-in kinds, or package.module:function")

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `kind` and the declared fields."""
        return dict(self.__pydantic_extra__ or {})


class Ramp(Strict):
    """A number that goes from `start` to `end` over the training."""

    start: float = Field(ge=0, description="at the first step")
    end: float = Field(ge=0, description="after the last step")
    shape: Literal["linear", "cosine"] = Field(default="linear", description="how it goes there")


class PositiveRamp(Ramp):
    """A ramp that never touches zero."""

    start: float = Field(gt=0, description="at the first step")
    end: float = Field(gt=0, description="after the last step")


def _shape_of(value: Any) -> str:
    return "schedule" if isinstance(value, Mapping | Ramp) else "number"


# Told apart before they are checked, so that an error speaks of the one that was meant. The tags
# stand in the paths of such errors.
UNION_TAGS = ("number", "schedule")
_BY_SHAPE = Discriminator(_shape_of)
Scheduled = Annotated[
    Annotated[float, Field(ge=0), Tag("number")] | Annotated[Ramp, Tag("schedule")], _BY_SHAPE
]
PositiveScheduled = Annotated[
    Annotated[float, Field(gt=0), Tag("number")] | Annotated[PositiveRamp, Tag("schedule")], _BY_SHAPE
]


def value_at(number: float | Ramp, progress: float) -> float:
    """A number that may be scheduled, where `progress` (0 to 1) of the training is done."""
    if not isinstance(number, Ramp):
        return number
    done = progress if number.shape == "linear" else (1 - math.cos(math.pi * progress)) / 2
    return number.start + (number.end - number.start) * done
