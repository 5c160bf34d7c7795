"""Slices: parts of the test split that are judged by themselves, and how likely all of them pass.

A mandatory slice has a margin of its own, fixed before the test split is read. All must pass, each at the
same level, uncorrected (intersection-union test: Berger, Technometrics 24, 1982); a slice fails only where
its lower bound at level 1 - alpha / K reaches its margin. Other slices raise alarms under Holm's correction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, gammaln, xlog1py, xlogy

from edgekd.errors import DataError
from edgekd.gate import metrics
from edgekd.gate.drops import Question, evidence
from edgekd.gate.evidence import Evidence, by_counts_each
from edgekd.gate.pairing import Pair
from edgekd.gate.statistics import non_inferior
from edgekd.types import Column, Status

LABEL = "label"


@dataclass(frozen=True)
class Asked:
    """What is asked of a column's slices: a margin, as a question has it, and of how many samples."""

    margin: float
    min_n: int
    mandatory: bool


@dataclass(frozen=True)
class Slice:
    """One value of one column, judged.

    Attributes:
        column: its name.
        value: the value of its samples.
        n: samples.
        asked: what was asked.
        evidence: what its samples show; None where they show nothing.
        status: of a mandatory slice; NOT_APPLICABLE of others.
        reason: why there is no evidence, or why it does not count.
        alarm: whether it is shown to have lost more than its margin, all others considered.
    """

    column: str
    value: str
    n: int
    asked: Asked
    evidence: Evidence | None
    status: Status
    reason: str = ""
    alarm: bool = False


def judge(
    pair: Pair, question: Question, asked: Mapping[str, Asked], expected: Mapping[str, tuple[str, ...]]
) -> tuple[Slice, ...]:
    """Every slice of every column, in their order.

    Args:
        pair: both models.
        question: metric, level and columns; its margin is not looked at.
        asked: column -> what is asked of its slices.
        expected: column -> values that must be there, samples or not.

    Raises:
        DataError: a column that is not there.
    """
    found = [
        (name, value, mask_of, n)
        for name in asked
        for value, mask_of, n in _values(pair.column(name), expected.get(name, ()))
    ]
    mandatory = sum(asked[name].mandatory for name, *_ in found)
    share = metrics.is_share(question.metric) and question.cluster is None and not question.relative
    slices: list[Slice] = []
    for name in asked:
        of = [(value, code, n) for column, value, code, n in found if column == name]
        strict = replace(question, margin=asked[name].margin, alpha_fail=question.alpha / max(mandatory, 1))
        shown = (_by_counts if share else _one_by_one)(pair, strict, pair.column(name), of)
        slices += [
            _judged(name, value, n, asked[name], each, clustered=question.cluster is not None)
            for (value, _, n), each in zip(of, shown, strict=True)
        ]
    return tuple(_with_alarms(slices, question.alpha))


def _values(column: Column, expected: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """(value, code, samples) of what is there and of what must be; code -1 where no sample has it."""
    counts = np.bincount(column.codes, minlength=len(column.values))
    there = [(value, code, int(counts[code])) for code, value in enumerate(column.values)]
    return there + [(value, -1, 0) for value in expected if value not in column.values]


Shown = Evidence | str


def _by_counts(pair: Pair, question: Question, column: Column, of: list[tuple[str, int, int]]) -> list[Shown]:
    teacher, candidate = (metrics.right(question.metric, p) for p in (pair.teacher, pair.candidate))
    lost, won = teacher & ~candidate, ~teacher & candidate
    codes = np.array([code for _, code, n in of if n], np.int64)
    if not len(codes):
        return ["no samples"] * len(of)
    size = len(column.values)
    b, c, n = (
        np.bincount(x, minlength=size)[codes] for x in (column.codes[lost], column.codes[won], column.codes)
    )
    each = iter(by_counts_each(b, c, n, question.margin, question.alpha, question.alpha_fail))
    return [next(each) if n else "no samples" for _, _, n in of]


def _one_by_one(
    pair: Pair, question: Question, column: Column, of: list[tuple[str, int, int]]
) -> list[Shown]:
    found: list[Shown] = []
    for _, code, n in of:
        try:
            found.append(evidence(pair.where(column.codes == code), question) if n else "no samples")
        except DataError as error:  # of one class, too few of a class: no evidence, and no PASS
            found.append(error.message)
    return found


def _judged(name: str, value: str, n: int, asked: Asked, shown: Shown, *, clustered: bool) -> Slice:
    if isinstance(shown, str):
        status, reason, known = Status.INCONCLUSIVE, shown, None
    elif n < asked.min_n or (shown.units < asked.min_n and not clustered):  # clusters have a least number
        status, reason, known = Status.INCONCLUSIVE, f"fewer than {asked.min_n:,} samples", shown
    else:
        status, reason, known = shown.status, "", shown
    if not asked.mandatory:
        status = Status.NOT_APPLICABLE
    return Slice(name, value, n, asked, known, status, reason)


def _with_alarms(slices: list[Slice], alpha: float) -> list[Slice]:
    """Slices that are not mandatory are tested together."""
    open_to = [
        i for i, s in enumerate(slices) if not s.asked.mandatory and s.evidence is not None and not s.reason
    ]
    p = [s.evidence.p_inferior for i in open_to if (s := slices[i]).evidence is not None]
    for i, alarm in zip(open_to, holm(p, alpha), strict=True):
        slices[i] = replace(slices[i], alarm=bool(alarm))
    return slices


def holm(p: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Which hypotheses are rejected when all together may err with probability alpha.

    Paper: Holm, Scandinavian Journal of Statistics 6, 1979.

    Args:
        p: (K,), p values.
        alpha: family-wise error.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    passed = values[order] <= alpha / (len(values) - np.arange(len(values)))
    rejected = np.zeros(len(values), np.bool_)
    rejected[order] = np.logical_and.accumulate(passed)
    return rejected


def power(n: int, margin: float, discordance: float, alpha: float) -> float:
    """Chance that a candidate that lost nothing passes Tango's test on n samples; exact.

    Args:
        n: samples.
        margin: the largest drop allowed, a fraction.
        discordance: share of samples on which one of the two is right.
        alpha: one-sided level.
    """
    # Discordant samples k are binomial, those of them that are lost binomial given k: as far out as counts.
    spread = 8 * math.sqrt(n * discordance * (1 - discordance)) + 10
    middle = n * discordance
    k = np.arange(max(math.floor(middle - spread), 0), min(math.ceil(middle + spread), n) + 1)
    most, beyond = np.full(len(k), -1), k + 1  # the most that may be lost, by halving
    while (beyond - most > 1).any():
        half = (most + beyond) // 2
        asked = np.maximum(half, 0)
        passes = (half < 0) | non_inferior(asked, k - asked, np.full(len(k), n), margin, alpha)
        most, beyond = np.where(passes, half, most), np.where(passes, beyond, half)
    ways = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    of_k = np.exp(ways + xlogy(k, discordance) + xlog1py(n - k, -discordance))
    passed = np.where(most >= 0, bdtr(np.maximum(most, 0), k, 0.5), 0.0)
    return float(of_k @ passed)
