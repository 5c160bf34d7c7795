"""The parts of report.json that its plots are drawn from: all bounded, whatever the run's size."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from edgekd.report.base_records import Count, Interval, Milliseconds, Record

QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
BINS = 40
MOST_CLASSES = 100
MOST_PAIRS = 30
MOST_LAYERS = 30


class ClassDrop(Record):
    """The test samples of one class: what the teacher and what the file got right."""

    class_index: Count = Field(description="its place in class_names")
    n: Annotated[int, Field(ge=1)]
    teacher_right: Count
    file_right: Count
    lost: Count = Field(description="negative flips: teacher right, file wrong")
    won: Count = Field(description="positive flips: teacher wrong, file right")
    drop_interval: Interval | None = Field(
        description="of the drop within the class, percentage points, two-sided at level 1 - 2 alpha "
        "(Tango); not corrected for the number of classes; null where samples come in clusters"
    )

    @property
    def drop_pp(self) -> float:
        """Accuracy lost on the class, percentage points."""
        return 100 * (self.lost - self.won) / self.n

    @model_validator(mode="after")
    def _counted(self) -> ClassDrop:
        if self.teacher_right - self.lost + self.won != self.file_right:
            raise ValueError(f"the counts of class {self.class_index} do not add up")
        return self


class ClassDrops(Record):
    """Drops by class, the largest first; what is left out is counted."""

    worst: tuple[ClassDrop, ...] = Field(max_length=MOST_CLASSES)
    left_out: Count = Field(description="further classes, none of which lost more")
    without_samples: Count = Field(description="classes that no test sample is of")


class FlipPair(Record):
    """Samples that the teacher calls one class and the file another."""

    teacher_class: Count
    file_class: Count
    n: Annotated[int, Field(ge=1)]
    lost: Count = Field(description="of them, those that the teacher has right")
    won: Count = Field(description="of them, those that the file has right; both are wrong on the others")

    @model_validator(mode="after")
    def _counted(self) -> FlipPair:
        if self.lost + self.won > self.n or self.teacher_class == self.file_class:
            raise ValueError(f"flips from {self.teacher_class} to {self.file_class} do not add up")
        return self


class Flips(Record):
    """Samples on which the file's answer is not the teacher's."""

    n: Count
    lost: Count
    won: Count
    pairs: tuple[FlipPair, ...] = Field(max_length=MOST_PAIRS, description="the most frequent first")
    other_pairs: Count = Field(description="further pairs of classes")
    other_n: Count = Field(description="samples of those")

    @model_validator(mode="after")
    def _counted(self) -> Flips:
        if sum(pair.n for pair in self.pairs) + self.other_n != self.n:
            raise ValueError(f"the pairs of classes do not make up the {self.n} samples that flipped")
        return self


class LatencyDistribution(Record):
    """How the timed runs of one measurement are spread.

    The bins are equal and lie between the Tukey fences (three interquartile ranges beyond the
    quartiles), so that a few stalls do not squeeze all others into one bin; what is outside is counted.
    """

    quantiles_ms: tuple[Milliseconds, ...] = Field(
        min_length=len(QUANTILES),
        max_length=len(QUANTILES),
        description=f"at {', '.join(map(str, QUANTILES))} percent",
    )
    low_ms: Milliseconds = Field(description="where the first bin begins")
    high_ms: Milliseconds = Field(description="where the last bin ends")
    counts: tuple[Count, ...] = Field(min_length=BINS, max_length=BINS, description="runs in each bin")
    below: Count = Field(description="runs faster than the first bin")
    above: Count = Field(description="runs slower than the last bin")

    @model_validator(mode="after")
    def _ordered(self) -> LatencyDistribution:
        if list(self.quantiles_ms) != sorted(self.quantiles_ms) or self.low_ms >= self.high_ms:
            raise ValueError("a latency distribution that is not in order")
        return self


class LayerBytes(Record):
    """Constants of one type that one operator of a file reads."""

    layer: str
    op_type: str
    dtype: str
    size_bytes: Count


class Contents(Record):
    """What the bytes of a file are: constants by layer and type, and all else."""

    layers: tuple[LayerBytes, ...] = Field(max_length=MOST_LAYERS, description="the largest first")
    other_layers: Count = Field(description="further entries of that kind")
    other_layers_bytes: Count
    by_dtype: dict[str, Count] = Field(description="bytes of all constants by type")
    graph_bytes: Count = Field(description="all else: operators, names, scales that are no constants")


class GallerySample(Record):
    """A test sample that some file answers otherwise than the teacher; only where the recipe asks for it."""

    sample_id: str
    label: Count
    teacher_class: Count
    answers: dict[str, Count] = Field(min_length=1, description="artifact id -> class, of files that differ")
    png_base64: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9+/]+={0,2}$", description="the image; null where it is none"
    )
    note: str = Field(default="", description="how the image was made, where it is not the sample itself")
    values: tuple[float, ...] = Field(default=(), description="the first of its values; empty for images")
    num_values: Count = Field(default=0, description="how many it has in all; 0 for images")


class Gallery(Record):
    """Samples that flipped."""

    samples: tuple[GallerySample, ...]
    flipped: Count = Field(description="samples that flipped in any file; the gallery has the first of them")
