"""All that a policy asks of a candidate's predictions: the drop, negative flips, slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from edgekd.config import GateConfig
from edgekd.errors import UsageError
from edgekd.gate import metrics, slices
from edgekd.gate.drops import Question, TooFew, evidence, values
from edgekd.gate.evidence import Evidence
from edgekd.gate.judge import drop_scale, judge_drop, judge_negative_flips, judge_slice
from edgekd.gate.pairing import Pair
from edgekd.types import Check, Status

# A column of more values is no slice but a description of samples.
MOST_VALUES = 1000
MIN_SLICE_N = 100
REFUSED, WARNED = 0.5, 0.8


@dataclass(frozen=True)
class Judged:
    """What the gate says of predictions.

    Attributes:
        checks: of the whole and of mandatory slices.
        slices: all slices, mandatory or not.
        evidence: of the whole; None where the samples show nothing.
        values: the metric of the teacher and of the candidate.
        notes: what was not looked at, and why.
    """

    checks: tuple[Check, ...]
    slices: tuple[slices.Slice, ...]
    evidence: Evidence | None
    values: tuple[float, float]
    notes: tuple[str, ...]


def judge_predictions(pair: Pair, policy: GateConfig, target: str, assumed_drop: float = 0.0) -> Judged:
    """Judges a candidate against its teacher, on the same samples.

    Args:
        pair: both models' predictions.
        policy: metric, margins, columns.
        target: what the checks are of.
        assumed_drop: the true drop that samples are counted for, a fraction or in the metric's unit.

    Raises:
        DataError: labels or scores that the metric has no meaning for, or a column that is not there.
        UsageError: what the policy asks cannot be asked of this metric.
    """
    question = Question(
        policy.judged,
        policy.margin,
        policy.alpha,
        policy.max_relative_drop is not None,
        policy.query,
        policy.cluster,
    )
    shown: Evidence | None = None
    try:
        shown = evidence(pair, question)
        checks = [judge_drop(shown, policy, target, assumed_drop)]
    except TooFew as error:
        scale, unit = drop_scale(policy)
        limit = scale * policy.margin
        checks = [Check(policy.metric, target, None, limit, unit, Status.INCONCLUSIVE, error.message)]
    checks.append(_negative_flips(pair, policy, target))
    asked, notes = _asked(pair, policy)
    expected = {name: each.values for name, each in policy.slices.items()}
    found = slices.judge(pair, replace(question, relative=False), asked, expected)
    mandatory = [each for each in found if each.asked.mandatory]
    checks += [judge_slice(each, policy, target, len(mandatory)) for each in mandatory]
    return Judged(tuple(checks), found, shown, values(pair, question), tuple(notes))


def _negative_flips(pair: Pair, policy: GateConfig, target: str) -> Check:
    detail = ""
    if metrics.is_ranked(policy.judged) or policy.metric == "rmse":
        detail = f"there is no right and wrong in {policy.metric}"
    elif pair.teacher.said is pair.candidate.said is None and pair.teacher.scores.shape[1] == 1:
        detail = "one score tells no class without a threshold"
    elif policy.cluster is not None:
        detail = "flips of clusters are not independent: they have no exact bound"
    if detail:
        if policy.max_negative_flip_rate is not None:
            raise UsageError(f"gate.max_negative_flip_rate: {detail}", hint="leave it out")
        return Check("negative_flips", target, None, None, "fraction", Status.NOT_APPLICABLE, detail)
    lost = int(np.sum(pair.teacher.correct & ~pair.candidate.correct))
    return judge_negative_flips(lost, len(pair), policy, target)


def _asked(pair: Pair, policy: GateConfig) -> tuple[dict[str, slices.Asked], list[str]]:
    """What is asked of each column: what the policy says, else the margin of the whole, as an alarm."""
    found = {
        name: slices.Asked(policy.margin_of(name), each.min_slice_n, each.mandatory)
        for name, each in policy.slices.items()
    }
    notes = []
    columns = {**pair.candidate.columns, **pair.teacher.columns}
    for name, column in columns.items():
        if name in found or name in (policy.query, policy.cluster) or policy.max_relative_drop is not None:
            continue
        if len(column.values) > MOST_VALUES:
            notes.append(f"column {name!r} has {len(column.values):,} values and is no slice")
        elif metrics.is_share(policy.judged):
            found[name] = slices.Asked(policy.margin, MIN_SLICE_N, mandatory=False)
    return found, notes


def joint_power(counts: Mapping[str, Mapping[str, int]], policy: GateConfig) -> float | None:
    """Chance that all mandatory slices of a candidate that lost nothing pass; None where none is asked.

    Args:
        counts: column -> value -> samples of the test split.
        policy: the margins, and the discordance expected.

    Raises:
        UsageError: it is below a half: more samples or wider margins are needed.
    """
    mandatory = {name: each for name, each in policy.slices.items() if each.mandatory}
    psi = policy.expected_discordance
    if not mandatory or psi is None or not metrics.is_share(policy.judged) or policy.cluster is not None:
        return None
    each = {
        (name, value): slices.power(n, policy.margin_of(name), psi, policy.alpha)
        if n >= asked.min_slice_n
        else 0.0
        for name, asked in mandatory.items()
        for value, n in counts[name].items()
        if n  # a value that must be there and is not is INCONCLUSIVE, whatever the margin
    }
    joint = reduce(lambda product, one: product * one, each.values(), 1.0)
    if joint < REFUSED:
        name, value = min(each, key=lambda key: each[key])
        raise UsageError(
            f"gate.slices: a file that lost nothing passes all {len(each)} mandatory slices with probability "
            f"{joint:.0%} at a discordance of {psi:.1%}; "
            f"least likely {name} = {value} with {counts[name][value]:,} samples ({each[name, value]:.0%})",
            hint="wider margins, more samples, or fewer mandatory slices",
        )
    return joint
