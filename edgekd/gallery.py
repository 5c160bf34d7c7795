"""The test samples that flipped, to look at: in a report only where its recipe asks for them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import DataError
from edgekd.report.schema import Gallery, GallerySample, Report
from edgekd.stored import read_predictions, read_teacher
from edgekd.types import InputSpec, Predictions, Split, Task

LARGEST_SIDE = 96  # pixels; larger images are made smaller
MOST_VALUES = 12
MOST_CHANNELS = 8


def with_gallery(report: Report, folder: Path, task: Task, most: int) -> Report:
    """The report with the first `most` samples that flipped in any file; unchanged for none.

    Those that most files lost come first, then those that most files answer otherwise, then by id.

    Args:
        report: whose predictions lie in `folder`.
        folder: the report's.
        task: whose test split was judged.
        most: samples.

    Raises:
        DataError: predictions that are missing, changed or of other samples.
    """
    if most == 0:
        return report
    test = task.splits["test"]
    teacher = _of(read_teacher(report, folder), test)
    answers = {
        a.id: _of(read_predictions(a.predictions, folder), test).answers
        for a in report.artifacts
        if a.role == "target" and a.predictions is not None
    }
    changed = np.sum([found != teacher.answers for found in answers.values()], axis=0)
    lost = np.where(teacher.correct, changed, 0)
    flipped = np.flatnonzero(changed)
    order = flipped[np.lexsort((test.ids[flipped], -changed[flipped], -lost[flipped]))]
    samples = tuple(
        GallerySample(
            sample_id=str(test.ids[at]),
            label=int(teacher.labels[at]),
            teacher_class=int(teacher.answers[at]),
            answers={
                name: int(found[at]) for name, found in answers.items() if found[at] != teacher.answers[at]
            },
            **_shown(np.asarray(test.inputs[at]), task.input_spec),
        )
        for at in order[:most]
    )
    return report.model_copy(update={"gallery": Gallery(samples=samples, flipped=len(flipped))})


def _of(found: Predictions, test: Split) -> Predictions:
    if not np.array_equal(found.sample_ids, test.ids):
        raise DataError("stored predictions are not of this task's test split, in its order")
    return found


def _shown(raw: NDArray[np.generic], spec: InputSpec) -> dict[str, Any]:
    """A sample as a small PNG where it is an image, else its first values."""
    from PIL import Image  # an extra: a report without pictures is written without it

    if spec.layout == "NC":
        flat = np.asarray(raw, np.float64).ravel()
        return {"values": tuple(flat[:MOST_VALUES].tolist()), "num_values": len(flat)}
    low, high = spec.raw_range
    pixels = np.clip((np.asarray(raw, np.float64) - low) / ((high - low) or 1.0), 0, 1)
    levels, notes = np.rint(255 * pixels).astype(np.uint8), []
    if len(levels) == 3:
        image = Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)))
    else:  # whatever the channels mean, each is seen
        image = Image.fromarray(np.concatenate(levels[:MOST_CHANNELS], axis=1))
        if len(levels) > 1:
            notes.append(f"{min(len(levels), MOST_CHANNELS)} of {len(levels)} channels side by side")
    if max(image.size) > LARGEST_SIDE:
        notes.append(f"made smaller, from {image.width} × {image.height}")
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return {"png_base64": base64.b64encode(file.getvalue()).decode(), "note": ", ".join(notes)}
