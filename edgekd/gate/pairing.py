"""Pairing: two models on the same samples, in the same order.

Anything that does not pair up exactly is an error: a gate that quietly judged
by the samples in common could pass on the easy ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import DataError, nearest
from edgekd.types import SAMPLE, Column, Predictions


@dataclass(frozen=True)
class Pair:
    """Teacher and candidate on the same samples, sample by sample."""

    teacher: Predictions
    candidate: Predictions

    def __len__(self) -> int:
        return len(self.teacher.labels)

    def column(self, name: str) -> Column:
        """What one column says of the samples.

        Raises:
            DataError: neither file has it.
        """
        if name == SAMPLE:
            return Column(np.arange(len(self)), tuple(str(i) for i in self.teacher.sample_ids))
        columns = {**self.candidate.columns, **self.teacher.columns}
        if name not in columns:
            raise DataError(
                f"the predictions have no column {name!r}",
                hint=nearest(name, columns, f"columns: {', '.join(columns) or 'none'}"),
            )
        return columns[name]

    def where(self, mask: NDArray[np.bool_]) -> Pair:
        """The samples of a slice."""
        return Pair(_at(self.teacher, mask), _at(self.candidate, mask))


def _at(predictions: Predictions, which: NDArray[Any]) -> Predictions:
    """The samples at these places, or where a mask is true."""
    return Predictions(
        predictions.sample_ids[which],
        predictions.labels[which],
        predictions.scores[which],
        {name: replace(column, codes=column.codes[which]) for name, column in predictions.columns.items()},
        None if predictions.said is None else predictions.said[which],
        None if predictions.vectors is None else predictions.vectors[which],
    )


def pair(teacher: Predictions, candidate: Predictions) -> Pair:
    """Both in one order, once they are known to be of the same samples.

    Raises:
        DataError: ids missing, extra or twice, labels or columns that differ, scores that are not finite,
            shapes that do not fit, no samples.
    """
    for who, predictions in (("teacher", teacher), ("candidate", candidate)):
        _check(who, predictions)
    if teacher.said is candidate.said is None and teacher.scores.shape[1] != candidate.scores.shape[1]:
        raise DataError(
            f"teacher scores {teacher.scores.shape[1]} classes, candidate {candidate.scores.shape[1]}"
        )
    widths = [None if p.vectors is None else p.vectors.shape[1] for p in (teacher, candidate)]
    if None in widths and widths != [None, None]:
        raise DataError(f"{'teacher' if widths[0] is None else 'candidate'} has no vectors, the other has")
    left, right = teacher, candidate
    if not np.array_equal(teacher.sample_ids, candidate.sample_ids):
        _refuse("candidate lacks samples", np.setdiff1d(teacher.sample_ids, candidate.sample_ids))
        _refuse(
            "candidate has samples unknown to the teacher",
            np.setdiff1d(candidate.sample_ids, teacher.sample_ids),
        )
        left, right = (_at(p, np.argsort(p.sample_ids)) for p in (teacher, candidate))
    _refuse("teacher and candidate have other labels", left.sample_ids[left.labels != right.labels])
    for name in left.columns.keys() & right.columns.keys():
        one, other = left.columns[name], right.columns[name]
        place = {text: code for code, text in enumerate(other.values)}
        different = np.array([place.get(text, -1) for text in one.values])[one.codes] != other.codes
        _refuse(f"teacher and candidate differ in column {name!r}", left.sample_ids[different])
    return Pair(left, right)


def _check(who: str, predictions: Predictions) -> None:
    ids, labels, scores = predictions.sample_ids, predictions.labels, predictions.scores
    known = predictions.said is not None
    if len(ids) == 0:
        raise DataError(f"{who}: no samples to judge by")
    if (
        scores.ndim != 2
        or labels.shape != (len(ids),)
        or len(scores) != len(ids)
        or not scores.shape[1] + known
    ):
        raise DataError(
            f"{who}: {len(ids)} ids, labels {labels.shape} and scores {scores.shape} do not fit",
            hint="labels (N,), scores (N, classes)",
        )
    if len(set(ids.tolist())) != len(ids):
        unique, counts = np.unique(ids, return_counts=True)
        _refuse(f"{who}: sample ids that stand twice", unique[counts > 1])
    _refuse(f"{who}: scores that are not finite", ids[~np.isfinite(scores).all(axis=1)])
    _refuse(f"{who}: labels that are not finite", ids[~np.isfinite(labels)])
    vectors = predictions.vectors
    if vectors is not None:
        if vectors.ndim != 2 or len(vectors) != len(ids) or not vectors.shape[1]:
            raise DataError(f"{who}: vectors {vectors.shape} of {len(ids)} samples", hint="(N, width)")
        _refuse(f"{who}: vectors that are not finite", ids[~np.isfinite(vectors).all(axis=1)])
    if scores.shape[1] > 1:  # of classes
        if not np.issubdtype(labels.dtype, np.integer):
            raise DataError(f"{who}: labels are {labels.dtype}, not whole numbers")
        _refuse(
            f"{who}: labels that are no class of the scores", ids[(labels < 0) | (labels >= scores.shape[1])]
        )


def _refuse(what: str, ids: NDArray[np.str_]) -> None:
    if len(ids):
        first = ", ".join(str(i) for i in ids[:3])
        raise DataError(f"{what}: {len(ids)}, first {first}", hint="both must be run on the same split")
