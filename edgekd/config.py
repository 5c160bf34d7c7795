"""Recipes, targets, calibration and gate policies: strict TOML to frozen models.

Nothing is guessed: an unknown key, a wrong type or a value out of range is an
error that names the file, the line, the key and the nearest valid name.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from edgekd.errors import UsageError

FloatScheme = Literal["fp32", "fp16"]
SchemeName = Literal["static_wi8_ai8", "dynamic_wi8_afp32", "fp16", "fp32"]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]


SMOKE_SAMPLES = 192
SMOKE_BATCH = 16


class Strict(BaseModel):
    """Base of every config: frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Plugin(BaseModel):
    """A choice by `kind` whose other keys belong to the plug-in, which checks them itself."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    kind: str = Field(description="a name from the table of built-in kinds, or package.module:function")

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `kind` and the declared fields."""
        return dict(self.__pydantic_extra__ or {})


class TaskConfig(Plugin):
    """Where samples come from. Further keys are the reader's own (see `edgekd recipes`)."""

    limit: Positive | None = Field(default=None, description="keep at most this many samples a split")
    on_overlap: Literal["error", "drop_from_train"] = Field(
        default="error",
        description="what to do with a train sample whose content stands in val or test too",
    )


class ModelConfig(Plugin):
    """A network: a reference network by name, or the user's own function returning a module."""

    @property
    def brings_weights(self) -> bool:
        """Whether the network may come with weights: a user's function, or an object from Python."""
        return ":" in self.kind or self.kind == "object"


class TrainConfig(Strict):
    """One training run."""

    epochs: Positive = Field(description="passes over the training split")
    batch_size: Positive = Field(default=128, description="samples a step")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="sgd has Nesterov momentum 0.9")
    lr: float = Field(default=0.05, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=5e-4, ge=0, description="L2 on weights of two dimensions or more")
    warmup_epochs: float = Field(default=1.0, ge=0, description="linear rise, then cosine to zero")
    grad_clip: float | None = Field(default=None, gt=0, description="largest gradient norm")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="for the cross-entropy")
    augment: tuple[Literal["crop", "flip"], ...] = Field(
        default=(), strict=False, description="random shift by up to 2 pixels in 28, mirror"
    )
    precision: Literal["auto", "bf16-mixed", "32-true"] = Field(
        default="auto", description="auto: bf16 where the processor gains from it"
    )


class TeacherConfig(Strict):
    """The teacher: a network with a checkpoint, or trained by the recipe."""

    model: ModelConfig = Field(description="the network")
    checkpoint: str | None = Field(default=None, description=".safetensors, or a torch file of tensors only")
    train: TrainConfig | None = Field(
        default=None, description="how to train it where no checkpoint is given"
    )

    @model_validator(mode="after")
    def _has_weights(self) -> TeacherConfig:
        if (self.checkpoint is None) == (self.train is None) and not self.model.brings_weights:
            raise ValueError("give either checkpoint or [teacher.train]")
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


class DistillConfig(TrainConfig):
    """Distillation from the teacher's cached outputs (Hinton et al. 2015, arXiv 1503.02531)."""

    temperature: float = Field(default=4.0, gt=0, description="softens both sets of logits")
    alpha: float = Field(
        default=0.1, ge=0, le=1, description="weight of the cross-entropy; 1 - alpha is the KL's"
    )
    views: Positive = Field(
        default=1, description="augmented views a sample that the teacher sees and caches"
    )


class PruneConfig(DistillConfig):
    """Structured pruning to a goal, then recovery that distils from the same teacher."""

    goal: Literal["macs", "params", "size_bytes"] = Field(description="what to bring down")
    keep: Fraction | None = Field(default=None, description="goal as a fraction of the student's own")
    limit: Positive | None = Field(default=None, description="goal as an absolute number")
    importance: Literal["l1", "l2", "random"] = Field(default="l2", description="norm over the coupled group")
    max_pruning_ratio: float = Field(
        default=0.7, gt=0, lt=1, description="at most this share of any one group"
    )
    ignored_layers: tuple[str, ...] = Field(default=(), strict=False, description="module paths left alone")

    @model_validator(mode="after")
    def _one_goal(self) -> PruneConfig:
        if (self.keep is None) == (self.limit is None):
            raise ValueError("give exactly one of prune.keep and prune.limit")
        return self


class QuantizeConfig(DistillConfig):
    """How targets with the scheme static_wi8_ai8 get their scales; targets choose the scheme."""

    method: Literal["qat", "ptq"] = Field(description="train with fake quantizers, or calibrate only")
    epochs: Positive = Field(default=2, description="passes over the training split (qat)")
    optimizer: Literal["sgd", "adamw"] = Field(default="adamw", description="sgd collapses easily here")
    lr: float = Field(default=2e-4, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=0.0, ge=0, description="L2 on weights")
    grad_clip: float | None = Field(default=1.0, gt=0, description="largest gradient norm")


