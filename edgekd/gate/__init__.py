"""The gate: is the shipped file no worse than the teacher by more than the margin?

Pure functions, no files, no torch: `compare` pairs two sets of predictions,
each `judge_*` answers one question with a check, `conclude` makes the verdict.
A figure that is missing, unstable, not a number or from other hardware is
INCONCLUSIVE or an error, never a PASS.
"""

from __future__ import annotations

from edgekd.gate.against import judge_latency_ratio, judge_same_teacher, judge_size_ratio
from edgekd.gate.comparison import Comparison, compare
from edgekd.gate.drops import too_few_clusters
from edgekd.gate.figure import drop_of, figure
from edgekd.gate.judge import (
    conclude,
    drop_scale,
    judge_drop,
    judge_int8_beats_float,
    judge_int8_share,
    judge_latency,
    judge_memory,
    judge_negative_flips,
    judge_size,
    slice_scale,
)
from edgekd.gate.metrics import is_nearest, is_ranked
from edgekd.gate.pairing import Pair, pair
from edgekd.gate.predicted import WARNED, Judged, joint_power, judge_predictions
from edgekd.gate.slices import Slice
from edgekd.gate.statistics import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    mcnemar_exact_p,
    non_inferior,
    samples_needed,
    samples_needed_at_drop,
    score_z,
    tango_interval,
)

__all__ = [
    "WARNED",
    "Comparison",
    "Judged",
    "Pair",
    "Slice",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "compare",
    "conclude",
    "drop_of",
    "drop_scale",
    "figure",
    "is_nearest",
    "is_ranked",
    "joint_power",
    "judge_drop",
    "judge_int8_beats_float",
    "judge_int8_share",
    "judge_latency",
    "judge_latency_ratio",
    "judge_memory",
    "judge_negative_flips",
    "judge_predictions",
    "judge_same_teacher",
    "judge_size",
    "judge_size_ratio",
    "mcnemar_exact_p",
    "non_inferior",
    "pair",
    "samples_needed",
    "samples_needed_at_drop",
    "score_z",
    "slice_scale",
    "tango_interval",
    "too_few_clusters",
]
