"""The frozen values that pass between stages.

Units stand in the names: `latency_ms`, `size_bytes`, `drop_pp` (percentage
points, for proportions only). Nothing here imports torch, so the release half
of the tool (measure, report, gate) stays light.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import DataError

Direction = Literal["higher", "lower"]
Format = Literal["onnx", "tflite"]


@dataclass(frozen=True)
class Metric:
    """A quality figure of a model: its name, which way is better, its unit."""

    name: str
    direction: Direction
    unit: str


ACCURACY = Metric("accuracy", "higher", "percent")
# As the column of queries: every sample is a list, whose items are the outputs; the label is the wanted one.
SAMPLE = "sample_id"
# As the head of a loss: the vector that a network gives of a sample.
VECTOR = "vector"


@dataclass(frozen=True)
class InputSpec:
    """What a model is fed, and how raw samples become that.

    `model_input = (raw / scale - mean) / std`, with mean and std one value a
    channel (images) or a feature (tables). Ids (of words, users, items) are fed as they are, in int32.

    Attributes:
        name: input tensor's name in the artifact.
        shape: one sample as the torch model takes it, without batch: (C, H, W) or (F,).
        layout: "NCHW" or "NC", the layout of `shape`.
        raw_dtype: dtype of raw samples: "uint8", "float32", or "int32" of ids.
        raw_range: smallest and largest raw value; of ids, those that a network must have a place for.
        scale: what raw values are divided by; 1 of ids.
        mean: subtracted after scaling; length C or F, () of ids.
        std: divided by last; length C or F, () of ids.
    """

    name: str
    shape: tuple[int, ...]
    layout: Literal["NCHW", "NC"]
    raw_dtype: Literal["uint8", "float32", "int32"]
    raw_range: tuple[float, float]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def of_ids(self) -> bool:
        """Whether samples are ids, which no arithmetic is done with."""
        return self.raw_dtype == "int32"

    def preprocess(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Raw samples (N, *shape) to model inputs (N, *shape), float32; int32 of ids."""
        if self.of_ids:
            return np.array(raw, np.int32, order="C")  # a copy: the store's files are read-only
        along = (1, -1) + (1,) * (len(self.shape) - 1)
        mean = np.asarray(self.mean, np.float32).reshape(along)
        std = np.asarray(self.std, np.float32).reshape(along)
        scaled = np.asarray(raw, np.float32) / np.float32(self.scale)
        return np.ascontiguousarray((scaled - mean) / std, np.float32)


@dataclass(frozen=True)
class Split:
    """One split of a task, raw: `inputs` (N, *shape), `labels` (N,) int64 or None, `ids` (N,) str.

    `modalities` has further inputs of the same samples by name, each (N, *its own shape): what a teacher may
    look at in place of `inputs`. `head_labels` has the labels (N,) int64 of the task's further heads; under
    `VECTOR`, where networks give vectors, equal numbers for samples that are the same thing.
    `columns` has texts (N,) by name: what the gate may slice by, or what samples come in (users, scenes).
    """

    name: str
    ids: NDArray[np.str_]
    inputs: NDArray[Any]
    labels: NDArray[np.int64] | None
    modalities: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    head_labels: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    columns: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Task:
    """Data, metric and preprocessing of one problem. Splits: train, val, test, (unlabelled).

    A network may answer further questions about a sample: `heads` has the class names of each, and
    its logits stand behind those of `class_names`, in this order, in one output. What is judged is the first.

    It may also say where a sample lies among others: `vector` numbers, whose angles tell what is alike, stand
    right behind the logits of `class_names`, and are judged too.
    """

    name: str
    splits: Mapping[str, Split]
    metrics: tuple[Metric, ...]
    input_spec: InputSpec
    class_names: tuple[str, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)  # duplicates counted, samples dropped
    modalities: Mapping[str, InputSpec] = field(default_factory=dict)  # of each split's, by name
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    table: Mapping[str, Any] | None = None  # how a row becomes inputs, of a table: see `table_rows`
    files: Mapping[str, str] = field(default_factory=dict)  # name -> text: what an app needs beside a model
    vector: int = 0  # width; 0: networks give none

    def seen_as(self, modality: str) -> Task:
        """The same task where `inputs` are those of a modality."""
        splits = {
            name: replace(split, inputs=split.modalities[modality], modalities={})
            for name, split in self.splits.items()
        }
        return replace(self, splits=splits, input_spec=self.modalities[modality], modalities={})

    @property
    def num_classes(self) -> int:
        """Number of classes that are judged: of the first outputs of a model."""
        return len(self.class_names)

    @property
    def num_judged(self) -> int:
        """Number of outputs, the first ones, that are judged: classes and vector."""
        return self.num_classes + self.vector

    @property
    def num_outputs(self) -> int:
        """Number of outputs of a model: of all heads together."""
        return self.num_judged + sum(len(names) for names in self.heads.values())

    @property
    def columns(self) -> Mapping[str, slice]:
        """Where the logits of each head stand; those of `class_names` have the name ""."""
        found, at = {"": slice(0, self.num_classes)}, self.num_judged
        for head, names in self.heads.items():
            found[head] = slice(at, at + len(names))
            at += len(names)
        return found

    @property
    def parts(self) -> Mapping[str, slice]:
        """As `columns`, and where the vector stands, if there is one."""
        vector = {VECTOR: slice(self.num_classes, self.num_judged)} if self.vector else {}
        return {**self.columns, **vector}


