"""What a target and a calibration policy hold, field by field; `config.py` reads them from files."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from edgekd.fields import Positive, Strict
from edgekd.gate_settings import BudgetConfig, TargetGateConfig

SchemeName = Literal["static_wi8_ai8", "dynamic_wi8_afp32", "weight_only_wi8_afp32", "fp16", "fp32"]
GPUS = ("gpu", "gpu-fp32", "cuda")


class Processor(Strict):
    """The processor that a target stands for, and how to tell that this computer is one."""

    isa: Literal["any", "x86_64", "aarch64"] = Field(
        description="instruction set; any: whatever runs the tool"
    )
    features: tuple[str, ...] = Field(
        default=(), strict=False, description="/proc/cpuinfo names that it must have"
    )
    board: str | None = Field(
        default=None,
        description="text that the device tree's model must hold, of a phone: Android and its model",
    )
    cores: Positive | None = Field(default=None, description="cores of the kind that runs the model")
    description: str = Field(default="", description="for people")


class RuntimeConfig(Strict):
    """What runs the file on the target."""

    name: Literal["litert", "onnxruntime"] = Field(description="runtime")
    delegate: Literal["cpu", "xnnpack", "gpu", "gpu-fp32", "cuda"] = Field(
        description="backend inside the runtime; gpu: in the runtime's own precision, gpu-fp32: in float32 "
        "(litert), cuda: NVIDIA's GPUs (onnxruntime)"
    )
    num_threads: Positive = Field(default=1, description="threads for inference")

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU runs the file."""
        return self.delegate in GPUS

    @model_validator(mode="after")
    def _has_delegate(self) -> RuntimeConfig:
        only = {"gpu-fp32": "litert", "cuda": "onnxruntime"}.get(self.delegate, self.name)
        if only != self.name:
            raise ValueError(f"delegate {self.delegate} is one of {only}'s, not of {self.name}'s")
        return self


class EmissionConfig(Strict):
    """How the file is written for the target."""

    format: Literal["onnx", "tflite"] = Field(description="file format")
    scheme: SchemeName = Field(description="quantization scheme")
    activation_signedness: Literal["signed", "unsigned"] = Field(
        default="signed", description="of int8 activations: unsigned for x86 ONNX, signed for Arm and TFLite"
    )
    layout: Literal["NHWC", "NCHW"] = Field(description="layout of image inputs in the file")
    channel_multiple: Positive = Field(
        default=8, description="pruned widths are multiples of this (goals that are counted)"
    )
    unavailable_ops: tuple[str, ...] = Field(
        default=(), strict=False, description="operators that the target cannot run"
    )


class ProtocolConfig(Strict):
    """How latency is measured (see measurements.Protocol)."""

    warmup_runs: Positive = Field(default=10, description="runs before the first timed one")
    min_runs: int = Field(default=100, ge=100, description="timed runs in all")
    min_seconds: float = Field(default=1.0, ge=1, description="timed seconds in all")
    num_processes: int = Field(default=3, ge=1, description="fresh processes")
    cooldown_s: float = Field(default=1.0, ge=0, description="pause before each process but the first")
    cores: tuple[int, ...] = Field(
        default=(),
        strict=False,
        description="cores that the processes keep to; none: all they are given",
    )


class PeakConfig(Strict):
    """Peak rates of one core, its memory and its caches, for the roofline, with their source.

    With too low a rate, or too small a cache, the bound is none: where in doubt, the larger number.
    """

    fp32_gflops: float = Field(gt=0, description="float32, one core")
    fp16_gflops: float | None = Field(
        default=None, gt=0, description="float16, one core; none: it has no arithmetic faster than float32's"
    )
    int8_gops: float = Field(gt=0, description="int8, one core")
    memory_gb_per_s: float = Field(gt=0, description="memory bandwidth, of all cores together")
    cache_mb: float = Field(
        ge=0,
        description="all caches that a core's data may lie in, millions of bytes: from there they come free",
    )
    source: str = Field(min_length=1, description="where the numbers come from")


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
    gate: TargetGateConfig = Field(
        default=TargetGateConfig(), description="what its file is held to, in place of the recipe's gate"
    )
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
        if reads == "tflite" and self.artifact.activation_signedness != "signed":
            raise ValueError("TFLite activations are signed: artifact.activation_signedness must be too")
        if self.name.startswith("export-"):
            raise ValueError("names that begin with export- are those of the float references")
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
