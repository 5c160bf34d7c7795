"""Several teachers as one; and probabilities as logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from edgekd.errors import UsageError
from edgekd.teachers import Teacher

# Smallest probability whose logarithm is taken; of far smaller ones fp16, the cache's, could hold it.
TINY = 1e-12


def combine(
    members: Sequence[Teacher],
    what: str,
    weights: Sequence[float] | None,
    columns: Sequence[slice] = (slice(None),),
) -> Teacher:
    """The weighted mean of what the members say, as logits (B, K).

    Args:
        members: each gives logits (B, K).
        what: "probabilities": log of the mean of softmax (Hinton et al. 2015, arXiv 1503.02531, section 5,
            the arithmetic mean); "logits": the mean of logits, each row centred, for a softmax does not
            see what all its logits have in common and a mean by sample would.
        weights: of the members, summing to 1; None: sample by sample 1 - H(p) / log K, with H the entropy
            of a member's probabilities p: a member that is sure of its answer counts for more.
        columns: of each head of a task with several: each is a softmax of its own.

    Raises:
        UsageError: when asked: members give different numbers of outputs.
    """

    def teacher(x: NDArray[np.float32]) -> NDArray[np.float32]:
        found = [member(x) for member in members]
        if len({part.shape for part in found}) > 1:
            raise UsageError(
                f"teacher.members give outputs of shapes {[part.shape for part in found]}",
                hint="all need the task's classes, in its order",
            )
        logits = np.stack(found).astype(np.float64)  # (members, B, K)
        parts = [_mean(logits[:, :, head], what, weights) for head in columns]
        return np.asarray(np.concatenate(parts, axis=1), np.float32)

    return teacher


def _mean(logits: NDArray[np.float64], what: str, weights: Sequence[float] | None) -> NDArray[np.float64]:
    """Of one head: (members, B, K) to (B, K)."""
    logs = log_softmax(logits, axis=2)
    if weights is None:
        sure = 1 + (np.exp(logs) * logs).sum(axis=2) / np.log(logits.shape[2])
        sure = np.maximum(sure, TINY)  # all at a loss: they count alike
        shares = sure / sure.sum(axis=0)
    else:
        shares = np.tile(np.asarray(weights)[:, None], (1, logits.shape[1]))
    if what == "logits":
        centred = logits - logits.mean(axis=2, keepdims=True)
        return np.asarray((shares[:, :, None] * centred).sum(axis=0))
    return np.asarray(logsumexp(logs, axis=0, b=shares[:, :, None]))


def logits_of(teacher: Teacher) -> Teacher:
    """A teacher that gives probabilities, as one that gives their logarithms: their softmax is they."""
    return lambda x: np.log(np.maximum(teacher(x), TINY))
