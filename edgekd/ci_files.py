"""What a CI system is given: JUnit XML and a job summary, of a report or of predictions alone."""

from __future__ import annotations

from pathlib import Path

from edgekd import gate
from edgekd.errors import UsageError
from edgekd.judgement import slice_record
from edgekd.own_predictions import Answer
from edgekd.report import words
from edgekd.report.junit import junit, junit_of
from edgekd.report.schema import Report, SliceRecord
from edgekd.report.summary import Summary, marked, summary, written
from edgekd.report.verdicts import worst
from edgekd.store import write_atomic
from edgekd.types import Status

NAME = "predictions"


def write(found: Report | Answer, junit_path: Path | None, summary_path: Path | None) -> None:
    """Writes what was asked for; the summary goes behind what its file already holds, as CI steps do.

    Raises:
        UsageError: a file that cannot be written.
    """
    for option, path in (("--junit", junit_path), ("--summary", summary_path)):
        if path is None:
            continue
        if not path.parent.is_dir():
            raise UsageError(f"{option} {path}: no file can be written there", hint="its folder must exist")
        if path.exists() and not path.is_file():  # a device would be replaced by a file, or take any text
            raise UsageError(
                f"{option} {path}: no file can be written there", hint="what is there is no regular file"
            )
    try:
        if junit_path is not None:
            text = junit(found) if isinstance(found, Report) else answer_junit(found)
            write_atomic(junit_path, text)
        if summary_path is not None:
            _append(summary_path, summary(found) if isinstance(found, Report) else answer_summary(found))
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be written: {error.strerror}") from None


def _append(path: Path, text: str) -> None:
    # A last line without an end would swallow the heading.
    before = path.read_bytes() if path.is_file() else b""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(("\n" if before and not before.endswith(b"\n") else "") + text)


def answer_junit(answer: Answer) -> str:
    """A case for each candidate, check and slice."""
    policy = answer.policy
    properties = {
        "verdict": answer.verdict.status,
        "exit_code": answer.verdict.exit_code,
        "metric": policy.metric,
        "max_drop_pp": policy.max_drop_pp,
        "max_drop": policy.max_drop,
        "max_relative_drop": policy.max_relative_drop,
        "alpha": policy.alpha,
        "spend_alpha": policy.spend_alpha,
        "judgements": answer.judgements,
    }
    checks, status = answer.verdict.checks, answer.verdict.status
    return junit_of(NAME, checks, answer.judged, _alarms(answer), properties, status)


def _alarms(answer: Answer) -> list[tuple[str, SliceRecord]]:
    return [
        (name, slice_record(one, answer.policy))
        for name, judged in answer.judged.items()
        for one in judged.slices
        if one.alarm
    ]


def answer_summary(answer: Answer) -> str:
    """A line a candidate, and why one did not pass."""
    policy, status = answer.policy, answer.verdict.status
    scale, unit = gate.drop_scale(policy)
    sign = " %" if policy.judged.unit == "percent" else ""
    decimals = 2 if unit else 4
    rows = []
    for name, judged in answer.judged.items():
        shown = judged.evidence
        drop = words.ABSENT
        if shown is not None:
            low, high = (scale * end for end in shown.interval)
            drop = f"{words.signed(scale * shown.drop, decimals)} {words.interval((low, high), decimals)}"
        teacher, value = (f"{figure:.5g}" for figure in judged.values)
        rows.append((name, teacher, value, drop, marked(_status(answer, name))))
    # Where alpha is spent, each candidate is judged at a level of its own, which its checks tell.
    level = "interval" if policy.spend_alpha else f"{100 * (1 - 2 * policy.alpha):g}% interval"
    head = ["Candidate", f"Baseline{sign}", f"{words.sentence(policy.metric)}{sign}"]
    head += [f"Drop{f', {unit}' if unit else ''} ({level})", "Verdict"]
    notes = [f"Margin: {policy.margin_text}{f' ({policy.why})' if policy.why else ''}"]
    notes += [f"Judgement of these samples: {answer.judgements:,}"]
    notes += [f"{name}: {note}" for name, judged in answer.judged.items() for note in judged.notes]
    if answer.joint_power is not None and answer.joint_power < gate.WARNED:
        notes.append(
            f"A candidate that lost nothing passes all mandatory slices with probability "
            f"{answer.joint_power:.0%} only: wider margins or more samples."
        )
    return written(
        Summary(
            name=NAME,
            status=status,
            headline=_headline(answer),
            head=head,
            rows=rows,
            numeric=(1, 2, 3),
            matrix=None,
            checks=[(True, check) for check in answer.verdict.checks],
            alarms=_alarms(answer),
            notes=notes,
            elsewhere="the answer of edgekd gate --json",
        )
    )


def _headline(answer: Answer) -> str:
    names = [n for n in answer.judged if _status(answer, n) == answer.verdict.status]
    said = {"PASS": "passes every check", "FAIL": "fails", "INCONCLUSIVE": "cannot be decided"}
    several = {"PASS": "pass every check", "FAIL": "fail", "INCONCLUSIVE": "cannot be decided"}
    verb = (said if len(names) == 1 else several)[answer.verdict.status]
    return f"{words.listed(names)} {verb} at a margin of {answer.policy.margin_text}."


def _status(answer: Answer, name: str) -> Status:
    return worst(check.status for check in answer.verdict.checks if check.target == name)
