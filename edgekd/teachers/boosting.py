"""Gradient boosting by scikit-learn as a teacher of tables: fitted on train in seconds, never stored.

In a recipe: `function = { kind = "edgekd.teachers.boosting:fit", fit = true }` under [teacher] or a member.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgekd.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Outputs = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def fit(
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    seed: int,
    max_iter: int = 200,
    learning_rate: float = 0.05,
    max_leaf_nodes: int = 15,
    min_samples_leaf: int = 20,
    l2_regularization: float = 1.0,
) -> Outputs:
    """A function from inputs (B, ...) to logits (B, classes).

    Args:
        inputs: (N, ...), of the training split.
        labels: (N,), each of 0 .. classes - 1 at least once.
        seed: of what is drawn.
        max_iter: trees (for each class, where there are more than two).
        learning_rate: what each tree counts.
        max_leaf_nodes: leaves of a tree.
        min_samples_leaf: samples in each.
        l2_regularization: of the leaves' values.

    Raises:
        UsageError: a class has no training sample.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    classes = int(labels.max()) + 1
    if absent := sorted(set(range(classes)) - set(labels.tolist())):
        raise UsageError(f"gradient boosting: no training sample is of class {absent[0]}")
    model = HistGradientBoostingClassifier(
        max_iter=max_iter,
        learning_rate=learning_rate,
        max_leaf_nodes=max_leaf_nodes,
        min_samples_leaf=min_samples_leaf,
        l2_regularization=l2_regularization,
        early_stopping=False,
        random_state=seed,
    ).fit(inputs.reshape(len(inputs), -1), labels)

    def outputs(x: NDArray[np.float32]) -> NDArray[np.float32]:
        raw = model.decision_function(x.reshape(len(x), -1))
        # Of two classes: by how much the second is ahead.
        both = np.stack([-raw / 2, raw / 2], axis=1) if raw.ndim == 1 else raw
        return np.asarray(both, np.float32)

    return outputs
