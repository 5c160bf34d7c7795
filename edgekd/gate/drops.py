"""The drop of any metric on paired samples, with what it shows about a margin."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from edgekd.errors import DataError, UsageError
from edgekd.gate import auc, bootstrap, metrics
from edgekd.gate.bootstrap import Floats
from edgekd.gate.evidence import Estimate, Evidence, by_counts, by_estimate
from edgekd.gate.pairing import Pair
from edgekd.types import ACCURACY, Column, Metric, Status

SEED = 0
# Below these a bootstrap passes models at the margin in clearly more than alpha of all cases.
MIN_UNITS, MIN_CLUSTERS = 200, 30


class TooFew(DataError):
    """So few samples that no method of judging them keeps its level."""


@dataclass(frozen=True)
class Question:
    """What is asked of a pair of models.

    Attributes:
        metric: what may fall.
        margin: by how much: a fraction of samples for shares, else in the metric's unit; where `relative`,
            a fraction of the teacher's value.
        alpha: one-sided level.
        relative: whether the drop is taken relative to the teacher's value.
        query: the column of queries, for ranked metrics.
        cluster: the column of what samples come in (users, scenes), which are then drawn together.
        alpha_fail: as in `evidence.by_counts`.
    """

    metric: Metric
    margin: float
    alpha: float
    relative: bool = False
    query: str | None = None
    cluster: str | None = None
    alpha_fail: float | None = None


def values(pair: Pair, question: Question) -> tuple[float, float]:
    """The metric of the teacher and of the candidate."""
    if metrics.is_share(question.metric):
        teacher, candidate = (
            metrics.right(question.metric, p).mean() for p in (pair.teacher, pair.candidate)
        )
        return float(100 * teacher), float(100 * candidate)
    if question.metric.name == "auc":
        positive, negative = _by_class(pair)
        return auc.auc(positive[:, 0], negative[:, 0]), auc.auc(positive[:, 1], negative[:, 1])
    found = _Sums(pair, question)
    first, second = found.values(found.counts @ found.rows)
    return float(first), float(second)


def evidence(pair: Pair, question: Question) -> Evidence:
    """What the samples show about the margin.

    Raises:
        DataError: labels or scores that the metric has no meaning for, or a column that is not there.
        UsageError: a question that cannot be asked of this metric.
    """
    metric, alpha = question.metric, question.alpha
    if metrics.is_share(metric) and question.cluster is None and not question.relative:
        ours = metrics.right(metric, pair.teacher), metrics.right(metric, pair.candidate)
        b, c = int(np.sum(ours[0] & ~ours[1])), int(np.sum(~ours[0] & ours[1]))
        return by_counts(b, c, len(pair), question.margin, alpha, question.alpha_fail)
    found, units = _estimate(pair, question)
    # Shares are percent where they are shown; margins are fractions.
    shown = by_estimate(found, units, question.margin, alpha, question.alpha_fail)
    if metrics.is_share(metric) and not question.relative:
        # Of few flips a bootstrap draws too few: clusters only add to what Tango's interval allows for.
        plain = evidence(pair, replace(question, cluster=None)).interval
        ends = min(shown.interval[0], plain[0]), max(shown.interval[1], plain[1])
        shown = replace(shown, interval=ends)
    needed = _needed_to_see(pair, question, found, units) if shown.status is Status.PASS else 0
    if units < needed:
        return replace(shown, status=Status.INCONCLUSIVE, needed_lossless=needed)
    return shown


def too_few_clusters(clusters: NDArray[np.int64]) -> str:
    """Why nothing can be shown of samples in these clusters, (N,) each sample's own; or nothing."""
    count = len(np.unique(clusters))
    return "" if count >= MIN_CLUSTERS else _too_few(count, "clusters", MIN_CLUSTERS)


def clustered_interval(pair: Pair, cluster: str, alpha: float) -> tuple[float, float] | None:
    """Interval of the accuracy lost, a fraction, at level 1 - 2 alpha; None of too few clusters to tell.

    Raises:
        DataError: no such column.
    """
    try:
        return evidence(pair, Question(ACCURACY, 0.5, alpha, cluster=cluster)).interval
    except TooFew:
        return None


def _needed_to_see(pair: Pair, question: Question, found: Estimate, units: int) -> float:
    """Units that a PASS needs besides. A bootstrap cannot see losses so rare that few, or none, were drawn.

    A share must pass by Tango's test too, which clusters only make stricter. Where nothing varies, a loss as
    large as the margin must have been likely to be seen (the rule of three).
    """
    if metrics.is_share(question.metric):
        margin = question.margin * (values(pair, question)[0] / 100 if question.relative else 1)
        if margin == 0:  # the teacher is never right
            return math.inf
        plain = evidence(pair, replace(question, cluster=None, relative=False, margin=margin))
        if plain.status is Status.PASS:
            return 0
        return units * max(plain.needed_at(plain.drop) / len(pair), math.nextafter(1, 2))
    rare = question.metric.direction == "higher" and question.margin < 1 and found.standard_error == 0
    return math.log(question.alpha) / math.log1p(-question.margin) if rare else 0


