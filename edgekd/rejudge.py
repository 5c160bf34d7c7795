"""A report judged again from what lies in its folder: at another margin, by another policy, beside another.

A judgement by another policy than the report's own is one more judgement of the test split: it is entered
in the store's log, behind those that the report knows of. The report's folder is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd import config as configs
from edgekd import judgement_log
from edgekd.config import GateConfig, PolicyGate, TargetGateConfig
from edgekd.errors import DataError, UsageError, nearest
from edgekd.gate_settings import MARGINS
from edgekd.judgement import Against, counted, judged, past_judgements, with_intervals
from edgekd.report.schema import Report, parse
from edgekd.store import Store


def judge_again(
    path: Path,
    max_drop: float | None = None,
    policy_file: Path | None = None,
    baseline_report: Path | None = None,
) -> Report:
    """A report with its verdict made anew from the stored predictions and timings.

    Args:
        path: the report.json, or its folder.
        max_drop: another margin for all targets, in percentage points or in the metric's own unit.
        policy_file: another policy, in place of the recipe's and of what targets say.
        baseline_report: beside whose files the new ones may be as much larger or slower as the policy says.

    Raises:
        DataError: what lies in a folder is missing or changed.
        UsageError: no report, or a policy that it cannot be held to.
    """
    path = file_of(path)
    report = parse(path)
    policy = configs.build(PolicyGate, _table(report.gate, "policy", path), str(path))
    own, own_policy = judgement_log.judgement_of(report, policy), policy
    if policy_file is not None:
        policy = configs.load_policy(policy_file)
        report = _held_to(report, policy, policy_file)
    if max_drop is not None:
        margins: dict[str, float | None] = dict.fromkeys(MARGINS)
        margins["max_drop_pp" if policy.judged.unit == "percent" else "max_drop"] = float(max_drop)
        # The reason was given for the recipe's own margin.
        policy = configs.build(PolicyGate, {**policy.model_dump(), **margins, "why": ""}, "--max-drop")
        report = _without_margins(report, path)
    against = _against(baseline_report, policy)
    if (policy.alpha, policy.cluster) != (own_policy.alpha, own_policy.cluster):
        report = with_intervals(report, path.parent, policy)
    # What this report was judged by is its recipe's again, without what is asked of it here beside that.
    shown = policy.model_dump(mode="json", include=set(GateConfig.model_fields))
    report = report.model_copy(update={"gate": {**report.gate, "policy": shown}})
    asked = judgement_log.judgement_of(report, policy)
    if asked.is_same(own):
        past_judgements(report, path.parent)  # a log that was changed is told
        return judged(report, path.parent, policy, against)
    store, test = Store(Store.default_root()).root, report.data.splits.test.sha256
    log = judgement_log.enter(store, test, asked, past_judgements(report, path.parent))
    report = judged(counted(report, log), path.parent, policy, against)
    judgement_log.settle(store, test, replace(asked, status=report.verdict.status))
    return report


def file_of(path: Path) -> Path:
    """The report.json that is meant by a path or by the folder that it lies in."""
    return path / "report.json" if path.is_dir() else path


def _against(path: Path | None, policy: PolicyGate) -> Against | None:
    asked = [n for n in ("max_latency_ratio", "max_size_ratio") if getattr(policy, n) is not None]
    if path is None:
        if asked:
            raise UsageError(
                f"gate.{asked[0]} is a limit beside another report", hint="--baseline-report REPORT"
            )
        return None
    if not asked:
        raise UsageError(
            "--baseline-report: the policy has no limit beside it",
            hint="gate.max_latency_ratio = 1.1 or gate.max_size_ratio = 1.0 in a file for --policy",
        )
    path = file_of(path)
    report = parse(path)
    if report.recipe.config.get("smoke"):
        raise UsageError(f"{path}: of a smoke run, on a sliver of data: no baseline", hint="run it whole")
    return Against(report, path.parent)


def _held_to(report: Report, policy: PolicyGate, path: Path) -> Report:
    """The report with the targets that a policy requires, and the budgets that it sets."""
    targets = {str(a.target) for a in report.artifacts if a.role == "target"}
    for name in (*policy.required_targets, *policy.budgets):
        if name not in targets:
            hint = nearest(name, targets, f"targets: {', '.join(sorted(targets))}")
            raise UsageError(f"{path}: the report has no target {name!r}", hint=hint)
    artifacts = tuple(
        a.model_copy(update={"required": a.target in policy.required_targets})
        if policy.required_targets and a.role == "target"
        else a
        for a in report.artifacts
    )
    stored = _table(report.gate, "budgets", path)
    # A limit that the policy does not name stays what the target's profile says.
    budgets = {
        name: {**stored[name], **each.model_dump(mode="json", exclude_none=True)}
        for name, each in policy.budgets.items()
    }
    kept = {**report.gate, "budgets": {**stored, **budgets}, "targets": {}}
    return report.model_copy(update={"artifacts": artifacts, "gate": kept})


def _without_margins(report: Report, path: Path) -> Report:
    stored = _table(report.gate, "targets", path) if "targets" in report.gate else {}
    kept = {
        name: configs.build(TargetGateConfig, each, f"{path}: gate.targets.{name}")
        .without_margin()
        .model_dump(mode="json", exclude_defaults=True)
        for name, each in stored.items()
    }
    return report.model_copy(update={"gate": {**report.gate, "targets": kept}})


def _table(data: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    found = data.get(key)
    if not isinstance(found, Mapping):
        raise DataError(
            f"{path}: gate.{key} is missing or no table", hint="was this report written by edgekd?"
        )
    return found
