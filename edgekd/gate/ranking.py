"""Metrics of ranked lists, a value a query: NDCG@k and hit@k, of given lists and of nearest neighbours.

Integer models give equal scores to many items. Which of them stands first is then chance, so each value
is the mean over all orders of equals: no order of rows in a file makes a model better.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Floats = NDArray[np.float64]
Kind = Literal["ndcg", "hit"]
_PIECE = 256  # samples, whose cosines with all others are in memory at once
_DIGITS = 9


def ndcg(query: NDArray[np.int64], relevance: Floats, scores: Floats, k: int) -> Floats:
    """NDCG@k of each query (Q,), gains 2^relevance - 1; NaN where a query has nothing relevant.

    Papers: Burges et al., ICML 2005; of equal scores as in McSherry & Najork, ECIR 2008.

    Args:
        query: (N,), which query a row belongs to, 0 to Q - 1.
        relevance: (N,), at least 0.
        scores: (N,), higher is ranked first.
        k: places that count.
    """
    gains = np.exp2(relevance) - 1
    found, best = _dcg(query, gains, scores, k), _dcg(query, gains, gains, k)
    return np.divide(found, best, out=np.full_like(best, np.nan), where=best > 0)


def hits(query: NDArray[np.int64], relevance: Floats, scores: Floats, k: int) -> Floats:
    """Chance that a relevant item is among a query's first k (Q,).

    NaN where nothing is relevant, and where the list is no longer than k: all of it is among the first.

    Arguments as of `ndcg`; relevant is what is above 0.
    """
    ties = _Ties(query, scores, k)
    relevant = ties.sum((relevance > 0).astype(np.float64))
    # Of `size` equals `relevant` are wanted and `places` drawn: none is among them with C(size - relevant,
    # places) / C(size, places).
    possible = ties.size - relevant >= ties.places
    missed = np.where(
        possible,
        np.exp(
            gammaln(np.maximum(ties.size - relevant, 0) + 1)
            + gammaln(ties.size - ties.places + 1)
            - gammaln(ties.size + 1)
            - gammaln(np.where(possible, ties.size - relevant - ties.places, 0) + 1)
        ),
        0.0,
    )
    found = np.ones(int(query.max()) + 1)
    np.multiply.at(found, ties.query, missed)
    known = (np.bincount(query, relevance > 0) > 0) & (np.bincount(query) > k)
    return np.where(known, 1 - found, np.nan)


def nearest(kind: Kind, vectors: Floats, same: NDArray[np.int64], k: int) -> Floats:
    """`ndcg` or `hits` of each sample (N,), of its like among all others; NaN where there is none.

    Others are ranked by the cosine of their vector with the sample's own; relevant, with 1, is what has the
    same number.

    Args:
        kind: which of the two.
        vectors: (N, width); one of zeros points nowhere, and is as near to all.
        same: (N,), equal for samples that are the same thing.
        k: places that count.
    """
    count = len(vectors)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    found = np.full(count, np.nan)
    for start in range(0, count, _PIECE):
        rows = np.arange(start, min(start + _PIECE, count))
        # Equal vectors must be equally near, whatever order a matrix product adds in.
        near = np.round(unit[rows] @ unit.T, _DIGITS)
        near[np.arange(len(rows)), rows] = -np.inf  # not itself
        wanted = same[rows][:, None] == same
        wanted[np.arange(len(rows)), rows] = False
        # What is further off than the next after the k-th counts for nothing, unless it was looked for.
        last = count - 1 - k
        far = np.partition(near, last, axis=1)[:, last, None] if last > 0 else -np.inf
        kept = ((near >= far) | wanted) & np.isfinite(near)
        query, item = np.nonzero(kept)
        relevance = wanted[query, item].astype(np.float64)
        if len(query):
            of = ndcg if kind == "ndcg" else hits
            values = of(query, relevance, near[query, item], k)
            found[rows[: len(values)]] = values
    return found


def _dcg(query: NDArray[np.int64], gains: Floats, scores: Floats, k: int) -> Floats:
    ties = _Ties(query, scores, k)
    return np.asarray(np.bincount(ties.query, ties.sum(gains) / ties.size * ties.discount), np.float64)


class _Ties:
    """Groups of rows of a query with the same score, the best first.

    Attributes: of each group its `query`, its `size`, how many of its `places` are among the first k, and
    the sum of their discounts 1 / log2(1 + place).
    """

    def __init__(self, query: NDArray[np.int64], scores: Floats, k: int) -> None:
        self._order = np.lexsort((-scores, query))
        queries, ordered = query[self._order], scores[self._order]
        new = np.r_[True, (np.diff(queries) != 0) | (np.diff(ordered) != 0)]
        self._starts = np.flatnonzero(new)
        self.query = queries[self._starts]
        self.size = np.diff(np.r_[self._starts, len(query)])
        first = np.searchsorted(queries, self.query)  # row of the query's first item
        before = np.minimum(self._starts - first, k)
        after = np.minimum(self._starts - first + self.size, k)
        self.places = after - before
        discounts = np.r_[0.0, np.cumsum(1 / np.log2(np.arange(2, k + 2)))]
        self.discount = discounts[after] - discounts[before]

    def sum(self, values: Floats) -> Floats:
        """Of each group the sum of values (N,)."""
        return np.add.reduceat(values[self._order], self._starts)
