"""Numbers and sentences of the report, shared by Markdown and HTML.

Decimals are fixed within a column, so that they align; a minus is a minus, and
a lost value reads as lost: drops always carry their sign.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from edgekd.report.schema import ArtifactRecord, CheckRecord, MeasurementRecord, MetricValue, Report

ABSENT = "–"
JUDGED_TOO_OFTEN = 10
UNIT_DECIMALS = {"pp": 2, "ms": 3, "ratio": 2, "fraction": 4, "bytes": 0}
CHECKS = {
    "accuracy": "Accuracy drop",
    "negative_flips": "Negative flips",
    "latency": "Latency, p90",
    "memory": "Peak memory",
    "int8_share": "Share of int8 operators",
    "device_parity": "Outputs on the device",
    "int8_beats_float": "Speed-up of int8 over float",
}
METRICS = {"auc": "AUC", "f1": "F1", "f1_macro": "macro F1", "rmse": "RMSE"}
ROLES = {"teacher_float": "teacher in float", "student_float": "the same in float"}


def number(value: float | None, decimals: int) -> str:
    """`1234.5` as "1,234.50"; None as a dash."""
    if value is None:
        return ABSENT
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "−")


def signed(value: float | None, decimals: int) -> str:
    """As `number`, with a plus before what is above zero."""
    text = number(value, decimals)
    return f"+{text}" if value is not None and round(value, decimals) > 0 else text


def interval(ends: tuple[float, float] | None, decimals: int) -> str:
    """Both ends in brackets, signed."""
    return ABSENT if ends is None else f"[{signed(ends[0], decimals)}, {signed(ends[1], decimals)}]"


def short(value: float) -> str:
    """Three significant digits with k, M or G: `11173962` as "11.2 M"."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def plain(value: float | None) -> str:
    """A check's number: up to four significant decimals, no trailing zeros."""
    if value is None:
        return ABSENT
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "−")
    decimals = 2 if abs(value) >= 100 else 4
    text = f"{value:,.{decimals}f}".rstrip("0").rstrip(".")
    return (text if text.strip("-0.") else f"{value:.3g}").replace("-", "−")


def amount(value: float | None, unit: str) -> str:
    """A check's number with the decimals that its unit is read in, so that a column aligns."""
    decimals = UNIT_DECIMALS.get(unit)
    return plain(value) if decimals is None else number(value, decimals)


def count(n: int, noun: str) -> str:
    """`1 sample`, `2 samples`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def listed(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *head, last = tuple(names) or ("none",)
    return f"{', '.join(head)} and {last}" if head else last


def ms_decimals(values: Iterable[float]) -> int:
    """Decimals that show two significant digits of a column's smallest latency."""
    smallest = min((v for v in values if v > 0), default=1.0)
    return 1 if smallest >= 100 else 2 if smallest >= 1 else 3


def value_decimals(unit: str) -> int:
    """Two decimals for percentages, four for anything else."""
    return 2 if unit == "percent" else 4


def drop_unit(unit: str) -> str:
    """The unit of a drop: percentage points for a percentage."""
    return "pp" if unit == "percent" else unit


def unit_sign(unit: str) -> str:
    """As a column heading shows it."""
    return "%" if unit == "percent" else unit


def headed(title: str, unit: str) -> str:
    """`Accuracy, %`; what has no unit stands alone."""
    return f"{title}, {unit}" if unit else title


def metric_word(name: str) -> str:
    """A metric within a sentence: `accuracy`, `AUC`, `NDCG@10`."""
    if name in METRICS:
        return METRICS[name]
    return name.replace("ndcg@", "NDCG@").replace("top_", "top-")


def metric_title(name: str) -> str:
    """A metric as a heading: `Accuracy`, `AUC`, `Hit@1`."""
    word = metric_word(name)
    return word[:1].upper() + word[1:]


def primary(report: Report) -> MetricValue:
    """The teacher's first metric: the one that the waterfall is drawn for."""
    return report.teacher.metrics[0]


def find_metric(metrics: Iterable[MetricValue], name: str) -> MetricValue | None:
    """The metric of that name, or None."""
    return next((m for m in metrics if m.name == name), None)


def baseline_name(report: Report) -> str:
    """What everything is compared with: the teacher, or the float student where there is none."""
    return "teacher" if report.recipe.config.get("teacher") else "float student"


def confidence(report: Report) -> str:
    """Level of the two-sided intervals, from the policy's alpha: `90%`."""
    return f"{(1 - 2 * _alpha(report)) * 100:.4g}%"


