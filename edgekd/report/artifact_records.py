"""The parts of report.json that are of one file: what it is, how it behaves, what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from edgekd.measurements import Conditions, Kind
from edgekd.report.base_records import (
    Count,
    Interval,
    MetricValue,
    Milliseconds,
    PredictionsFile,
    Record,
    Role,
    Sha256,
    Share,
)
from edgekd.report.figure_records import ClassDrops, Contents, Flips, LatencyDistribution
from edgekd.report.roofline_records import RooflineRecord
from edgekd.types import Format, Status


class FileRecord(Record):
    """A file of an artifact."""

    path: str
    sha256: Sha256
    size_bytes: Count
    deflated_bytes: Count | None = Field(
        default=None, description="packed by zlib, as for a download; null where it was not counted"
    )


class ParityRecord(Record):
    """How far a file's outputs are from those of the model it was exported from."""

    num_samples: Count
    batch_sizes: tuple[int, ...]
    max_abs: float
    mean_abs: float
    mean_steps: float | None = Field(description="in quantization steps; null for float files")
    argmax_agreement: Share
    own_steps: float | None = Field(
        default=None,
        description="by how many steps the model itself moves where each value is nudged by up to 1/256 of a "
        "step before it is rounded; null where the file is within one step",
    )


class DeviceOutputs(Record):
    """Where the judged outputs came from, if not from this computer."""

    device: str = Field(description="a key of the report's devices")
    delegate: str = Field(description="the backend that the target asks for")
    backend: str = Field(description="what ran the graph there")
    parity: ParityRecord = Field(description="of its outputs, to those of the same file on this computer")
    output_range: float = Field(ge=0, description="largest less smallest output of the file here")


class InventoryRecord(Record):
    """Operators of a file as its runtime will run them."""

    ops: dict[str, Count] = Field(description='"TYPE/dtype" -> count')
    int8_ops: Count
    float_ops: Count

    @property
    def int8_share(self) -> float | None:
        """int8 operators over computing operators; None where nothing computes."""
        total = self.int8_ops + self.float_ops
        return self.int8_ops / total if total else None


class InputSpecRecord(Record):
    """What to feed a file: `model_input = (raw / scale - mean) / std`; ids (int32) as they are."""

    name: str
    shape: tuple[int, ...]
    layout: Literal["NCHW", "NHWC", "NC"]
    raw_dtype: Literal["uint8", "float32", "int32"]
    raw_range: Interval
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Ratio(Record):
    """A ratio of two medians taken side by side, with its interval."""

    value: float = Field(gt=0)
    lower: float = Field(ge=0)
    upper: float = Field(ge=0)


class SliceRecord(Record):
    """Samples with one value in one column, judged by themselves; figures in the unit of the margin."""

    column: str = Field(description="label is the class")
    value: str
    n: Count
    drop: float | None = Field(description="positive is a loss; null where the samples show nothing")
    interval: Interval | None = Field(description="two-sided at level 1 - 2 alpha")
    margin: float
    mandatory: bool = Field(description="whether the release depends on it; others raise alarms")
    status: Status
    alarm: bool = Field(description="shown to have lost more than its margin, all such slices considered")
    reason: str


