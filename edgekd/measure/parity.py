"""Parity: does the exported file compute what the model it came from computes?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import ParityError
from edgekd.types import Parity

_STEPS = 255  # quantization steps across the output's range, 8 bits

MAX_ABS_FP32 = 1e-4
"""Largest error of fp32 files, times the output's range where that is above 1."""
MAX_ABS_FP16 = 1e-2
"""Largest error of fp16 files, as a fraction of the output's range."""
MEAN_STEPS_INT8 = 1.0
"""Largest mean error of int8 files, in quantization steps of the output, of models that do not move more."""
MOST_OWN_STEPS = 4.0
"""Largest limit that a model's own movement gives its file: what moves by more says little in 8 bits."""
MOST_OWN_SPREAD = 8.0
"""Steps within which two classes may come out either way round, at most."""
NUDGE = 1 / 256
"""Share of a step by which kernels in integers may be off before they round: biases are integers too."""
MIN_AGREEMENT_INT8 = 0.99
"""Smallest share of samples on which int8 files choose the same class."""


def output_range(reference: NDArray[Any]) -> float:
    """Largest minus smallest value of reference outputs (N, classes)."""
    return float(reference.max() - reference.min())


def parity(
    reference: NDArray[Any],
    outputs: Mapping[int, NDArray[Any]],
    scheme: str,
    columns: Sequence[slice] = (slice(None),),
    own_steps: float | None = None,
    own_spread: float | None = None,
) -> Parity:
    """How far a file's outputs are from the reference's.

    Args:
        reference: outputs (N, classes) of the model that was exported.
        outputs: batch size -> the file's outputs (N, classes) on the same inputs.
        scheme: the file's scheme; int8 ones get their error in quantization steps too.
        columns: of each head of a task with several: each has a class of its own.
        own_steps: of int8: by how many the model itself moves, in the mean, where each value is nudged
            by up to `NUDGE` of a step before it is rounded; None where that is not known.
        own_spread: the same of the hundredth that moves most: classes so near may come out either way round.

    Raises:
        ParityError: outputs are of another shape, or hold NaN or infinity.
    """
    expected = np.asarray(reference, np.float64)
    if not outputs or expected.size == 0:
        raise ParityError("parity needs outputs of at least one sample at one batch size")
    step = output_range(expected) / _STEPS
    # On an 8-bit grid two classes within one step of each other may come out either way round:
    # which of them wins is rounding. Anywhere else, and for float files, the class must be the same.
    near = max(_limit(own_steps), min(own_spread or 0.0, MOST_OWN_SPREAD))
    slack = step * near if _is_int8(scheme) else 0.0
    errors, agreements = [], []
    for size, values in outputs.items():
        if values.shape != expected.shape:
            raise ParityError(
                f"at batch size {size} the file gives shape {values.shape}, not {expected.shape}"
            )
        if not np.isfinite(values).all():
            raise ParityError(f"at batch size {size} the file gives NaN or infinity")
        errors.append(np.abs(np.asarray(values, np.float64) - expected))
        for head in columns:
            own = expected[:, head]
            chosen = np.take_along_axis(own, values[:, head].argmax(axis=1)[:, None], axis=1)[:, 0]
            agreements.append(float(np.mean(chosen >= own.max(axis=1) - slack)))
    # The worst batch size counts: an error that shows at one of them is an error.
    mean_abs = max(float(error.mean()) for error in errors)
    return Parity(
        num_samples=len(expected),
        batch_sizes=tuple(outputs),
        max_abs=max(float(error.max()) for error in errors),
        mean_abs=mean_abs,
        mean_steps=(mean_abs / step if step else float("inf")) if _is_int8(scheme) else None,
        argmax_agreement=min(agreements),
        own_steps=own_steps,
    )


def steps_between(reference: NDArray[Any], other: NDArray[Any]) -> tuple[float, float]:
    """Absolute difference of outputs (N, classes), in quantization steps of the reference's output.

    Returns the mean, and what the hundredth is off by that is off most.
    """
    expected = np.asarray(reference, np.float64)
    step = output_range(expected) / _STEPS
    if not step:
        return float("inf"), float("inf")
    off = np.abs(other - expected) / step
    return float(off.mean()), float(np.quantile(off, 0.99))


def check_parity(
    found: Parity, scheme: str, output_range: float, *, locate: Callable[[], str] | None = None
) -> None:
    """Does nothing where the file is close enough to its model for its scheme.

    Args:
        found: as measured by `parity`.
        scheme: the file's scheme.
        output_range: of the reference outputs (`output_range`).
        locate: asked, only on failure, which tensor departs first.

    Raises:
        ParityError: with the error, the limit, and what `locate` said.
    """
    complaint = complaint_of(found, scheme, output_range)
    if complaint:
        where = f"; {locate()}" if locate else ""
        sizes = " and ".join(str(size) for size in found.batch_sizes)
        raise ParityError(
            f"the {scheme} file does not compute what its model does: {complaint} "
            f"({found.num_samples} samples, batch sizes {sizes}){where}"
        )


def complaint_of(found: Parity, scheme: str, span: float) -> str:
    """In what a file's outputs are too far off for its scheme, with the limit; nothing where they are not.

    Args:
        found: as measured by `parity`.
        scheme: the file's scheme.
        span: of the reference outputs (`output_range`).
    """
    if _is_int8(scheme):
        steps = float("inf") if found.mean_steps is None else found.mean_steps
        limit, own = _limit(found.own_steps), found.own_steps
        if not steps <= limit:
            moves = "" if own is None else f", its model moves by {own:.3g} where all is nudged a little"
            return f"mean error {steps:.3g} output steps, limit {limit:.3g}{moves}"
        if not found.argmax_agreement >= MIN_AGREEMENT_INT8:
            return f"same class on {found.argmax_agreement:.2%} of samples, limit {MIN_AGREEMENT_INT8:.0%}"
        return ""
    limit = MAX_ABS_FP16 * span if scheme == "fp16" else MAX_ABS_FP32 * max(1.0, span)
    if not found.max_abs <= limit:  # also where it is NaN
        return f"largest error {found.max_abs:.3g}, limit {limit:.3g}"
    return ""


def _limit(own_steps: float | None) -> float:
    """Steps that an int8 file may be off by in the mean, of a model that moves by `own_steps` itself."""
    return MEAN_STEPS_INT8 if own_steps is None else max(MEAN_STEPS_INT8, min(own_steps, MOST_OWN_STEPS))


def _is_int8(scheme: str) -> bool:
    return "wi8" in scheme
