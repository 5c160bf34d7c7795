"""Details that only some reports have: teachers that teach as one, heads that are not judged."""

from __future__ import annotations

from edgekd.report import words
from edgekd.report.details import Table
from edgekd.report.schema import Report


def further_tables(report: Report) -> tuple[Table, ...]:
    """Those that there is something for."""
    return (*_member_tables(report), *_beside_tables(report), *_head_tables(report))


def _beside_tables(report: Report) -> tuple[Table, ...]:
    """What is told of each model beside the metric that is judged."""
    base = words.sentence(words.baseline_name(report))
    told = [(base, report.teacher.metrics)]
    told += [(s.id, s.metrics) for s in report.stages if s.metrics != report.teacher.metrics]
    told += [(a.id, a.metrics) for a in report.artifacts]
    rows = tuple(
        (
            of,
            words.metric_title(m.name),
            words.number(m.value, words.value_decimals(m.unit)),
            words.signed(m.drop, words.value_decimals(m.unit)),
            words.interval(m.drop_interval, words.value_decimals(m.unit)),
            " / ".join(filter(None, (words.unit_sign(m.unit), words.drop_unit(m.unit)))) or words.ABSENT,
        )
        for of, metrics in told
        for m in metrics
        if m.name != words.primary(report).name
    )
    head = ("Stage or file", "Metric", "Value", "Drop", f"{words.confidence(report)} interval", "Unit")
    return (Table("Beside what is judged", head, rows, (2, 3, 4)),) if rows else ()


def _member_tables(report: Report) -> tuple[Table, ...]:
    """Each teacher alone, where several teach as one."""
    metric = words.primary(report)
    judged = metric.name != "accuracy" and any(m.value is not None for m in report.teacher.members)
    rows = tuple(
        (
            m.id,
            *([words.number(m.value, words.value_decimals(metric.unit))] if judged else []),
            words.number(m.accuracy, 2),
            words.number(m.weight, 3),
            words.number(m.seconds, 1),
        )
        for m in report.teacher.members
    )
    own = [words.headed(words.metric_title(metric.name), words.unit_sign(metric.unit))] if judged else []
    head = ("Teacher", *own, "Accuracy, %", "Weight", "Time, s")
    return (Table("Teachers that teach as one", head, rows, tuple(range(1, len(head)))),) if rows else ()


def _head_tables(report: Report) -> tuple[Table, ...]:
    """What is known of the further heads of a task that has several; the gate judges the first."""
    found = [(s.id, s.head_accuracy) for s in report.stages if s.head_accuracy]
    found += [(a.id, a.head_accuracy) for a in report.artifacts if a.head_accuracy]
    if not found:
        return ()
    names = tuple(found[0][1])
    rows = tuple((of, *(words.number(known[name], 2) for name in names)) for of, known in found)
    head = ("Stage or file", *(f"{name}, accuracy, %" for name in names))
    return (Table("Further heads, shown and not judged", head, rows, tuple(range(1, len(head)))),)
