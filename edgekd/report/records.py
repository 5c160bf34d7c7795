"""The parts of report.json, as frozen models; `schema.py` reads and writes them.

The names here are the ones that release pipelines and other programs rely on.
Paths inside a report are relative to the folder that holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from edgekd.measurements import Kind
from edgekd.report.artifact_records import ArtifactRecord, MeasurementRecord
from edgekd.report.base_records import Count, MetricValue, PredictionsFile, Record, Sha256, StoredFile
from edgekd.report.figure_records import Gallery
from edgekd.types import Status


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
    drop: float | None = Field(
        default=None,
        description="lost of the metric that is judged, as its own drops; null where that is accuracy",
    )


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


class MemberRecord(Record):
    """One of several teachers that teach as one."""

    id: str
    accuracy: float = Field(ge=0, le=100, description="percent, on test")
    value: float | None = Field(
        default=None, description="of the metric that is judged, on test; null in reports of earlier versions"
    )
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
    devices: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict, description="what each device is that files ran on, by its name"
    )
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
    gallery: Gallery | None = Field(default=None, description="null where the recipe does not ask for it")

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
