"""What a recipe and its gate policy hold: frozen models, field by field.

`config.py` reads them from files. Nothing is guessed: a missing key without a stated
default, an unknown key or a wrong type is an error.
"""

from __future__ import annotations

import itertools
from typing import Literal

from pydantic import Field, model_validator

from edgekd.compression_settings import PruneConfig, QuantizeConfig
from edgekd.fields import Plugin, Positive, Strict
from edgekd.gate_settings import GateConfig
from edgekd.training_settings import DistillConfig, LabelTrainConfig

SMOKE_SAMPLES = 192
SMOKE_BATCH = 16


class ColumnsConfig(Strict):
    """What is known of test samples beside their label: columns that the gate may slice or cluster by."""

    file: str | None = Field(
        default=None,
        description="CSV with sample_id and further columns, a row a sample; left out: the CSV files of a "
        "table themselves",
    )
    names: tuple[str, ...] = Field(
        default=(), strict=False, description="the columns; left out: all of the file"
    )

    @model_validator(mode="after")
    def _something(self) -> ColumnsConfig:
        if self.file is None and not self.names:
            raise ValueError("give names, a file, or both")
        return self


class TaskConfig(Plugin):
    """Where samples come from. Further keys are the reader's own (see `edgekd recipes`)."""

    limit: Positive | None = Field(default=None, description="keep at most this many samples a split")
    on_overlap: Literal["error", "drop_from_train"] = Field(
        default="error",
        description="what to do with a sample that stands in two splits: refuse, or leave it in the first "
        "of test, val, train, unlabelled alone",
    )
    columns: ColumnsConfig | None = Field(
        default=None, description="columns for gate.slices and gate.cluster: nothing is trained anew for them"
    )
    mean: tuple[float, ...] | None = Field(
        default=None,
        strict=False,
        description="a number a channel: subtracted before a network sees a sample; left out: train's own",
    )
    std: tuple[float, ...] | None = Field(
        default=None, strict=False, description="a number a channel: what is divided by after that"
    )
    scale: float | None = Field(
        default=None, description="what raw values are divided by before that; left out: 255 for images"
    )

    @model_validator(mode="after")
    def _together(self) -> TaskConfig:
        if (self.mean is None) != (self.std is None):
            raise ValueError("task.mean and task.std go together")
        if self.scale is not None and self.mean is None:
            raise ValueError(
                "task.scale needs task.mean and task.std beside it: they are of the values divided by it"
            )
        return self


class ModelConfig(Plugin):
    """A network: a reference network by name, or the user's own function returning a module."""

    @property
    def brings_weights(self) -> bool:
        """Whether the network may come with weights: a user's function, or an object from Python."""
        return ":" in self.kind or self.kind in ("object", "keras", "hugging_face")


class FunctionConfig(Plugin):
    """A user's function that gives a teacher's outputs, or that is fitted on train to one that does."""

    fit: bool = Field(
        default=False,
        description="kind is called with train's inputs (N, ...), labels (N,) and seed = N, and gives the "
        "function: it is fitted anew wherever it is asked, so it must give the same each time",
    )
    files: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="files that its outputs depend on beside its source: when one changes, it is asked again",
    )


