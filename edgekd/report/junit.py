"""The verdict as JUnit XML, for the test reports of GitLab, Jenkins and others: a case for each check,
slice and target.

A name holds the target too, since GitLab shows the name alone and takes two cases of one class and name for
one; the class is `edgekd.RECIPE.TARGET`, which Jenkins shows as a tree. The same report gives the same bytes.
There is no `time`: a check is not a test that ran.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from edgekd.gate_settings import MARGINS
from edgekd.report import words
from edgekd.report.schema import Report, SliceRecord
from edgekd.report.verdicts import Checked, is_required
from edgekd.types import Status

# What no XML 1.0 document may hold, not even escaped: most control characters, halves of a pair, two ends.
_FORBIDDEN = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
WHOLE_RUN = "the run"

Outcome = Literal["failure", "error", "skipped"]
# A gate that could not tell has not found a failure, so it is an error: both turn a pipeline red, and a
# reader still sees which of the two it was. `skipped` would let the release through.
OUTCOMES: Mapping[Status, Outcome | None] = {
    Status.PASS: None,
    Status.FAIL: "failure",
    Status.INCONCLUSIVE: "error",
    Status.NOT_APPLICABLE: "skipped",
}


@dataclass(frozen=True)
class Case:
    """One `<testcase>`; `outcome` None is a success, whose `message` stands in its output."""

    name: str
    outcome: Outcome | None
    kind: str
    message: str
    text: str


def junit(report: Report) -> str:
    """All checks of a report as JUnit XML."""
    policy = words.policy(report)
    margins = {key: policy.get(key) for key in MARGINS}
    properties = {
        "verdict": report.verdict.status,
        "exit_code": report.verdict.exit_code,
        "metric": policy.get("metric", "accuracy"),
        **margins,
        "alpha": policy.get("alpha"),
        "spend_alpha": policy.get("spend_alpha"),
        "judgements": report.judgements,
        "judgements_not_passed": report.judgements_not_passed,
        "test_samples": report.data.splits.test.n,
        "test_sha256": report.data.splits.test.sha256,
        "edgekd": report.versions.get("edgekd"),
    }
    stored = report.gate.get("targets")
    asked = stored if isinstance(stored, dict) else {}
    # A margin of a target's own stands in place of the policy's, whichever way that was told.
    own = {
        target: {**dict.fromkeys(MARGINS), **{k: of[k] for k in MARGINS if k in of}}
        for target, of in asked.items()
        if isinstance(of, dict) and any(of.get(k) is not None for k in MARGINS)
    }
    required = {c.target for c in report.verdict.checks if is_required(report, c.target)}
    alarms = [(str(a.target), one) for a in report.artifacts for one in a.slices if one.alarm]
    name = report.recipe.name
    status = Status(report.verdict.status)
    return junit_of(name, report.verdict.checks, required, alarms, properties, status, own)


def junit_of(
    name: str,
    checks: Sequence[Checked],
    required: Collection[str],
    alarms: Iterable[tuple[str, SliceRecord]],
    properties: Mapping[str, object],
    verdict: Status,
    own: Mapping[str, Mapping[str, object]] | None = None,
) -> str:
    """Checks as JUnit XML, a suite for each target.

    Args:
        name: of the whole.
        checks: all of them.
        required: targets whose checks may turn a pipeline red.
        alarms: target and slice, of slices that need not pass and are shown to have lost too much.
        properties: of every suite; those that are None are left out.
        verdict: the overall one, which some case must tell of.
        own: target -> properties of its suite in place of these.
    """
    suites: dict[str, list[Case]] = {}
    for check in checks:
        suites.setdefault(check.target or WHOLE_RUN, []).append(_case(check, check.target in required))
    for target, one in alarms:
        suites.setdefault(target, []).append(_alarm(target, one))
    told = {case.outcome for cases in suites.values() for case in cases} & {"failure", "error"}
    if verdict is not Status.PASS and not told:  # no check says why: it must turn red all the same
        said = "the gate said so without naming a check"
        suites.setdefault(WHOLE_RUN, []).append(Case("verdict", OUTCOMES[verdict], verdict, said, said))
    root = ElementTree.Element("testsuites", {"name": _clean(f"edgekd {name}")})
    _count(root, [case for cases in suites.values() for case in cases], ("failures", "errors"))
    for target, cases in suites.items():
        _add_suite(root, name, target, cases, {**properties, **(own or {}).get(target, {})})
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _case(check: Checked, required: bool) -> Case:
    what = check.name if check.slice is None else f"{check.name} {' = '.join(check.slice)}"
    name = f"{what} on {check.target}" if check.target else what
    message = check.detail or f"{check.status}, no reason given"
    outcome = OUTCOMES[check.status]
    if outcome in ("failure", "error") and not required:
        # The gate lets this release through: a red case would overrule it, a green one would hide what
        # is known. A skipped one is listed with its message and turns nothing red.
        outcome, message = "skipped", f"not required: {check.status} {message}"
    return Case(name, outcome, check.status, message, _text(check))


def _text(check: Checked) -> str:
    unit = f" {check.unit}" if check.unit else ""
    lines = [f"status: {check.status.replace('_', ' ')}"]
    lines += [f"observed: {check.observed:.10g}{unit}"] if check.observed is not None else []
    lines += [f"limit: {check.limit:.10g}{unit}"] if check.limit is not None else []
    return "\n".join([*lines, *([check.detail] if check.detail else [])])


def _alarm(target: str, one: SliceRecord) -> Case:
    """A slice that need not pass: shown, and blocks nothing."""
    lost = "" if one.drop is None else f": drop {one.drop:.4g}, margin {one.margin:g}, {one.n:,} samples"
    message = f"not mandatory: ALARM{lost}"
    return Case(f"slice {one.column} = {one.value} on {target}", "skipped", "ALARM", message, message)


def _add_suite(
    root: ElementTree.Element,
    name: str,
    target: str,
    cases: Sequence[Case],
    properties: Mapping[str, object],
) -> None:
    suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(target)})
    _count(suite, cases)
    listed = ElementTree.SubElement(suite, "properties")
    for key, value in properties.items():
        if value is not None:
            ElementTree.SubElement(listed, "property", {"name": key, "value": _clean(str(value))})
    # Jenkins takes what stands before the last dot for a package.
    classname = ".".join(["edgekd", *(_clean(part).replace(".", "_") for part in (name, target))])
    seen: Counter[str] = Counter()
    for case in cases:
        seen[case.name] += 1
        again = f" ({seen[case.name]})" if seen[case.name] > 1 else ""
        one = ElementTree.SubElement(
            suite, "testcase", {"classname": classname, "name": _clean(case.name + again)}
        )
        if case.outcome is None:
            ElementTree.SubElement(one, "system-out").text = _clean(case.text)
            continue
        said = {"type": case.kind, "message": _clean(case.message)}
        ElementTree.SubElement(one, case.outcome, said).text = _clean(case.text)


def _count(
    element: ElementTree.Element,
    cases: Sequence[Case],
    keys: Sequence[str] = ("failures", "errors", "skipped"),  # the root has no `skipped` in Jenkins' schema
) -> None:
    found = Counter(case.outcome for case in cases)
    counts = {"failures": found["failure"], "errors": found["error"], "skipped": found["skipped"]}
    element.set("tests", str(len(cases)))
    for key in keys:
        element.set(key, str(counts[key]))


def _clean(text: str) -> str:
    """Text that an XML 1.0 document can hold; a carriage return would be read back as a new line."""
    return _FORBIDDEN.sub("\ufffd", text).replace("\r\n", "\n").replace("\r", "\n")
