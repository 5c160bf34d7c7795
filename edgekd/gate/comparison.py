"""Two classifiers on the same samples, counted where they differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import DataError, UsageError
from edgekd.gate import statistics
from edgekd.gate.drops import clustered_interval
from edgekd.gate.pairing import Pair, pair
from edgekd.types import ACCURACY, Drop, Predictions


@dataclass(frozen=True)
class Comparison:
    """Teacher and candidate on the same samples. Rates are fractions, `drop` is in percent and pp.

    Attributes:
        b: samples that the teacher has right and the candidate wrong.
        c: samples that the candidate has right and the teacher wrong.
        n: samples.
        drop: accuracy lost, with its interval at level 1 - 2 alpha: Tango's, or of a bootstrap of clusters.
        agreement: share of samples on which both give the same class.
        negative_flip_rate: b / n (Yan et al., CVPR 2021).
        kl_divergence: of the candidate's class probabilities from the teacher's, nats, mean over the
            samples; both scores are logits. Shown, never judged by.
        alpha: one-sided level of the bounds above.
    """

    b: int
    c: int
    n: int
    drop: Drop
    agreement: float
    negative_flip_rate: float
    kl_divergence: float
    alpha: float


def compare(
    teacher: Predictions,
    candidate: Predictions,
    margin_pp: float | None,
    alpha: float,
    cluster: str | None = None,
) -> Comparison:
    """Pair the predictions of two models by sample id and count where they differ.

    Args:
        teacher: the baseline.
        candidate: the shipped file; the same samples in any order.
        margin_pp: written into the drop for the report; None where there is none.
        alpha: one-sided level of the bounds.
        cluster: the column of what samples come in, which are then drawn together.

    Raises:
        DataError: ids missing, extra or twice, labels that differ or are no class,
            scores that are not finite, shapes that do not fit, no samples, no such column.
        UsageError: margin or alpha out of range.
    """
    if margin_pp is not None and not 0 < margin_pp < 100:
        raise UsageError(f"margin_pp {margin_pp!r} is not between 0 and 100")
    for who, scores in (("teacher", teacher.scores), ("candidate", candidate.scores)):
        if scores.ndim != 2 or scores.shape[1] < 2:
            raise DataError(
                f"{who}: scores {scores.shape} do not fit", hint="(N, classes), at least two classes"
            )
    found = pair(teacher, candidate)
    left, right, n = found.teacher, found.candidate, len(found)
    b = int(np.sum(left.correct & ~right.correct))
    c = int(np.sum(~left.correct & right.correct))
    return Comparison(
        b=b,
        c=c,
        n=n,
        drop=Drop(
            metric=ACCURACY,
            teacher=100 * float(left.correct.mean()),
            value=100 * float(right.correct.mean()),
            drop=100 * (b - c) / n,
            interval=_interval(found, alpha, cluster, b, c),
            margin=margin_pp,
        ),
        agreement=float(np.mean(left.scores.argmax(axis=1) == right.scores.argmax(axis=1))),
        negative_flip_rate=b / n,
        kl_divergence=_kl_divergence(left.scores, right.scores),
        alpha=alpha,
    )


def _interval(found: Pair, alpha: float, cluster: str | None, b: int, c: int) -> tuple[float, float] | None:
    """Of the drop, percentage points."""
    if cluster is not None:
        ends = clustered_interval(found, cluster, alpha)
    else:
        ends = statistics.tango_interval(b, c, len(found), 1 - 2 * alpha)
    return None if ends is None else (100 * ends[0], 100 * ends[1])


def _kl_divergence(teacher: NDArray[Any], candidate: NDArray[Any]) -> float:
    logits = (scores.astype(np.float64) for scores in (teacher, candidate))
    p, q = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in logits)
    return float(np.mean(np.sum(np.exp(p) * (p - q), axis=1)))
