"""The parts of report.json, as frozen models; `schema.py` reads and writes them.

The names here are the ones that release pipelines and other programs rely on.
Paths inside a report are relative to the folder that holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from edgekd.types import Direction, Format, Kind, Status

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


class RecipeRecord(BaseModel):
    """The whole recipe as it ran, by the recipe's own keys."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    name: str

    @property
    def config(self) -> dict[str, Any]:
        """Every key, `name` first."""
        return {"name": self.name, **(self.__pydantic_extra__ or {})}


class SplitRecord(Record):
    """One split: samples, content hash, samples whose content stands there twice."""

    n: Count
    sha256: Sha256
    duplicates: Count


class Splits(Record):
    """The splits; `unlabelled` only where the task has one."""

    train: SplitRecord
    val: SplitRecord
    test: SplitRecord
    unlabelled: SplitRecord | None = None


class Calibration(Record):
    """The samples that calibrated the quantizers, all from train."""

    policy: str
    n: Count
    ids_sha256: Sha256
    ids: tuple[str, ...]

    @model_validator(mode="after")
    def _counted(self) -> Calibration:
        if len(self.ids) != self.n:
            raise ValueError(f"n is {self.n}, but ids holds {len(self.ids)}")
        return self


class Data(Record):
    """What the run saw."""

    splits: Splits
    calibration: Calibration | None = Field(description="null where nothing was calibrated")
    notes: dict[str, JsonValue] = Field(description="samples dropped, sources, and so on")


class StoredFile(Record):
    """A file in the report's folder."""

    path: str
    sha256: Sha256


class PredictionsFile(StoredFile):
    """Stored per-sample outputs, so that a report can be judged again."""


class PredictedLatency(Record):
    """What a network takes by the target's latency table, which pruning went by; the file is timed apart."""

    whole_ms: float = Field(gt=0, description="before pruning")
    pruned_ms: float = Field(gt=0, description="after pruning")
    limit_ms: float = Field(gt=0, description="what was asked for")
    kind: Kind = Field(description="whether the table was measured on the target itself")


class LayerSensitivity(Record):
    """What a layer costs that alone is in 8 bits, the rest being float; on a part of val."""

    path: str = Field(description="of the module in the network")
    logit_error: float = Field(
        ge=0, description="root mean square change of the logits over that of the logits"
    )
    drop_pp: float = Field(description="accuracy lost, percentage points; negative is a gain")


class StageRecord(Record):
    """One stage; `parent_id` makes the stages a tree."""

    id: str
    parent_id: str | None
    name: str
    targets: tuple[str, ...] = Field(description="targets whose files descend from this stage")
    params: Count | None
    macs: Count | None
    metrics: tuple[MetricValue, ...]
    robust_accuracy: float | None = Field(
        default=None,
        ge=0,
        le=100,
        description="percent, on attacked test samples; null where nothing was attacked",
    )
    head_accuracy: Mapping[str, float] = Field(
        default_factory=dict, description="percent, on test, of the heads that are not judged"
    )
    predicted_latency: PredictedLatency | None = Field(
        default=None, description="null where nothing was pruned to a latency"
    )
    removed_blocks: tuple[str, ...] = Field(
        default=(), description="residual blocks that pruning took out whole, by module path"
    )
    nonzero_weights: Count | None = Field(
        default=None, description="of convolutions and linear layers; null where none was made zero"
    )
    sensitivity: tuple[LayerSensitivity, ...] = Field(
        default=(), description="of a quantized network, the costliest layer first; empty where not measured"
    )
    float_layers: tuple[str, ...] = Field(
        default=(), description="layers that a quantized network keeps in float"
    )
    float_costs_ms: Mapping[str, Mapping[str, float]] = Field(
        default_factory=dict,
        description="clock -> layer -> what it takes longer in float than in 8 bits, casts included, by the "
        "latency table of the computer that chose it, whatever the targets are; empty where none was chosen",
    )
    seconds: float = Field(ge=0)
    predictions: PredictionsFile | None


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
    """What to feed a file: `model_input = (raw / scale - mean) / std`."""

    name: str
    shape: tuple[int, ...]
    layout: Literal["NCHW", "NHWC", "NC"]
    raw_dtype: Literal["uint8", "float32"]
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
    parity: ParityRecord | None
    inventory: InventoryRecord | None
    input_spec: InputSpecRecord
    speedup_over_teacher: Ratio | None = Field(description="null where not measured side by side")
    speedup_over_float: Ratio | None = Field(description="over the same network in float")
    size_ratio_to_teacher: float | None = Field(gt=0, description="teacher's bytes over this file's")
    predictions: PredictionsFile | None
    slices: tuple[SliceRecord, ...] = Field(default=(), description="empty for the float references")

    @model_validator(mode="after")
    def _consistent(self) -> ArtifactRecord:
        if (self.role == "target") != (self.target is not None):
            raise ValueError(f"artifact {self.id!r} has role {self.role!r} and target {self.target!r}")
        if self.required and self.role != "target":
            raise ValueError(f"artifact {self.id!r} is a float reference and cannot be required")
        if self.size_bytes != sum(f.size_bytes for f in self.files):
            raise ValueError(f"size_bytes of {self.id!r} is not the sum of its files'")
        return self