def policy(report: Report) -> Mapping[str, Any]:
    """The gate's policy, which stands under `policy` where budgets stand beside it."""
    found = report.gate.get("policy")
    return found if isinstance(found, Mapping) else report.gate


def _alpha(report: Report) -> float:
    alpha = policy(report).get("alpha")
    return float(alpha) if isinstance(alpha, int | float) else 0.05


def _level_left(report: Report) -> float:
    """The level that this judgement was made at, where alpha is spent over several."""
    k = max(report.judgements, 1)
    return _alpha(report) / (k * (k + 1)) if policy(report).get("spend_alpha") else _alpha(report)


def why_margin(report: Report) -> str:
    """Why this margin, as the recipe says; empty where it does not."""
    why = policy(report).get("why")
    return why if isinstance(why, str) else ""


def margin_text(margin: float, unit: str) -> str:
    """`1.0 pp`: at least one decimal, so that it reads as a measure."""
    text = plain(margin)
    return f"{text if '.' in text else f'{text}.0'} {drop_unit(unit)}".rstrip()


def margin_of(report: Report) -> float | None:
    """The margin of the primary metric, as the files that count were judged by; the widest of several."""
    return max(_margins(report), default=None)


def _margins(report: Report) -> set[float]:
    name = primary(report).name
    counted = [a for a in report.artifacts if a.required] or report.artifacts
    found = (find_metric(a.metrics, name) for a in counted)
    return {m.margin for m in found if m is not None and m.margin is not None}


def required(report: Report) -> tuple[str, ...]:
    """Targets that the overall verdict covers, in the report's order."""
    return tuple(dict.fromkeys(a.target for a in report.artifacts if a.required and a.target))


def covered(report: Report) -> tuple[CheckRecord, ...]:
    """The checks that decide: those of required targets, and of the run as a whole."""
    names = {a.target for a in report.artifacts if a.role == "target" and not a.required}
    return tuple(c for c in report.verdict.checks if c.target not in names)


def headline(report: Report) -> str:
    """The verdict's reason in one sentence."""
    checks = covered(report)
    status = report.verdict.status
    if status == "PASS":
        passed = sum(c.status == "PASS" for c in checks)
        margin, metric = margin_of(report), primary(report)
        where = f"the required {_plural('target', required(report))}, {listed(required(report))}"
        if margin is None:
            return f"{count(passed, 'check')} passed on {where}."
        sure = f"{(1 - _level_left(report)) * 100:.4g}%"
        own = "its own margin, at most " if len(_margins(report)) > 1 else ""
        return (
            f"On {where}, every file loses less than {own}{margin_text(margin, metric.unit)} of "
            f"{metric_word(metric.name)} against the {baseline_name(report)}, with {sure} confidence, and "
            f"{_all(passed)}."
        )
    decisive = [c for c in checks if c.status == status]
    if not decisive:
        return f"The gate said {status} without naming a check."
    first, more = decisive[0], len(decisive) - 1
    verb = "fails" if status == "FAIL" else "cannot be decided"
    place = f" on {first.target}" if first.target else ""
    rest = f"; {count(more, 'more check')} {_verb(status, more)} too" if more else ""
    return f"{check_name(first)}{place} {verb}{_compared(first)}{rest}."


def _verb(status: str, n: int) -> str:
    if status == "FAIL":
        return "fails" if n == 1 else "fail"
    return "is undecided" if n == 1 else "are undecided"


def _plural(noun: str, items: tuple[str, ...]) -> str:
    return noun if len(items) == 1 else f"{noun}s"


def _all(passed: int) -> str:
    return "the one check passes" if passed == 1 else f"all {passed} checks pass"


def _compared(check: CheckRecord) -> str:
    if check.observed is None:
        return ""
    unit = f" {check.unit}" if check.unit else ""
    limit = "" if check.limit is None else f", limit {amount(check.limit, check.unit)}{unit}"
    return f": {amount(check.observed, check.unit)}{unit} observed{limit}"


def check_name(check: CheckRecord) -> str:
    """The check's name in words."""
    return check_title(check.name)


def check_title(name: str) -> str:
    """`int8_share` in words."""
    if name in CHECKS:
        return CHECKS[name]
    is_metric = name in METRICS or "@" in name or name.startswith("top_")
    return f"{metric_title(name)} drop" if is_metric else sentence(name)


def sentence(text: str) -> str:
    """First letter large, underscores as spaces."""
    spaced = text.replace("_", " ").strip()
    return spaced[:1].upper() + spaced[1:]