def _estimate(pair: Pair, question: Question) -> tuple[Estimate, int]:
    if question.metric.name == "auc":
        return _auc(pair, question), len(pair)
    sums = _Sums(pair, question)
    units = int(sums.counts.sum())
    least, what = (MIN_UNITS, "samples") if question.cluster is None else (MIN_CLUSTERS, "clusters")
    if units < least:
        what = "queries" if question.query and not question.cluster else what
        raise TooFew(_too_few(units, what, least))
    return bootstrap.paired(sums.rows, sums.counts, sums.drop, np.random.default_rng(SEED)), units


def _too_few(units: int, what: str, least: int) -> str:
    return f"{units} {what}: with fewer than {least} a bootstrap passes bad models too often"


def _auc(pair: Pair, question: Question) -> Estimate:
    if question.cluster is not None or question.relative:
        what = "clusters" if question.cluster is not None else "a relative margin"
        raise UsageError(f"AUC with {what} cannot be judged", hint="judge the absolute drop, by samples")
    positive, negative = _by_class(pair)
    if min(len(positive), len(negative)) < auc.MIN_OF_A_CLASS:
        raise TooFew(
            f"AUC: {len(positive)} positive and {len(negative)} negative samples; with fewer than "
            f"{auc.MIN_OF_A_CLASS} of either every method passes bad models"
        )
    if len(pair) > auc.DELONG_FROM:
        return auc.delong(positive, negative)
    return _drawn(positive.tobytes(), negative.tobytes())


@functools.lru_cache(maxsize=16)
def _drawn(positive: bytes, negative: bytes) -> bootstrap.Bootstrap:
    """Ten thousand replicates, drawn once for a pair: a report tells the drop that its verdict goes by."""
    ups, downs = (np.frombuffer(scores, np.float64).reshape(-1, 2) for scores in (positive, negative))
    return auc.bootstrap(ups, downs, np.random.default_rng(SEED))


def _by_class(pair: Pair) -> tuple[Floats, Floats]:
    """Scores (P, 2) of positive and (N, 2) of negative samples, teacher first."""
    labels = pair.teacher.labels
    if not np.isin(labels, (0, 1)).all() or len(np.unique(labels)) < 2:
        raise DataError("AUC: the labels are not of two classes, 0 and 1")
    both = np.c_[metrics.binary_scores(pair.teacher), metrics.binary_scores(pair.candidate)]
    return both[labels == 1], both[labels == 0]


class _Sums:
    """Both models' sums: rows (U, 2 D), how many units add each, and the drop of their total."""

    def __init__(self, pair: Pair, question: Question) -> None:
        query = None if question.query is None else pair.column(question.query).codes
        if not metrics.is_ranked(question.metric):
            query = None
        both = (pair.teacher, pair.candidate)
        classes = metrics.num_classes(*both) if question.metric.name.startswith("f1") else 0
        self._of = [metrics.sums(question.metric, p, query, classes) for p in both]
        self._question = question
        seen = np.concatenate([one.seen for one in self._of], axis=1)
        known = ~np.isnan(seen).any(axis=1)  # units without anything relevant say nothing
        if not known.any():
            raise DataError(f"{question.metric.name}: no query has anything relevant")
        kinds, kind, self.counts = np.unique(seen[known], axis=0, return_inverse=True, return_counts=True)
        width = seen.shape[1] // 2
        parts = [one.adds(kinds[:, i * width : (i + 1) * width]) for i, one in enumerate(self._of)]
        self.rows = np.concatenate(parts, axis=1)
        if question.cluster is not None:
            column = pair.column(question.cluster)
            clusters = _of_units(column, query)
            if metrics.is_nearest(question.metric):  # whose units are samples
                clusters = column.codes
            clusters = clusters[known]
            self._together(clusters, kind.reshape(-1))

    def _together(self, clusters: NDArray[np.int64], kind: NDArray[np.int64]) -> None:
        """Units become clusters, whose rows are the sums of their samples'."""
        _, cluster = np.unique(clusters, return_inverse=True)
        shape = (int(cluster.max()) + 1, len(self.rows))
        self.rows = csr_array((np.ones(len(kind)), (cluster, kind)), shape=shape) @ self.rows
        self.counts = np.ones(shape[0], np.int64)

    def values(self, total: Floats) -> tuple[Floats, Floats]:
        """The metric of teacher and candidate, of sums (..., 2 D)."""
        half = total.shape[-1] // 2
        return self._of[0].value(total[..., :half]), self._of[1].value(total[..., half:])

    def drop(self, total: Floats) -> Floats:
        """What is lost, of sums (..., 2 D): a fraction where the metric is in percent."""
        teacher, candidate = self.values(total)
        lost = teacher - candidate if self._question.metric.direction == "higher" else candidate - teacher
        if self._question.relative:
            with np.errstate(invalid="ignore", divide="ignore"):  # of nothing there is no share: NaN
                return np.asarray(lost / teacher, np.float64)
        return lost / 100 if self._question.metric.unit == "percent" else lost


def _of_units(column: Column, query: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The cluster of each sample, or of each query, whose rows must lie in one."""
    if query is None:
        return column.codes
    found = np.full(int(query.max()) + 1, -1, np.int64)
    found[query] = column.codes
    if (found[query] != column.codes).any():
        raise DataError("a query lies in several clusters")
    return found