class TeacherConfig(Strict):
    """The teacher: a network (loaded, trained by the recipe, or both), a file, a function, or several."""

    model: ModelConfig | None = Field(default=None, description="the network")
    checkpoint: str | None = Field(default=None, description=".safetensors, or a torch file of tensors only")
    train: LabelTrainConfig | None = Field(
        default=None, description="how to train it: from the start, or on from the checkpoint"
    )
    file: str | None = Field(
        default=None, description=".onnx, .tflite or .keras, a SavedModel or a Hugging Face folder"
    )
    function: FunctionConfig | None = Field(
        default=None, description="kind = package.module:function, from inputs (B, ...) to outputs (B, K)"
    )
    members: tuple[TeacherConfig, ...] = Field(
        default=(), strict=False, description="several teachers, each as one alone would stand here"
    )
    modality: str | None = Field(
        default=None, description="what it looks at in place of the student's inputs, as the task names it"
    )
    outputs: Literal["logits", "probabilities"] = Field(
        default="logits", description="what it gives; of probabilities the logarithm is taken"
    )
    combine: Literal["probabilities", "logits"] = Field(
        default="probabilities", description="of several teachers, what is averaged"
    )
    weights: Literal["equal", "val_accuracy", "val_metric", "confidence"] = Field(
        default="equal",
        description="of several teachers: by accuracy on val, by gate.metric there, or sample by sample by "
        "how sure each is",
    )

    @model_validator(mode="after")
    def _one_source(self) -> TeacherConfig:
        if [self.model, self.file, self.function, self.members or None].count(None) != 3:
            raise ValueError("give exactly one of teacher.model, file, function and members")
        if len(self.members) == 1:
            raise ValueError("teacher.members are two or more; one alone stands under [teacher] itself")
        if any(member.members for member in self.members):
            raise ValueError("teacher.members have no members of their own")
        if any(a == b for a, b in itertools.combinations(self.members, 2)):
            raise ValueError("two teacher.members are the same; train.seed makes them differ")
        if any(m.model is not None and m.model.kind == "object" for m in self.members):
            raise ValueError("teacher.members cannot be objects from Python: give files or functions")
        if not self.members and (self.combine, self.weights) != ("probabilities", "equal"):
            raise ValueError("teacher.combine and teacher.weights go with teacher.members")
        if self.members and self.outputs != "logits":
            raise ValueError("outputs is said of each of teacher.members")
        if any(member.modality is not None for member in self.members):
            raise ValueError("modality is said of the teacher, not of its members: all look at the same")
        if self.model is None:
            if self.checkpoint is not None or self.train is not None:
                raise ValueError("checkpoint and [teacher.train] go with teacher.model")
            if self.function is not None and ":" not in self.function.kind:
                raise ValueError("teacher.function.kind must be package.module:function")
        elif self.checkpoint is None and self.train is None and not self.model.brings_weights:
            raise ValueError("give checkpoint, [teacher.train], or both to train on from the checkpoint")
        return self


class StudentConfig(Strict):
    """The student: a network, fresh or with a checkpoint, or an ONNX file to start from."""

    model: ModelConfig | None = Field(default=None, description="the network")
    checkpoint: str | None = Field(default=None, description="weights of a student already trained")
    onnx: str | None = Field(default=None, description="a float ONNX file: quantize, measure and judge only")

    @model_validator(mode="after")
    def _one_source(self) -> StudentConfig:
        if (self.model is None) == (self.onnx is None):
            raise ValueError("give exactly one of student.model and student.onnx")
        if self.onnx is not None and self.checkpoint is not None:
            raise ValueError("student.checkpoint goes with student.model, not with student.onnx")
        return self


class AssistantConfig(Strict):
    """A teacher in between (Mirzadeh et al. 2019, arXiv 1902.03393): taught by the one before it."""

    model: ModelConfig = Field(description="its network; the student's own kind makes it born-again")
    distill: DistillConfig = Field(description="how it is taught")

    @model_validator(mode="after")
    def _no_object(self) -> AssistantConfig:
        if self.model.kind == "object":
            raise ValueError("an assistant cannot be an object from Python: name its function")
        return self


class ReportConfig(Strict):
    """What the report shows beside what it always shows. No result of a stage depends on it."""

    gallery: int = Field(
        default=0,
        ge=0,
        le=200,
        description="so many test samples that flipped are put into the report itself, images or values; 0: "
        "none, since samples may be a customer's",
    )