def decisive_detail(report: Report) -> str:
    """What the gate says about the first check that decided against a PASS; empty on PASS."""
    return next((c.detail for c in covered(report) if c.status == report.verdict.status != "PASS"), "")


def cautions(report: Report) -> tuple[str, ...]:
    """What a reader should know before relying on the verdict."""
    found: list[str] = []
    if report.recipe.config.get("smoke"):
        found.append("A smoke run on a sliver of data: it shows that the chain runs, nothing else.")
    spent = policy(report).get("spend_alpha")
    if report.judgements >= JUDGED_TOO_OFTEN and not spent:
        found.append(
            f"This is judgement {report.judgements} of this test split; "
            "a split that is asked that often no longer gives an honest answer. Take fresh samples."
        )
    elif report.judgements_not_passed and not spent:
        k, left = report.judgements, _alpha(report) / (report.judgements * (report.judgements + 1))
        found.append(
            f"This is judgement {k} of this test split, and {report.judgements_not_passed} before it did not "
            "pass; each makes a wrong PASS likelier. Take fresh samples, or set gate.spend_alpha, which "
            f"judges this one at {left:.2g}."
        )
    found += _of_data(report.data.notes)
    kinds = {m.target: m.kind for m in report.measurements}
    stand_in = [t for t in targets(report) if kinds.get(t) in ("host", "emulated")]
    if stand_in:
        found.append(f"Latency of {listed(stand_in)} was not measured on the device itself.")
    if report.teacher.not_exported is not None:
        found.append(
            f"The teacher could not be exported everywhere ({report.teacher.not_exported}); "
            "there the comparison is with the student in float alone."
        )
    elif not any(a.role == "teacher_float" for a in report.artifacts):
        found.append(f"The {baseline_name(report)} has no float file, so no speed-up over it is shown.")
    return tuple(found)


def _of_data(notes: Mapping[str, Any]) -> list[str]:
    """Samples that are not quite what training saw."""
    found = []
    absent = notes.get("absent_classes")
    if isinstance(absent, Mapping):
        for split, names in absent.items():
            if split in ("train", "test"):
                what = "was learned" if split == "train" else "is shown"
                found.append(f"No {split} sample is of {listed(map(str, names))}: nothing {what} of such.")
    unseen = notes.get("unseen_categories")
    if isinstance(unseen, Mapping) and isinstance(n := unseen.get("test"), int) and n:
        found.append(f"{count(n, 'test sample')} with a category that train has not: it is taken as none.")
    empty = notes.get("missing_values")
    if isinstance(empty, Mapping) and isinstance(n := empty.get("test"), int) and n:
        found.append(f"{count(n, 'empty cell')} in test samples, filled with train's mean.")
    return found


def targets(report: Report) -> tuple[str, ...]:
    """Targets that have a file, in the report's order."""
    return tuple(dict.fromkeys(a.target for a in report.artifacts if a.target))


def name_of(artifact: ArtifactRecord) -> str:
    """The target, or what float reference it is."""
    return artifact.target if artifact.target is not None else ROLES[artifact.role]


def measurements_of(report: Report, artifact: ArtifactRecord) -> tuple[MeasurementRecord, ...]:
    """Measurements of one artifact, its own target's first."""
    own = [m for m in report.measurements if m.artifact_id == artifact.id]
    return tuple(sorted(own, key=lambda m: m.target != artifact.target))


def toml(data: Mapping[str, Any], path: str = "") -> str:
    """A recipe as TOML: plain keys first, then tables; keys without a value left out."""
    lines = [f"{_key(k)} = {_toml_value(v)}" for k, v in data.items() if _is_plain(v)]
    parts = ["\n".join(lines)] if lines else []
    for key, value in data.items():
        if isinstance(value, Mapping):
            full = f"{path}.{_key(key)}" if path else _key(key)
            body = toml(value, full)
            plain_keys = any(_is_plain(v) for v in value.values()) or not value
            parts.append(f"[{full}]\n{body}".rstrip() if plain_keys else body)
    return "\n\n".join(parts)


def _is_plain(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping)


def _key(key: str) -> str:
    bare = key.replace("-", "").replace("_", "")
    return key if bare.isascii() and bare.isalnum() else _quoted(key)


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's too, which asks for one more.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(v) for v in value)}]"
    if isinstance(value, Mapping):
        given = ((k, v) for k, v in value.items() if v is not None)
        return f"{{ {', '.join(f'{_key(k)} = {_toml_value(v)}' for k, v in given)} }}"
    return str(value)