@dataclass(frozen=True)
class File:
    """A file on disk with its checksum."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Artifact:
    """What is shipped: one or several files in one format and scheme.

    `id` is unique in a run, for example `android-cpu`, or `teacher-tflite-fp32`
    for the float references measured beside it.
    """

    id: str
    files: tuple[File, ...]
    format: Format
    scheme: str
    input_spec: InputSpec
    class_names: tuple[str, ...]
    num_outputs: int | None = None  # where a file gives more than one a class: of all heads

    @property
    def path(self) -> Path:
        """The model file itself (the first file)."""
        return self.files[0].path

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(f.size_bytes for f in self.files)


@dataclass(frozen=True)
class Operator:
    """One operator of an artifact, with the type that its main input has when it runs."""

    name: str
    op_type: str
    dtype: str


@dataclass(frozen=True)
class Inventory:
    """The operators of a file by type and precision, as the runtime will run them.

    Only operators that compute (convolution, matmul, add, pool, activation ...)
    count as int8 or float; conversions, reshapes and other moves of data do not.
    """

    operators: tuple[Operator, ...]
    int8_ops: int
    float_ops: int

    @property
    def int8_share(self) -> float:
        """int8 operators over computing operators; 0 where nothing computes."""
        total = self.int8_ops + self.float_ops
        return self.int8_ops / total if total else 0.0


@dataclass(frozen=True)
class Parity:
    """How far a file's outputs are from those of the model it was exported from.

    `mean_steps` is the mean absolute error in quantization steps of the output
    (output range / 255 for int8), None for float files. `own_steps` is by how many the model itself moves
    where each value is nudged a little before it is rounded, None where that was not asked.
    `argmax_agreement` is the share of samples whose class is the model's best, or, where the file is int8,
    within one step of it, or within `own_steps`.
    """

    num_samples: int
    batch_sizes: tuple[int, ...]
    max_abs: float
    mean_abs: float
    mean_steps: float | None
    argmax_agreement: float
    own_steps: float | None = None


@dataclass(frozen=True)
class Column:
    """What is known of each sample besides its label: a slice, a query, a user.

    Attributes:
        codes: (N,), places in `values`.
        values: the different texts, each once.
    """

    codes: NDArray[np.int64]
    values: tuple[str, ...]

    @property
    def texts(self) -> NDArray[np.str_]:
        """(N,), the text of each sample."""
        return np.asarray(self.values)[self.codes]


@dataclass(frozen=True)
class Predictions:
    """Per-sample outputs of one model on one split: everything that the gate needs.

    Shapes: `sample_ids` (N,) str; `labels` (N,) int64, or float64 where a value is predicted or items are
    ranked; `scores` (N, classes) floats, or (N, 1). `columns` has further columns by name. Where only the
    class is known that a model gave, it is `said` (N,) int64, and `scores` are (N, 0). `vectors` (N, width)
    are of models that give some.
    """

    sample_ids: NDArray[np.str_]
    labels: NDArray[Any]
    scores: NDArray[Any]
    columns: Mapping[str, Column] = field(default_factory=dict)
    said: NDArray[np.int64] | None = None
    vectors: NDArray[Any] | None = None

    @property
    def answers(self) -> NDArray[np.int64]:
        """The class of the highest score (the first of equal ones), one a sample."""
        if self.said is None and self.scores.shape[1] == 1:
            raise DataError(
                "one score tells no class without a threshold", hint="prediction, or score_0 and score_1"
            )
        return self.said if self.said is not None else np.asarray(self.scores.argmax(axis=1), np.int64)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the answer is the label, one a sample."""
        return np.asarray(self.answers == self.labels)


class Status(StrEnum):
    """What a check says. Only PASS and NOT_APPLICABLE let a release through."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_APPLICABLE = "NOT_APPLICABLE"


@dataclass(frozen=True)
class Drop:
    """The loss of one metric against the teacher on the same samples.

    For accuracy: values in percent, drop and interval in percentage points; a
    positive drop is a loss. `interval` is two-sided at level 1 - 2 alpha, so its
    upper end is the one-sided bound that the gate judges by; None of too few clusters to tell.
    """

    metric: Metric
    teacher: float
    value: float
    drop: float
    interval: tuple[float, float] | None
    margin: float | None


@dataclass(frozen=True)
class Check:
    """One question of the gate, with its answer. `observed` and `limit` are in `unit`.

    `slice` is the column and the value of the samples that it is of; None: of all.
    """

    name: str
    target: str
    observed: float | None
    limit: float | None
    unit: str
    status: Status
    detail: str
    slice: tuple[str, str] | None = None


@dataclass(frozen=True)
class Verdict:
    """The gate's answer: overall status and every check that led to it."""

    status: Status
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0 PASS, 1 FAIL, 3 INCONCLUSIVE, for a release pipeline."""
        return {Status.PASS: 0, Status.FAIL: 1}.get(self.status, 3)