class Recipe(Strict):
    """The whole chain for one teacher, one student and any number of targets."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="names the workdir and the report")
    description: str = Field(default="", description="one line for `edgekd recipes`")
    seed: int = Field(default=0, ge=0, description="of every random choice")
    targets: tuple[str, ...] = Field(strict=False, min_length=1, description="targets to emit files for")
    required_targets: tuple[str, ...] = Field(
        strict=False, min_length=1, description="targets that the overall verdict covers"
    )
    calibration: str = Field(default="stratified-512", description="a calibration policy by name")
    smoke: bool = Field(
        default=False, description="the whole chain in seconds on a sliver of data: shows that it runs"
    )
    task: TaskConfig = Field(description="data")
    teacher: TeacherConfig | None = Field(
        default=None, description="the baseline; without it, the float student"
    )
    assistants: tuple[AssistantConfig, ...] = Field(
        default=(),
        strict=False,
        description="rounds between: each learns from the one before, the student from the last; "
        "pruning and quantization learn from the teacher",
    )
    student: StudentConfig | None = Field(
        default=None, description="without it, the teacher itself is compressed"
    )
    distill: DistillConfig | None = Field(default=None, description="left out: the student is taken as it is")
    prune: PruneConfig | None = Field(default=None, description="left out: no pruning")
    quantize: QuantizeConfig | None = Field(
        default=None, description="needed by targets with scheme static_wi8_ai8"
    )
    gate: GateConfig = Field(description="the verdict")
    report: ReportConfig = Field(default=ReportConfig(), description="what the report shows beside the rest")

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        unknown = [t for t in self.required_targets if t not in self.targets]
        if unknown:
            among = ", ".join(self.targets)
            raise ValueError(f"required_targets names {unknown[0]!r}, which is not among targets ({among})")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("targets names the same target twice")
        if self.teacher is None and self.student is None:
            raise ValueError("give [teacher], [student] or both")
        if self.teacher is not None and self.teacher.modality is not None and self.student is None:
            raise ValueError("teacher.modality: what is compressed looks at the task's own inputs")
        if self.distill is not None and (self.teacher is None or self.student is None):
            raise ValueError("[distill] needs both [teacher] and [student]")
        if self.assistants and self.distill is None:
            raise ValueError("[[assistants]] teach in [distill], which is missing")
        if self.student is not None and self.student.onnx is not None:
            for stage in ("distill", "prune"):
                if getattr(self, stage) is not None:
                    raise ValueError(
                        f"[{stage}] works on a network; student.onnx can only be quantized and judged"
                    )
            if self.quantize is not None and self.quantize.method == "qat":
                raise ValueError('student.onnx cannot be trained: quantize.method must be "ptq"')
            for key in ("sensitivity", "float_layers", "float_weights", "max_val_drop_pp", "max_val_drop"):
                if self.quantize is None:
                    break
                if getattr(self.quantize, key) != QuantizeConfig.model_fields[key].default:
                    raise ValueError(f"quantize.{key} works on a network, not on student.onnx")
        if self.student is not None and self.student.model is not None:
            weights = self.student.checkpoint is not None or self.student.model.brings_weights
            if self.distill is None and not weights:
                raise ValueError("the student has no weights: give student.checkpoint or [distill]")
        if self.quantize is not None and self.quantize.chooses_floats:
            own = "max_val_drop_pp" if self.gate.judged.unit == "percent" else "max_val_drop"
            if getattr(self.quantize, own) is None:
                raise ValueError(f"what {self.gate.metric} may lose on val is told by quantize.{own}")
        if self.prune is not None and self.teacher is None:
            raise ValueError("[prune] recovers by distilling: give [teacher]")
        if self.quantize is not None and self.quantize.method == "qat" and self.teacher is None:
            if self.quantize.learn_from != "student":
                raise ValueError(
                    'quantize.method = "qat" distils from the teacher: give [teacher], or '
                    'quantize.learn_from = "student", or use ptq'
                )
        return self

    def smoked(self) -> Recipe:
        """This recipe on a sliver of data, some fifty steps a training stage (for tests and docs)."""
        data = self.model_dump()
        data["smoke"] = True
        data["task"]["limit"] = min(self.task.limit or SMOKE_SAMPLES, SMOKE_SAMPLES)
        trains = [data[s] for s in ("distill", "prune") if data[s] is not None]
        trains += [assistant["distill"] for assistant in data["assistants"]]
        if data["teacher"] is not None:
            teachers = [data["teacher"], *data["teacher"]["members"]]
            trains += [teacher["train"] for teacher in teachers if teacher["train"] is not None]
        for train in trains:
            # Small steps, the learning rate in proportion (Goyal et al. 2017, arXiv 1706.02677):
            # enough that outputs differ by more than quantization noise.
            lr = train["lr"] * min(1.0, SMOKE_BATCH / train["batch_size"])
            train.update(epochs=min(train["epochs"], 4), batch_size=SMOKE_BATCH, warmup_epochs=0.0, lr=lr)
        if data["prune"] is not None:
            data["prune"]["rounds"] = min(data["prune"]["rounds"], data["prune"]["epochs"])
            if data["prune"]["sparse"] is not None:
                data["prune"]["sparse"]["epochs"] = 1
        if data["quantize"] is not None:
            data["quantize"].update(epochs=1, batch_size=64, warmup_epochs=0.0)
        return Recipe.model_validate(data)