class GateConfig(Strict):
    """When an artifact may ship."""

    max_drop_pp: float = Field(
        gt=0, lt=100, description="margin of the non-inferiority test, percentage points"
    )
    alpha: float = Field(
        default=0.05, gt=0, lt=0.5, description="one-sided error of a wrong PASS at the margin"
    )
    max_negative_flip_rate: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="bound on the share of samples that the teacher has right and the file wrong",
    )
    min_int8_share: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="share of computing operators that must run in int8 in an int8 file",
    )
    why: str = Field(default="", description="why this margin, printed with the verdict")


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
    student: StudentConfig | None = Field(
        default=None, description="without it, the teacher itself is compressed"
    )
    distill: DistillConfig | None = Field(default=None, description="left out: the student is taken as it is")
    prune: PruneConfig | None = Field(default=None, description="left out: no pruning")
    quantize: QuantizeConfig | None = Field(
        default=None, description="needed by targets with scheme static_wi8_ai8"
    )
    gate: GateConfig = Field(description="the verdict")

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        unknown = [t for t in self.required_targets if t not in self.targets]
        if unknown:
            raise ValueError(f"required_targets names {unknown[0]!r}, which is not among targets")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("targets names the same target twice")
        if self.teacher is None and self.student is None:
            raise ValueError("give [teacher], [student] or both")
        if self.distill is not None and (self.teacher is None or self.student is None):
            raise ValueError("[distill] needs both [teacher] and [student]")
        if self.student is not None and self.student.onnx is not None:
            for stage in ("distill", "prune"):
                if getattr(self, stage) is not None:
                    raise ValueError(
                        f"[{stage}] works on a network; student.onnx can only be quantized and judged"
                    )
        if self.student is not None and self.student.model is not None:
            if (
                self.student.checkpoint is None
                and self.distill is None
                and ":" not in self.student.model.kind
            ):
                raise ValueError("the student has no weights: give student.checkpoint or [distill]")
        if self.prune is not None and self.teacher is None:
            raise ValueError("[prune] recovers by distilling: give [teacher]")
        if self.quantize is not None and self.quantize.method == "qat" and self.teacher is None:
            raise ValueError('quantize.method = "qat" distils from the teacher: give [teacher], or use ptq')
        return self

    def smoked(self) -> Recipe:
        """This recipe on a sliver of data, some fifty steps a training stage (for tests and docs)."""
        data = self.model_dump()
        data["smoke"] = True
        data["task"]["limit"] = min(self.task.limit or SMOKE_SAMPLES, SMOKE_SAMPLES)
        trains = [data[s] for s in ("distill", "prune") if data[s] is not None]
        if data["teacher"] is not None and data["teacher"]["train"] is not None:
            trains.append(data["teacher"]["train"])
        for train in trains:
            # Small steps, the learning rate in proportion (Goyal et al. 2017, arXiv 1706.02677):
            # enough that outputs differ by more than quantization noise.
            lr = train["lr"] * min(1.0, SMOKE_BATCH / train["batch_size"])
            train.update(epochs=min(train["epochs"], 4), batch_size=SMOKE_BATCH, warmup_epochs=0.0, lr=lr)
        if data["quantize"] is not None:
            data["quantize"].update(epochs=1, batch_size=64, warmup_epochs=0.0)
        return Recipe.model_validate(data)


class Processor(Strict):
    """The processor that a target stands for, and how to tell that this computer is one."""

    isa: Literal["any", "x86_64", "aarch64"] = Field(
        description="instruction set; any: whatever runs the tool"
    )
    features: tuple[str, ...] = Field(
        default=(), strict=False, description="/proc/cpuinfo names that it must have"
    )
    board: str | None = Field(
        default=None, description="text that the device tree's model must hold; android never does here"
    )
    cores: Positive | None = Field(default=None, description="cores of the kind that runs the model")
    description: str = Field(default="", description="for people")


class RuntimeConfig(Strict):
    """What runs the file on the target."""

    name: Literal["litert", "onnxruntime"] = Field(description="runtime")
    delegate: Literal["cpu", "xnnpack", "gpu"] = Field(description="backend inside the runtime")
    num_threads: Positive = Field(default=1, description="threads for inference")