class ArtifactRecord(Record):
    """A file that ships (`role` "target"), or a float reference measured beside it."""

    id: str
    stage_id: str
    target: str | None = Field(description="null for the float references")
    required: bool = Field(description="whether the overall verdict covers it")
    role: Role
    format: Format
    scheme: str
    files: tuple[FileRecord, ...] = Field(min_length=1)
    size_bytes: Count
    metrics: tuple[MetricValue, ...]
    head_accuracy: Mapping[str, float] = Field(
        default_factory=dict, description="percent, on test, of the heads that are not judged"
    )
    agreement: Share | None = Field(description="share of samples with the teacher's answer")
    negative_flip_rate: Share | None = Field(description="teacher right, file wrong")
    kl_divergence: float | None = Field(
        default=None, description="of its class probabilities from the teacher's, nats; shown, not judged by"
    )
    parity: ParityRecord | None
    inventory: InventoryRecord | None
    input_spec: InputSpecRecord
    speedup_over_teacher: Ratio | None = Field(description="null where not measured side by side")
    speedup_over_float: Ratio | None = Field(description="over the same network in float")
    size_ratio_to_teacher: float | None = Field(gt=0, description="teacher's bytes over this file's")
    predictions: PredictionsFile | None
    outputs_from: DeviceOutputs | None = Field(
        default=None, description="null where they are of this computer"
    )
    slices: tuple[SliceRecord, ...] = Field(default=(), description="empty for the float references")
    class_drops: ClassDrops | None = Field(default=None, description="null for the float references")
    flips: Flips | None = Field(default=None, description="null for the float references")
    contents: Contents | None = Field(default=None, description="null where the files were not looked into")
    contents_unread: str = Field(default="", description="why contents is null, of files that cannot be read")
    roofline: RooflineRecord | None = Field(
        default=None,
        description="a bound of its latency on the target, no prediction; null where there is none",
    )
    roofline_absent: str = Field(default="", description="why roofline is null, of files that ship")

    @model_validator(mode="after")
    def _consistent(self) -> ArtifactRecord:
        if (self.role == "target") != (self.target is not None):
            raise ValueError(f"artifact {self.id!r} has role {self.role!r} and target {self.target!r}")
        if self.required and self.role != "target":
            raise ValueError(f"artifact {self.id!r} is a float reference and cannot be required")
        if self.size_bytes != sum(f.size_bytes for f in self.files):
            raise ValueError(f"size_bytes of {self.id!r} is not the sum of its files'")
        return self


class ConditionsRecord(Record):
    """What might have slowed the timed runs of one process; null where its kernel does not tell."""

    cores: tuple[Count, ...] = Field(description="that the process could use")
    throttled_ms: float | None = Field(ge=0, description="for how long quotas held its cgroups")
    hot_events: Count | None = Field(description="how often a processor slowed itself for heat")
    firmware: tuple[str, ...] = Field(description="what a board's firmware said of power and heat")
    clock_khz: tuple[Count, Count] | None = Field(description="of the fastest core, before and after")
    temperature_c: tuple[float, float] | None = Field(description="of the hottest zone, before and after")

    def value(self) -> Conditions:
        """The same as what the gate judges by."""
        return Conditions(**{name: getattr(self, name) for name in type(self).model_fields})


class MeasurementRecord(Record):
    """Latency and memory of one artifact under one target's protocol; raw values in `raw_path`."""

    artifact_id: str
    target: str
    device: str
    runtime: str
    runtime_version: str
    delegate: str
    kind: Kind = Field(description="measured on the target, host standing in, or emulated")
    gpu: str | None = Field(default=None, description="as its driver names it; null where none ran the file")
    operators_delegated: Count | None = Field(default=None, description="operators that the backend took")
    operators_total: Count | None = Field(default=None, description="of so many; null where nothing tells")
    partitions: Count | None = Field(default=None, description="in so many parts")
    num_threads: Count
    num_runs: Count
    num_processes: Count
    median_ms: Milliseconds
    p90_ms: Milliseconds
    p99_ms: Milliseconds | None = Field(description="null below 1,000 runs")
    first_ms: Milliseconds = Field(description="first inference, median over the processes")
    init_ms: Milliseconds = Field(description="load and prepare, median over the processes")
    process_medians_ms: tuple[Milliseconds, ...]
    peak_memory_bytes: Count | None
    warmup_runs: Count = Field(description="before the first timed run, in each process")
    min_runs: Count = Field(description="timed runs that the protocol asks for")
    min_seconds: float = Field(ge=0, description="timed seconds that the protocol asks for")
    cooldown_s: float = Field(default=0.0, ge=0, description="pause before each process but the first")
    conditions: tuple[ConditionsRecord, ...] = Field(default=(), description="of each process")
    raw_path: str
    raw_sha256: Sha256
    distribution: LatencyDistribution | None = Field(default=None, description="null in older reports")
