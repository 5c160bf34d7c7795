"""A baseline that cannot be one: it knows nothing of the task, or gives other outputs than it should."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from edgekd.errors import UsageError

ALPHA = 0.05


def refuse_probabilities(role: str, scores: NDArray[np.float32], outputs: str) -> None:
    """Refuses outputs (N, K) that are not what the recipe says they are, logits or probabilities.

    Probabilities taken for logits lie between 0 and 1: their softmax says next to nothing, and a student
    would learn that.

    Raises:
        UsageError: all rows are probabilities and `outputs` says logits, or the other way round, where
            `scores` are the logarithms that were taken.
    """
    if outputs == "logits" and (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        raise UsageError(
            f"{role}: gives probabilities, not logits: no output is negative and each sample's sum to 1",
            hint='say outputs = "probabilities" under [teacher]',
        )
    if outputs == "probabilities" and not np.allclose(np.exp(scores).sum(axis=1), 1, atol=1e-2):
        raise UsageError(
            f"{role}: gives no probabilities: the outputs of a sample do not sum to 1",
            hint='say outputs = "logits" under [teacher]',
        )


def refuse_guessing(role: str, predicted: NDArray[Any], labels: NDArray[np.int64]) -> None:
    """Refuses a trained network whose answers do not go with the labels.

    Right answers are counted against what as many answers of each class would give if they were
    dealt out at random: one-sided exact binomial test at 5%. So one that always names the same class is
    refused, and one that names a rare class too often on purpose is not. Nothing is refused where
    the labels are too few, or too much of one class, for even a perfect network to pass.

    Args:
        role: teacher or student, for the error.
        predicted: classes (N,).
        labels: classes (N,).

    Raises:
        UsageError: the network cannot be told from one that has learned nothing.
    """
    n, right = len(labels), int((predicted == labels).sum())
    shares = np.bincount(labels) / n
    answers = np.bincount(predicted, minlength=len(shares)) / n
    by_chance = float(shares @ answers[: len(shares)])
    if bdtrc(n - 1, n, float(shares @ shares)) > ALPHA:
        return
    if bdtrc(right - 1, n, by_chance) > ALPHA:
        raise UsageError(
            f"{role}: {100 * right / n:.2f}% right on validation, where its answers would be right in "
            f"{100 * by_chance:.2f}% by chance",
            hint="trained weights see other pixels or other class numbers than they were trained on: "
            "compare the task's scale, mean, std, channel order and class names with the training's",
        )


def refuse_no_order(role: str, scores: NDArray[Any], labels: NDArray[np.int64]) -> None:
    """As `refuse_guessing` where what is judged is an order: one that never says class 1 may rank well.

    Scores of class 1 are held against those of class 0 by the one-sided test of Mann and Whitney at 5%.
    Nothing is refused where the labels are too few for even a perfect order to pass.

    Args:
        role: teacher or student, for the error.
        scores: (N, 2).
        labels: 0 and 1 (N,).

    Raises:
        UsageError: the order cannot be told from chance.
    """
    # Only where it is called for: it takes seconds, and a run of kept results goes without it.
    from scipy.stats import mannwhitneyu

    ahead = scores[:, 1].astype(np.float64) - scores[:, 0]
    up, down = ahead[labels == 1], ahead[labels == 0]
    if not len(up) or not len(down):
        return
    if mannwhitneyu(labels[labels == 1], labels[labels == 0], alternative="greater").pvalue > ALPHA:
        return
    found = mannwhitneyu(up, down, alternative="greater")
    if found.pvalue > ALPHA:
        auc = found.statistic / (len(up) * len(down))
        raise UsageError(
            f"{role}: AUC {auc:.4f} on validation, no more than by chance",
            hint="trained weights see other values, or the other class as 1, than they were trained on: "
            "compare the task's scale, mean, std and class names with the training's",
        )