class MeasurementRecord(Record):
    """Latency and memory of one artifact under one target's protocol; raw values in `raw_path`."""

    artifact_id: str
    target: str
    device: str
    runtime: str
    runtime_version: str
    delegate: str
    kind: Kind = Field(description="measured on the target, host standing in, or emulated")
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
    raw_path: str
    raw_sha256: Sha256


class MemberRecord(Record):
    """One of several teachers that teach as one."""

    id: str
    accuracy: float = Field(ge=0, le=100, description="percent, on test")
    weight: float | None = Field(description="in the ensemble; null where each sample has its own")
    seconds: float = Field(ge=0)


class TeacherRecord(Record):
    """The baseline; the float student where the recipe has no teacher."""

    params: Count | None
    macs: Count | None
    metrics: tuple[MetricValue, ...] = Field(min_length=1)
    size_bytes: Count = Field(description="of its float32 file, or of its weights where none was written")
    artifact_ids: tuple[str, ...] = Field(description="its float files; empty where it was not exported")
    not_exported: str | None = Field(description="why it has no float file in some format")
    predictions: PredictionsFile | None
    members: tuple[MemberRecord, ...] = Field(default=(), description="where several teach as one")


class CheckRecord(Record):
    """One question of the gate; `observed` and `limit` are in `unit`."""

    name: str
    target: str
    observed: float | None
    limit: float | None
    unit: str
    status: Status
    detail: str
    slice: tuple[str, str] | None = Field(default=None, description="its column and value; null: all samples")


class VerdictRecord(Record):
    """The gate's answer."""

    status: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    exit_code: Literal[0, 1, 3]
    checks: tuple[CheckRecord, ...]

    @model_validator(mode="after")
    def _code(self) -> VerdictRecord:
        expected = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[self.status]
        if self.exit_code != expected:
            raise ValueError(f"exit_code is {self.exit_code}, {self.status} means {expected}")
        return self


class Report(Record):
    """Everything that a run found out, and the verdict."""

    schema_version: Literal[1] = 1
    recipe: RecipeRecord
    seed: int
    versions: dict[str, str]
    host: dict[str, JsonValue]
    data: Data
    class_names: tuple[str, ...]
    teacher: TeacherRecord
    stages: tuple[StageRecord, ...]
    artifacts: tuple[ArtifactRecord, ...]
    measurements: tuple[MeasurementRecord, ...]
    gate: dict[str, JsonValue] = Field(description="the policy that judged")
    judgements: int = Field(ge=0, description="which judgement of this test split this is, counted from 1")
    judgements_not_passed: Count = Field(default=0, description="of those before, how many did not pass")
    judgement_log: StoredFile | None = Field(default=None, description="the judgements up to this one")
    verdict: VerdictRecord

    @model_validator(mode="after")
    def _references(self) -> Report:
        stages: set[str] = set()
        for stage in self.stages:  # parents stand before their children, so there is no cycle
            if stage.parent_id is not None and stage.parent_id not in stages:
                raise ValueError(f"parent {stage.parent_id!r} of stage {stage.id!r} does not stand before it")
            _add(stages, stage.id, "stage")
        artifacts: set[str] = set()
        for artifact in self.artifacts:
            _add(artifacts, artifact.id, "artifact")
            if artifact.stage_id not in stages:
                raise ValueError(f"artifact {artifact.id!r} names no stage: {artifact.stage_id!r}")
        named = [m.artifact_id for m in self.measurements] + list(self.teacher.artifact_ids)
        for name in named:
            if name not in artifacts:
                raise ValueError(f"a measurement or the teacher names no artifact: {name!r}")
        return self


def _add(known: set[str], name: str, what: str) -> None:
    if name in known:
        raise ValueError(f"two {what}s have the id {name!r}")
    known.add(name)
