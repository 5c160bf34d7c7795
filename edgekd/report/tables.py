"""The report's tables and bars as ready text, so that Markdown and HTML say the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.report import words
from edgekd.report.schema import ArtifactRecord, MeasurementRecord, Ratio, Report
from edgekd.report.verdicts import verdict_of

KIND_WORDS = {
    "measured": "on the target itself",
    "host": "on another computer, standing in",
    "emulated": "in an emulator",
}


@dataclass(frozen=True)
class ArtifactRow:
    """One artifact under one measurement; every number as text."""

    name: str
    required: bool
    reference: bool
    verdict: str
    format: str
    scheme: str
    size_kb: str
    size_ratio: str
    value: str
    drop: str
    drop_interval: str
    median_ms: str
    p90_ms: str
    timed_on: str
    kind: str
    over_teacher: str
    over_teacher_interval: str
    over_float: str
    over_float_interval: str
    int8_percent: str
    int8_count: str
    parity: str
    parity_unit: str
    parity_agreement: str

    @property
    def drop_text(self) -> str:
        """The drop with its interval, where there is one."""
        return self.drop if self.drop_interval == words.ABSENT else f"{self.drop} {self.drop_interval}"


def artifact_rows(report: Report) -> tuple[ArtifactRow, ...]:
    """Files that ship first, those that count before the others; then the float references."""
    decimals = words.ms_decimals(m.median_ms for m in report.measurements)
    ordered = sorted(report.artifacts, key=lambda a: (a.role != "target", not a.required))
    return tuple(_artifact_row(report, artifact, decimals) for artifact in ordered)


def _artifact_row(report: Report, artifact: ArtifactRecord, ms: int) -> ArtifactRow:
    metric = words.primary(report)
    found = words.find_metric(artifact.metrics, metric.name)
    decimals = words.value_decimals(metric.unit)
    reference = artifact.role != "target"
    name = words.name_of(artifact)
    timings = words.measurements_of(report, artifact)
    if not reference:  # under its own target; a reference was timed once beside each file
        timings = timings[:1]
    elif real := tuple(m for m in timings if m.kind != "emulated"):
        timings = real
    kinds = {m.kind for m in timings}
    int8, int8_count = _int8(artifact)
    parity, parity_unit, agreement = _parity(artifact)
    return ArtifactRow(
        name=words.sentence(name) if reference else name,
        required=artifact.required,
        reference=reference,
        verdict="" if reference else str(verdict_of(report, str(artifact.target))),
        format=artifact.format,
        scheme=artifact.scheme,
        size_kb=words.number(artifact.size_bytes / 1000, 1),
        size_ratio="" if artifact.size_ratio_to_teacher is None else f"{artifact.size_ratio_to_teacher:.1f}",
        value=words.number(found.value if found else None, decimals),
        drop=words.signed(found.drop if found else None, decimals),
        drop_interval=words.interval(found.drop_interval if found else None, decimals),
        median_ms=_span([m.median_ms for m in timings], ms),
        p90_ms=_span([m.p90_ms for m in timings], ms),
        timed_on=f"beside {words.count(len(timings), 'file')}" if len(timings) > 1 else "",
        kind=" and ".join(k for k in KIND_WORDS if k in kinds),
        over_teacher=_ratio(artifact.speedup_over_teacher),
        over_teacher_interval=_ratio_interval(artifact.speedup_over_teacher),
        over_float=_ratio(artifact.speedup_over_float),
        over_float_interval=_ratio_interval(artifact.speedup_over_float),
        int8_percent=int8,
        int8_count=int8_count,
        parity=parity,
        parity_unit=parity_unit,
        parity_agreement=agreement,
    )


def _span(values: list[float], decimals: int) -> str:
    """One latency, or the smallest and the largest of several."""
    if not values:
        return words.ABSENT
    ends = [words.number(v, decimals) for v in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else "–".join(ends)


def _ratio(ratio: Ratio | None) -> str:
    return words.number(ratio.value if ratio else None, 2)


def _ratio_interval(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"[{ratio.lower:.2f}, {ratio.upper:.2f}]"


def _int8(artifact: ArtifactRecord) -> tuple[str, str]:
    found = artifact.inventory
    if found is None or found.int8_share is None:
        return words.ABSENT, ""
    return words.number(found.int8_share * 100, 0), f"{found.int8_ops} of {found.int8_ops + found.float_ops}"


def _parity(artifact: ArtifactRecord) -> tuple[str, str, str]:
    """How far the file is from its model: output steps for int8, largest error for float."""
    found = artifact.parity
    if found is None:
        return words.ABSENT, "", ""
    agreement = f"{found.argmax_agreement * 100:.1f}% agree"
    if found.own_steps is not None:
        agreement += f"; its model moves by {found.own_steps:.2f} where its values are nudged"
    if found.mean_steps is not None:
        return f"{found.mean_steps:.2f}", "steps, mean", agreement
    return f"{found.max_abs:.1e}".replace("e-0", "e−").replace("e-", "e−"), "error, max", agreement


@dataclass(frozen=True)
class CheckRow:
    """One check of the gate."""

    name: str
    target: str
    required: bool
    observed: str
    limit: str
    unit: str
    status: str
    detail: str


def check_rows(report: Report) -> tuple[CheckRow, ...]:
    """Every check, those that decide first."""
    decisive = {id(c) for c in words.covered(report)}
    ordered = sorted(report.verdict.checks, key=lambda c: id(c) not in decisive)
    return tuple(
        CheckRow(
            name=words.check_name(c),
            target=c.target or "the run",
            required=id(c) in decisive,
            observed=words.amount(c.observed, c.unit),
            limit=words.amount(c.limit, c.unit),
            unit=c.unit,
            status=c.status.value,
            detail=c.detail,
        )
        for c in ordered
    )


@dataclass(frozen=True)
class Bar:
    """One bar: `share` of the longest, `mark` a tick on it (p90), both 0 to 1; `kind` colours it."""

    label: str
    note: str
    text: str
    share: float
    mark: float | None
    reference: bool
    kind: str = ""


@dataclass(frozen=True)
class BarGroup:
    """Bars under one heading."""

    title: str
    bars: tuple[Bar, ...]


def size_bars(report: Report) -> BarGroup:
    """Size of every file, float references included, on one scale."""
    longest = max((a.size_bytes for a in report.artifacts), default=1) or 1
    ordered = sorted(report.artifacts, key=lambda a: (a.role == "target", -a.size_bytes))
    return BarGroup(
        "",
        tuple(
            Bar(
                label=words.name_of(a) if a.role == "target" else words.sentence(words.name_of(a)),
                note=f"{a.format} · {a.scheme}",
                text=words.number(a.size_bytes / 1000, 1),
                share=a.size_bytes / longest,
                mark=None,
                reference=a.role != "target",
            )
            for a in ordered
        ),
    )


def latency_bars(report: Report) -> tuple[BarGroup, ...]:
    """Median latency, one group a target, all on one scale; the tick is the 90th percentile.

    What ran in an emulator took no real time: it has a scale of its own.
    """
    artifacts = {a.id: a for a in report.artifacts}
    decimals = words.ms_decimals(m.median_ms for m in report.measurements)
    groups = []
    for target in dict.fromkeys(m.target for m in report.measurements):
        found = [m for m in report.measurements if m.target == target]
        found.sort(key=lambda m: (artifacts[m.artifact_id].role == "target", -m.median_ms))
        own = found[-1]  # what ships, where it was timed
        kind = KIND_WORDS[own.kind]
        # Beside what a GPU in software took, the references' times on a processor are shown on its scale.
        emulated = {m.target for m in report.measurements if m.kind == "emulated"}
        alike = [m for m in report.measurements if (m.target in emulated) == (target in emulated)]
        longest = max(m.p90_ms for m in alike) or 1.0
        bars = tuple(_latency_bar(m, artifacts[m.artifact_id], longest, decimals) for m in found)
        on = f" ({found[0].device})" if found[0].device in report.devices else ""
        groups.append(BarGroup(f"{target}, {kind}{on}", bars))
    return tuple(groups)


def _latency_bar(m: MeasurementRecord, artifact: ArtifactRecord, longest: float, decimals: int) -> Bar:
    reference = artifact.role != "target"
    return Bar(
        label=words.sentence(words.name_of(artifact)) if reference else "This file",
        note=f"{artifact.format} · {artifact.scheme}",
        text=words.number(m.median_ms, decimals),
        share=m.median_ms / longest,
        mark=m.p90_ms / longest,
        reference=reference,
    )


def facts(report: Report) -> tuple[tuple[str, str], ...]:
    """The few facts that stand beside the verdict: (name, value)."""
    metric, margin = words.primary(report), words.margin_of(report)
    unit = words.unit_sign(metric.unit)
    value = words.number(metric.value, words.value_decimals(metric.unit))
    smaller = [a.size_ratio_to_teacher for a in report.artifacts if a.required and a.size_ratio_to_teacher]
    faster = [a.speedup_over_teacher.value for a in report.artifacts if a.required and a.speedup_over_teacher]
    base = words.baseline_name(report)
    found = [
        ("Margin", words.ABSENT if margin is None else words.margin_text(margin, metric.unit)),
        ("Test samples", f"{report.data.splits.test.n:,}"),
        (
            f"{words.sentence(base)}’s {words.metric_word(metric.name)}",
            f"{value}{unit if unit == '%' else f' {unit}'}".rstrip(),
        ),
    ]
    if smaller:
        found.append((f"Smaller than the {base}", f"{min(smaller):.1f}×"))
    if faster:
        found.append((f"Faster than the {base}", f"{min(faster):.1f}×"))
    return (*found, ("Judgement of this test split", f"{report.judgements:,}"))


def settings(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A flat or nested mapping as (dotted key, text)."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", text) for inner, text in settings(value))
        elif isinstance(value, list | tuple):
            yield key, ", ".join(str(v) for v in value) or words.ABSENT
        else:
            yield key, words.ABSENT if value is None else str(value)
