"""The gallery: samples that flipped, as cards."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.report import words
from edgekd.report.schema import GallerySample, Report
from edgekd.report.sharing import class_name, shared


@dataclass(frozen=True)
class Card:
    """One sample; `image` is a data URI, "" where it is shown by its values."""

    sample_id: str
    image: str
    note: str
    values: str
    label: str
    teacher: str
    teacher_right: bool
    answers: tuple[tuple[str, str, bool], ...]


def cards(report: Report) -> tuple[Card, ...]:
    """Empty where the recipe did not ask for a gallery."""
    return tuple(_card(report, sample) for sample in report.gallery.samples) if report.gallery else ()


def _card(report: Report, sample: GallerySample) -> Card:
    names = report.class_names
    by_answer = shared(report.artifacts, lambda a: sample.answers.get(a.id))
    every = sum(a.role == "target" for a in report.artifacts)
    shown = ", ".join(f"{v:.4g}".replace("-", "−") for v in sample.values)
    more = sample.num_values - len(sample.values)
    return Card(
        sample_id=sample.sample_id,
        image=f"data:image/png;base64,{sample.png_base64}" if sample.png_base64 else "",
        note=sample.note,
        values=shown + (f" and {more:,} more" if more > 0 else ""),
        label=class_name(names, sample.label),
        teacher=class_name(names, sample.teacher_class),
        teacher_right=sample.teacher_class == sample.label,
        answers=tuple(
            (
                "Every file" if len(group.artifacts) == every > 1 else group.name,
                class_name(names, answer := sample.answers[group.first.id]),
                answer == sample.label,
            )
            for group in by_answer
        ),
    )


def gallery_said(report: Report) -> str:
    """How many flipped, and how many of them are shown."""
    if report.gallery is None:
        return ""
    shown, flipped = len(report.gallery.samples), report.gallery.flipped
    if not flipped:
        return "Every file gave the teacher’s answer on every sample."
    return (
        f"{shown:,} of {words.count(flipped, 'sample')} that some file answers otherwise than the "
        f"{words.baseline_name(report)}; those that most files lost come first."
    )
