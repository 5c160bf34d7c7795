"""The metrics that a gate can judge by, as recipes and policies name them."""

from __future__ import annotations

import re

from edgekd.errors import UsageError
from edgekd.types import ACCURACY, Metric

NAMES = "accuracy, top_K, f1, f1_macro, rmse, auc, ndcg@K, hit@K, nearest_ndcg@K, nearest_hit@K"
_NAME = re.compile(
    r"accuracy|auc|f1|f1_macro|rmse|top_(?P<k>[1-9]\d{0,2})|"
    r"(?:nearest_)?(?P<list>ndcg|hit)@(?P<at>[1-9]\d{0,3})"
)


def metric_named(name: str) -> Metric:
    """What is known of a metric by its name alone.

    Raises:
        UsageError: there is none of that name.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(f"no metric is called {name!r}", hint=f"known are {NAMES}")
    if name == "accuracy":
        return ACCURACY
    if found["k"] or found["list"] == "hit":
        return Metric(name, "higher", "percent")
    return Metric(name, "lower" if name == "rmse" else "higher", "")