class EmissionConfig(Strict):
    """How the file is written for the target."""

    format: Literal["onnx", "tflite"] = Field(description="file format")
    scheme: SchemeName = Field(description="quantization scheme")
    activation_signedness: Literal["signed", "unsigned"] = Field(
        default="signed", description="of int8 activations: unsigned for x86 ONNX, signed for Arm and TFLite"
    )
    layout: Literal["NHWC", "NCHW"] = Field(description="layout of image inputs in the file")
    channel_multiple: Positive = Field(default=8, description="pruned widths are multiples of this")
    unavailable_ops: tuple[str, ...] = Field(
        default=(), strict=False, description="operators that the target cannot run"
    )


class ProtocolConfig(Strict):
    """How latency is measured (see types.Protocol)."""

    warmup_runs: Positive = Field(default=10, description="runs before the first timed one")
    min_runs: int = Field(default=100, ge=10, description="timed runs in all")
    min_seconds: float = Field(default=1.0, gt=0, description="timed seconds in all")
    num_processes: int = Field(default=3, ge=1, description="fresh processes")


class BudgetConfig(Strict):
    """What an artifact may cost on the target; leave out what is not limited."""

    size_bytes: Positive | None = Field(default=None, description="all files together")
    latency_ms_p90: float | None = Field(default=None, gt=0, description="90th percentile")
    peak_memory_bytes: Positive | None = Field(
        default=None, description="high-water mark of a process that only runs the file"
    )


class PeakConfig(Strict):
    """Peak rates of one core, for the roofline, with their source."""

    fp32_gflops: float = Field(gt=0, description="float32, one core")
    int8_gops: float = Field(gt=0, description="int8, one core")
    memory_gb_per_s: float = Field(gt=0, description="memory bandwidth")
    source: str = Field(description="where the numbers come from")


class Target(Strict):
    """A target profile: data only."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$", description="as recipes name it; the file's name too"
    )
    description: str = Field(description="for people")
    processor: Processor = Field(description="the hardware")
    runtime: RuntimeConfig = Field(description="what runs the file")
    artifact: EmissionConfig = Field(description="how the file is written")
    protocol: ProtocolConfig = Field(default=ProtocolConfig(), description="how latency is measured")
    budgets: BudgetConfig = Field(default=BudgetConfig(), description="what it may cost")
    peak: PeakConfig | None = Field(default=None, description="peak rates")

    @model_validator(mode="after")
    def _runtime_reads_format(self) -> Target:
        reads = {"litert": "tflite", "onnxruntime": "onnx"}[self.runtime.name]
        if self.artifact.format != reads:
            raise ValueError(
                f"runtime {self.runtime.name} reads {reads} files, artifact.format is {self.artifact.format}"
            )
        layout = {"litert": "NHWC", "onnxruntime": "NCHW"}[self.runtime.name]
        if self.artifact.layout != layout:
            raise ValueError(
                f"{reads} files are written as {layout}, artifact.layout is {self.artifact.layout}"
            )
        return self


class CalibrationPolicy(Strict):
    """Which training samples calibrate the quantizers, and how ranges are chosen."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$", description="as recipes name it; the file's name too"
    )
    description: str = Field(description="for people")
    strategy: Literal["random", "stratified", "per_class"] = Field(
        description="random; in the classes' proportions; the same number of each class"
    )
    num_samples: Positive | None = Field(default=None, description="for random and stratified")
    per_class: Positive | None = Field(default=None, description="for per_class")
    observer: Literal["min_max", "percentile", "entropy", "mse"] = Field(
        description="how a range is chosen from values seen"
    )
    percentile: float = Field(default=99.99, gt=50, le=100, description="for the percentile observer")
    seed: int = Field(default=0, ge=0, description="of the draw")

    @model_validator(mode="after")
    def _count(self) -> CalibrationPolicy:
        if self.strategy == "per_class":
            if self.per_class is None or self.num_samples is not None:
                raise ValueError("strategy per_class takes per_class, not num_samples")
        elif self.num_samples is None or self.per_class is not None:
            raise ValueError(f"strategy {self.strategy} takes num_samples, not per_class")
        return self


T = TypeVar("T", bound=BaseModel)
SCHEMAS: Mapping[str, type[Strict]] = {"recipe": Recipe, "target": Target, "calibration": CalibrationPolicy}
FOLDERS = {"recipe": "recipes", "target": "targets", "calibration": "calibration"}


