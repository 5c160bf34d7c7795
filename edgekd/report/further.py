"""Details that only some reports have: teachers that teach as one, heads that are not judged."""

from __future__ import annotations

from edgekd.report import words
from edgekd.report.details import Table
from edgekd.report.schema import Report


def further_tables(report: Report) -> tuple[Table, ...]:
    """Those that there is something for."""
    return (*_member_tables(report), *_head_tables(report))


def _member_tables(report: Report) -> tuple[Table, ...]:
    """Each teacher alone, where several teach as one."""
    rows = tuple(
        (m.id, words.number(m.accuracy, 2), words.number(m.weight, 3), words.number(m.seconds, 1))
        for m in report.teacher.members
    )
    head = ("Teacher", "Accuracy, %", "Weight", "Time, s")
    return (Table("Teachers that teach as one", head, rows, (1, 2, 3)),) if rows else ()


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
