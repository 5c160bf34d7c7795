"""Pairing: two models on the same samples, counted where they differ.

Anything that does not pair up exactly is an error: a gate that quietly judged
by the samples in common could pass on the easy ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekd.errors import DataError, UsageError
from edgekd.gate import statistics
from edgekd.types import ACCURACY, Drop, Predictions


@dataclass(frozen=True)
class Comparison:
    """Teacher and candidate on the same samples. Rates are fractions, `drop` is in percent and pp.

    Attributes:
        b: samples that the teacher has right and the candidate wrong.
        c: samples that the candidate has right and the teacher wrong.
        n: samples.
        drop: accuracy lost, with Tango's interval at level 1 - 2 alpha.
        agreement: share of samples on which both give the same class.
        negative_flip_rate: b / n (Yan et al., CVPR 2021).
        alpha: one-sided level of the bounds above.
    """

    b: int
    c: int
    n: int
    drop: Drop
    agreement: float
    negative_flip_rate: float
    alpha: float


def compare(
    teacher: Predictions, candidate: Predictions, margin_pp: float | None, alpha: float
) -> Comparison:
    """Pair the predictions of two models by sample id and count where they differ.

    Args:
        teacher: the baseline.
        candidate: the shipped file; the same samples in any order.
        margin_pp: written into the drop for the report; None where there is none.
        alpha: one-sided level of the bounds.

    Raises:
        DataError: ids missing, extra or twice, labels that differ or are no class,
            scores that are not finite, shapes that do not fit, no samples.
        UsageError: margin or alpha out of range.
    """
    if margin_pp is not None and not 0 < margin_pp < 100:
        raise UsageError(f"margin_pp {margin_pp!r} is not between 0 and 100")
    for who, predictions in (("teacher", teacher), ("candidate", candidate)):
        _check_predictions(who, predictions)
    left, right = _aligned(teacher, candidate)
    n = len(left.labels)
    b = int(np.sum(left.correct & ~right.correct))
    c = int(np.sum(~left.correct & right.correct))
    low, high = statistics.tango_interval(b, c, n, 1 - 2 * alpha)
    return Comparison(
        b=b,
        c=c,
        n=n,
        drop=Drop(
            metric=ACCURACY,
            teacher=100 * float(left.correct.mean()),
            value=100 * float(right.correct.mean()),
            drop=100 * (b - c) / n,
            interval=(100 * low, 100 * high),
            margin=margin_pp,
        ),
        agreement=float(np.mean(left.scores.argmax(axis=1) == right.scores.argmax(axis=1))),
        negative_flip_rate=b / n,
        alpha=alpha,
    )


def _check_predictions(who: str, predictions: Predictions) -> None:
    ids, labels, scores = predictions.sample_ids, predictions.labels, predictions.scores
    if len(ids) == 0:
        raise DataError(f"{who}: no samples to judge by")
    if scores.ndim != 2 or labels.shape != (len(ids),) or len(scores) != len(ids) or scores.shape[1] < 2:
        raise DataError(
            f"{who}: {len(ids)} ids, labels {labels.shape} and scores {scores.shape} do not fit",
            hint="labels (N,), scores (N, classes), at least two classes",
        )
    unique, counts = np.unique(ids, return_counts=True)
    _refuse(f"{who}: sample ids that stand twice", unique[counts > 1])
    _refuse(f"{who}: scores that are not finite", ids[~np.isfinite(scores).all(axis=1)])
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{who}: labels are {labels.dtype}, not whole numbers")
    _refuse(f"{who}: labels that are no class of the scores", ids[(labels < 0) | (labels >= scores.shape[1])])


def _aligned(teacher: Predictions, candidate: Predictions) -> tuple[Predictions, Predictions]:
    """Both in the order of their sample ids, once they are known to be the same samples."""
    _refuse("candidate lacks samples", np.setdiff1d(teacher.sample_ids, candidate.sample_ids))
    _refuse(
        "candidate has samples unknown to the teacher", np.setdiff1d(candidate.sample_ids, teacher.sample_ids)
    )
    if teacher.scores.shape != candidate.scores.shape:
        raise DataError(
            f"teacher scores {teacher.scores.shape[1]} classes, candidate {candidate.scores.shape[1]}"
        )
    left, right = _by_id(teacher), _by_id(candidate)
    _refuse("teacher and candidate have other labels", left.sample_ids[left.labels != right.labels])
    return left, right


def _by_id(predictions: Predictions) -> Predictions:
    order = np.argsort(predictions.sample_ids)
    return Predictions(predictions.sample_ids[order], predictions.labels[order], predictions.scores[order])


def _refuse(what: str, ids: np.ndarray[tuple[int, ...], np.dtype[np.str_]]) -> None:
    if len(ids):
        first = ", ".join(str(i) for i in ids[:3])
        raise DataError(f"{what}: {len(ids)}, first {first}", hint="both must be run on the same split")
