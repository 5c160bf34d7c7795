"""A latency table: what chains of layers took on one target.

Everything is kept in units of one reference chain that was timed in turns with all others, since
processors change their clocks, and are shared, while they are measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from edgekd.config import Target
from edgekd.errors import MeasurementError, UsageError
from edgekd.fields import Strict
from edgekd.layers import Layer, parse
from edgekd.store import write_atomic

VERSION = 2
Chain = tuple[Layer, ...]
REFERENCE: Chain = (Layer("conv", 16, 16, 16, 16, 3, 1, 1),) * 4


class Clock(Strict):
    """Whose clock a table tells: all that may change what a layer costs."""

    runtime: str = Field(description="runtime")
    runtime_version: str = Field(description="its version")
    delegate: str = Field(description="backend asked for in the runtime")
    num_threads: int = Field(description="threads for inference")
    format: str = Field(description="file format")
    scheme: str = Field(description="quantization scheme")
    activations: str = Field(description="signed or unsigned 8-bit activations")
    cpu: str = Field(description="the processor")
    isa: str = Field(description="its instruction set")
    features: tuple[str, ...] = Field(strict=False, description="its extensions that matter to kernels")

    @property
    def label(self) -> str:
        """For people: what differs between the clocks of one computer."""
        threads = "1 thread" if self.num_threads == 1 else f"{self.num_threads} threads"
        kind = f"{self.format} {self.scheme}"
        return (
            f"{self.runtime} {self.runtime_version} ({self.delegate}, {threads}, {kind}, {self.activations})"
        )

    def difference(self, other: Clock) -> str:
        """Name and both values of the first field that is not the same, or nothing."""
        for name in type(self).model_fields:
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                return f"{name} = {mine!r}, not {its!r}"
        return ""


def clock_of(target: Target, runtime_version: str, host: Mapping[str, Any]) -> Clock:
    """The clock that a target has on a computer.

    Args:
        target: the profile.
        runtime_version: of the runtime that is there.
        host: what the computer is (`devices.machine.host_info`).
    """
    return Clock(
        runtime=target.runtime.name,
        runtime_version=runtime_version,
        delegate=target.runtime.delegate,
        num_threads=target.runtime.num_threads,
        format=target.artifact.format,
        scheme=target.artifact.scheme,
        activations=target.artifact.activation_signedness,
        cpu=str(host["cpu"]),
        isa=str(host["isa"]),
        features=tuple(host["features"]),
    )


class Grid(Strict):
    """The widths at which layers of one shape were timed."""

    in_widths: tuple[int, ...] = Field(strict=False, description="of the input, with out_widths all of them")
    out_widths: tuple[int, ...] = Field(strict=False, description="of the output; () where it is the input's")
    fine_in: tuple[int, ...] = Field(
        default=(), strict=False, description="further widths of the input, at the widest output only"
    )
    fine_out: tuple[int, ...] = Field(
        default=(), strict=False, description="further widths of the output, at the widest input only"
    )


class _File(Strict):
    """A table as it lies on disk."""

    edgekd_latency_table: int
    clock: Clock
    fastest_ms: float | None
    grids: dict[str, Grid]
    ratios: dict[str, tuple[float, float, float]] = Field(strict=False)


class Ratio(NamedTuple):
    """What a chain takes in units of the reference, how sure that is, and what the reference took then."""

    value: float
    standard_error: float
    reference_ms: float


@dataclass
class Table:
    """Measured chains; they only grow.

    Attributes:
        clock: whose times they are.
        fastest_ms: what the reference took at full speed, the unit of all else.
        grids: shape of a layer -> widths that were timed.
        ratios: what each chain takes.
    """

    clock: Clock
    fastest_ms: float | None = None
    grids: dict[str, Grid] = field(default_factory=dict)
    ratios: dict[Chain, Ratio] = field(default_factory=dict)

    def add(self, found: Mapping[Chain, Ratio], slowest: float) -> None:
        """Takes up new measurements; those of times that turn out to have been disturbed are forgotten.

        A time counts where the reference took at most `slowest` times what it took at its fastest.
        """
        self.ratios.update(found)
        slow = slowest * self.unit_ms
        self.ratios = {chain: ratio for chain, ratio in self.ratios.items() if ratio.reference_ms <= slow}

    @property
    def unit_ms(self) -> float:
        """What a cost of 1 is in milliseconds, at full speed."""
        if self.fastest_ms is None:
            raise MeasurementError("the latency table holds no measurement yet", hint="run edgekd profile")
        return self.fastest_ms

    def save(self, path: Path) -> None:
        """Writes it whole or not at all."""
        record = _File(
            edgekd_latency_table=VERSION,
            clock=self.clock,
            fastest_ms=self.fastest_ms,
            grids=dict(sorted(self.grids.items())),
            ratios={chain_text(chain): ratio for chain, ratio in sorted(self.ratios.items())},
        )
        write_atomic(path, json.dumps(record.model_dump(mode="json"), indent=1) + "\n")


def load(path: Path) -> Table:
    """A table from its file.

    Raises:
        UsageError: there is none, or it is no table of this version.
    """
    try:
        found = _File.model_validate_json(path.read_bytes())
        ratios = {
            tuple(parse(part) for part in text.split(" > ")): Ratio(*value)
            for text, value in found.ratios.items()
        }
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file", hint="edgekd profile makes it") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValidationError, UsageError) as error:
        reason = _first_complaint(error) if isinstance(error, ValidationError) else str(error)
        raise UsageError(
            f"{path}: not a latency table: {reason}", hint="delete it; edgekd profile makes it anew"
        ) from None
    if found.edgekd_latency_table != VERSION:
        raise UsageError(
            f"{path}: a latency table of version {found.edgekd_latency_table}",
            hint=f"this edgekd reads version {VERSION}; delete it, edgekd profile makes it anew",
        )
    return Table(found.clock, found.fastest_ms, dict(found.grids), ratios)


def _first_complaint(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key}: {first['msg']}" if key else first["msg"]


def chain_text(chain: Chain) -> str:
    """As it stands in the file."""
    return " > ".join(map(str, chain))