def build(model: type[T], data: Mapping[str, Any], where: str, text: str = "") -> T:
    """`data` as a `model`, or a UsageError that names `where`, line, key, value and the nearest name.

    Args:
        model: the config class.
        data: keys and values as read.
        where: file (or flag) for the message.
        text: the file's text, to find the line.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A misspelt key that is needed is told as itself rather than as missing.
        found = error.errors()
        first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
        path = tuple(str(part) for part in first["loc"] if not isinstance(part, int))
        key = ".".join(path)
        line = _line_of(text, path)
        place = f"{where}:{line}" if line else where
        raise UsageError(
            f"{place}: {_complaint(model, first, path, key)}", hint=_remedy(model, first, path)
        ) from None


def _complaint(model: type[BaseModel], first: Any, path: tuple[str, ...], key: str) -> str:
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}"
    if first["type"] == "missing":
        return f"key {key!r} is missing"
    message = str(first["msg"]).removeprefix("Value error, ")
    shown = first.get("input")
    if not key or isinstance(shown, Mapping | BaseModel):
        return f"{key}: {message}" if key else message
    return f"{key} = {shown!r}: {message}"


def _remedy(model: type[BaseModel], first: Any, path: tuple[str, ...]) -> str:
    names = list(_fields_at(model, path[:-1]))
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
        return f"did you mean {near[0]!r}?" if near else f"valid keys here: {', '.join(names)}"
    if first["type"] == "literal_error":
        near = difflib.get_close_matches(str(first.get("input")), _quoted(str(first["msg"])), n=1)
        return f"did you mean {near[0]!r}?" if near else ""
    return ""


def _quoted(message: str) -> list[str]:
    return message.split("'")[1::2]


def _fields_at(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[str]:
    """Names of the fields of the config class that stands at `path`."""
    for part in path:
        field = model.model_fields.get(part)
        if field is None:
            return
        inner = inner_model(field)
        if inner is None:
            return
        model = inner
    yield from model.model_fields


def inner_model(field: FieldInfo) -> type[BaseModel] | None:
    """The config class that a field holds, also where it may be absent; None for plain values."""
    choices = (field.annotation, *getattr(field.annotation, "__args__", ()))
    return next((c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _line_of(text: str, path: tuple[str, ...]) -> int | None:
    """Line of a dotted key in TOML text; of its table where the key itself is absent."""
    table, best = "", None
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        header = re.fullmatch(r"\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?", stripped)
        if header:
            table = header[1]
            if table == ".".join(path) or (table and ".".join(path[:-1]) == table):
                best = number
        elif "=" in stripped:
            name = stripped.split("=", 1)[0].strip()
            full = f"{table}.{name}" if table else name
            if full == ".".join(path):
                return number
    return best


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """A TOML file as (data, text); a UsageError where it is missing or is not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None


def search_path(kind: str) -> tuple[Path, ...]:
    """Folders that hold configs of a kind: the user's own first, then the shipped ones."""
    folder = FOLDERS[kind]
    package = Path(str(resources.files("edgekd")))
    # In an installed wheel the shipped folders lie inside the package; in a checkout, beside it.
    shipped = package / "data" / folder
    return (Path.cwd() / folder, shipped if shipped.is_dir() else package.parent / folder)


def available(kind: str) -> dict[str, Path]:
    """Name -> file of every config of a kind, a user's own hiding a shipped one of the same name."""
    found: dict[str, Path] = {}
    for folder in search_path(kind):
        for path in sorted(folder.glob("*.toml")) if folder.is_dir() else ():
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find(kind: str, name: str) -> Path:
    """The file of a config by name or path; a UsageError names the nearest where there is none."""
    if name.endswith(".toml"):
        if Path(name).is_file():
            return Path(name)
        raise UsageError(f"{name}: no such file")
    known = available(kind)
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    raise UsageError(f"unknown {kind} {name!r}", hint=hint)


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe by name or path, with dotted overrides, made small where `smoke` is set."""
    path = find("recipe", name)
    data, text = read_toml(path)
    for key, value in (overrides or {}).items():
        override(data, key, value)
    recipe = build(Recipe, data, str(path), text)
    return recipe.smoked() if recipe.smoke else recipe


def load_target(name: str) -> Target:
    """A target profile by name or path."""
    path = find("target", name)
    data, text = read_toml(path)
    return build(Target, data, str(path), text)


def load_calibration(name: str) -> CalibrationPolicy:
    """A calibration policy by name or path."""
    path = find("calibration", name)
    data, text = read_toml(path)
    return build(CalibrationPolicy, data, str(path), text)


def parse_override(text: str) -> tuple[str, Any]:
    """`key=value` as (key, TOML value); a bare word is taken as a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text!r}: not of the form key=value")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def override(data: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key in nested tables, in place."""
    *tables, last = key.split(".")
    for table in tables:
        data = data.setdefault(table, {})
        if not isinstance(data, dict):
            raise UsageError(f"--set {key}: {table!r} is a value, not a table")
    data[last] = value
