"""Judging predictions that no chain made: files of a baseline and of candidates, and a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd import gate, judgement_log, prediction_files
from edgekd.config import GateConfig, build, load_policy
from edgekd.errors import UsageError
from edgekd.judgement import slice_record
from edgekd.judgement_log import Judgement
from edgekd.metric_names import metric_named
from edgekd.prediction_files import Rows
from edgekd.store import Store, hash_of
from edgekd.types import Verdict

SAME = (
    "the baseline says the same of every sample: where both files are of one model, the verdict shows "
    "nothing about a compressed one"
)


@dataclass(frozen=True)
class Answer:
    """What the gate says of one candidate, or of several.

    Attributes:
        verdict: over all candidates.
        judged: candidate -> its own checks and slices.
        policy: what judged.
        joint_power: chance that all mandatory slices of a lossless candidate pass; None where none is asked.
        judgements: how many judgements these samples have seen, this one included.
    """

    verdict: Verdict
    judged: Mapping[str, gate.Judged]
    policy: GateConfig
    joint_power: float | None
    judgements: int


def named(texts: Sequence[str]) -> dict[str, Path]:
    """Candidates as `NAME=PATH`, or as a path whose name is the candidate's.

    Raises:
        UsageError: none, or two of one name.
    """
    if not texts:
        raise UsageError("no candidate", hint="--candidate student.csv, or --candidate NAME=student.csv")
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        path, name = (path, name) if equals else (text, Path(text).stem)
        if name in found or not name:
            raise UsageError(f"--candidate {text!r}: a name that stands twice, or none", hint="NAME=PATH")
        found[name] = Path(path)
    return found


def policy_of(path: Path | None, metric: str | None, max_drop: float | None, query: str | None) -> GateConfig:
    """The policy of a file, with what the command line says in place of what stands there.

    Raises:
        UsageError: no margin, or what no policy has.
    """
    data: dict[str, Any] = {}
    if path is not None:
        asked = load_policy(path)
        if asked.budgets or asked.required_targets:
            raise UsageError(f"{path}: gate.budgets and gate.required_targets need a report")
        data = asked.model_dump(exclude_unset=True)
    elif max_drop is None:
        raise UsageError("no margin", hint="--max-drop, or --policy FILE")
    if metric is not None:
        data["metric"] = metric
    if query is not None:
        data["query"] = query
    if max_drop is not None:
        percent = metric_named(data.get("metric", "accuracy")).unit == "percent"
        for name in ("max_drop_pp", "max_drop", "max_relative_drop", "why"):
            data.pop(name, None)
        data["max_drop_pp" if percent else "max_drop"] = max_drop
    return build(GateConfig, data, "the gate's policy")


def judge(baseline: Path, candidates: Mapping[str, Path], policy: GateConfig, assumed_drop: float) -> Answer:
    """Judges candidates against a baseline on the same samples. All of a release must pass, uncorrected.

    Args:
        baseline: the teacher's predictions.
        candidates: name -> predictions.
        policy: metric, margins, columns.
        assumed_drop: the true drop that samples are counted for, in the unit of the margin.

    Raises:
        DataError: files that are damaged or do not pair up.
        UsageError: a policy that these files cannot be held to, or that no lossless candidate would pass.
    """
    files = [prediction_files.read(path) for path in (baseline, *candidates.values())]
    teacher, *others = prediction_files.predictions(files, policy.judged)
    pairs = {name: gate.pair(teacher, other) for name, other in zip(candidates, others, strict=True)}
    first = next(iter(pairs.values()))
    counts = {name: _counted(first, name, policy) for name in policy.slices}
    store, test = Store(Store.default_root()).root, _hash(files[0], files[0].labels)
    joint = gate.joint_power(counts, policy.spent(1 + judgement_log.count(store, test)))
    judged, count = {}, 0
    teacher_said = _said(files[0])
    for (name, pair), other in zip(pairs.items(), files[1:], strict=True):
        said = _said(other)
        new = Judgement(hash_of([teacher_said, said]), judgement_log.policy_sha256(policy))
        log = judgement_log.enter(store, test, new)
        own, count = policy.spent(len(log)), max(count, len(log))
        found = gate.judge_predictions(pair, own, name, assumed_drop / gate.drop_scale(own)[0])
        judged[name] = replace(found, notes=(*found.notes, SAME)) if said == teacher_said else found
        status = gate.conclude(judged[name].checks, [name], policy.metric).status
        judgement_log.settle(store, test, replace(new, status=status.value))
    checks = [check for each in judged.values() for check in each.checks]
    return Answer(gate.conclude(checks, candidates, policy.metric), judged, policy, joint, count)


def as_dict(answer: Answer) -> dict[str, Any]:
    """For programs: the verdict, each candidate's checks and slices, and what stands beside them."""
    return {
        "status": answer.verdict.status,
        "exit_code": answer.verdict.exit_code,
        "policy": answer.policy.model_dump(mode="json"),
        "joint_power": answer.joint_power,
        "judgements": answer.judgements,
        "candidates": {
            name: {
                "teacher": each.values[0],
                "value": each.values[1],
                "checks": [vars(check) for check in each.checks],
                "slices": [slice_record(one, answer.policy).model_dump(mode="json") for one in each.slices],
                "notes": each.notes,
            }
            for name, each in answer.judged.items()
        },
    }


def _counted(pair: gate.Pair, name: str, policy: GateConfig) -> dict[str, int]:
    column = pair.column(name)
    found = dict(
        zip(column.values, np.bincount(column.codes, minlength=len(column.values)).tolist(), strict=True)
    )
    return {**dict.fromkeys(policy.slices[name].values, 0), **found}


def _said(rows: Rows) -> str:
    return _hash(rows, rows.scores if rows.predictions is None else rows.predictions)


def _hash(rows: Rows, values: Sequence[str] | NDArray[Any] | None) -> str:
    """Of what a file says of each sample, whatever the order of its rows."""
    assert values is not None  # labels; predictions or scores
    said = values if not isinstance(values, np.ndarray) else [row.tolist() for row in values]
    return hash_of([[rows.ids[i], said[i]] for i in sorted(range(len(rows.ids)), key=lambda i: rows.ids[i])])
