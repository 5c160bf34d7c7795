"""Where answers changed: the drop within each class, and which class became which."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgekd.report import words
from edgekd.report.axes import Axis, axis
from edgekd.report.details import Table
from edgekd.report.schema import ClassDrop, ClassDrops, Flips, Report
from edgekd.report.sharing import Shared, class_name, shared

MOST_LANES = 12
MOST_SIDE = 10  # classes of the matrix
_LABEL = 12  # characters beside the matrix
_MOST_ROWS = 10  # of a table in Markdown


@dataclass(frozen=True)
class Lane:
    """One class: its drop as a dot with a whisker, in percent of the track."""

    label: str
    note: str
    text: str
    interval: str
    at: float
    whisker: tuple[float, float]
    kind: str


@dataclass(frozen=True)
class Cell:
    """Samples that went from one class to another; `strength` 0 to 1."""

    row: int
    column: int
    text: str
    strength: float
    told: str


@dataclass(frozen=True)
class Matrix:
    """Flips between the classes that they touch most."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]
    left_out: int
    alternative: str


@dataclass(frozen=True)
class Changes:
    """What changed in one file, or in several that answer alike."""

    name: str
    summary: str
    axis: Axis
    zero: float
    lanes: tuple[Lane, ...]
    more: str
    alternative: str
    drops: Table
    matrix: Matrix | None
    flips_said: str
    pairs: Table


def changes(report: Report) -> tuple[Changes, ...]:
    """One for each file that answers differently; empty for reports without these figures."""
    groups = shared(
        report.artifacts,
        lambda a: None if a.class_drops is None or a.flips is None else (a.class_drops, a.flips),
    )
    return tuple(_changes(report, group) for group in groups)


def _changes(report: Report, group: Shared) -> Changes:
    drops, flips, names = group.first.class_drops, group.first.flips, report.class_names
    assert drops is not None and flips is not None  # grouped by them
    shown = drops.worst[:MOST_LANES]
    ends = [0.0, *(end for d in shown for end in (*(d.drop_interval or ()), d.drop_pp))]
    x = axis(ends, most=6, air=0.03)
    left = len(drops.worst) - len(shown) + drops.left_out
    more = f"{left:,} further {'class' if left == 1 else 'classes'} lost no more" if left else ""
    return Changes(
        name=group.name,
        summary=_summary(drops, names),
        axis=x,
        zero=x.at(0.0),
        lanes=tuple(_lane(d, names, x) for d in shown),
        more=more,
        alternative=f"Drop by class, {group.name}, the largest first: "
        + "; ".join(f"{class_name(names, d.class_index)} {words.signed(d.drop_pp, 2)}" for d in shown[:5])
        + " percentage points.",
        drops=_drop_table(report, group.name, drops),
        matrix=_matrix(flips, names, group.name),
        flips_said=_flips_said(flips, report),
        pairs=_pair_table(group.name, flips, names),
    )


def _summary(drops: ClassDrops, names: tuple[str, ...]) -> str:
    """The worst class in words."""
    if not drops.worst:
        return "no samples"
    worst = drops.worst[0]
    if worst.drop_pp <= 0:
        return "no class lost accuracy as observed"
    text = f"{class_name(names, worst.class_index)} lost most, {words.signed(worst.drop_pp, 2)} pp"
    return text + (
        ", not distinguishable from none" if worst.drop_interval and worst.drop_interval[0] <= 0 else ""
    )


def _lane(d: ClassDrop, names: tuple[str, ...], x: Axis) -> Lane:
    low, high = d.drop_interval or (d.drop_pp, d.drop_pp)
    return Lane(
        label=class_name(names, d.class_index),
        note=f"{d.lost:,} lost, {d.won:,} won of {d.n:,}",
        text=words.signed(d.drop_pp, 2),
        interval="" if d.drop_interval is None else words.interval(d.drop_interval, 2),
        at=x.at(d.drop_pp),
        whisker=(x.at(low), x.at(high)),
        kind="loss" if d.drop_pp > 0 else "gain" if d.drop_pp < 0 else "none",
    )


def _drop_table(report: Report, name: str, drops: ClassDrops) -> Table:
    names = report.class_names
    rows = tuple(
        (
            class_name(names, d.class_index),
            f"{d.n:,}",
            words.number(100 * d.teacher_right / d.n, 2),
            words.number(100 * d.file_right / d.n, 2),
            f"{d.lost:,}",
            f"{d.won:,}",
            words.signed(d.drop_pp, 2),
            words.interval(d.drop_interval, 2),
        )
        for d in drops.worst
    )
    base = words.sentence(words.baseline_name(report))
    head: tuple[str, ...] = (
        "Class",
        "Samples",
        f"{base} right, %",
        "File right, %",
        "Lost",
        "Won",
        "Drop, pp",
    )
    head += (f"{words.confidence(report)} interval, pp",)
    return Table(f"Drop by class: {name}", head, rows, (1, 2, 3, 4, 5, 6, 7))


def _flips_said(flips: Flips, report: Report) -> str:
    base = words.baseline_name(report)
    if not flips.n:
        return f"Every sample has the {base}’s answer."
    both = flips.n - flips.lost - flips.won
    return (
        f"{words.count(flips.n, 'sample')} of {report.data.splits.test.n:,} got another answer than the "
        f"{base}’s: {flips.lost:,} lost, {flips.won:,} won, {both:,} wrong either way."
    )


def _pair_table(name: str, flips: Flips, names: tuple[str, ...]) -> Table:
    rows = [
        (
            class_name(names, p.teacher_class),
            class_name(names, p.file_class),
            f"{p.n:,}",
            f"{p.lost:,}",
            f"{p.won:,}",
            f"{p.n - p.lost - p.won:,}",
        )
        for p in flips.pairs
    ]
    if flips.other_pairs:
        other = f"{words.count(flips.other_pairs, 'further pair')}"
        rows.append((other, words.ABSENT, f"{flips.other_n:,}", *(words.ABSENT,) * 3))
    head = ("Teacher’s answer", "File’s answer", "Samples", "Lost", "Won", "Wrong either way")
    return Table(f"Flips: {name}", head, tuple(rows), (2, 3, 4, 5))


def _matrix(flips: Flips, names: tuple[str, ...], name: str) -> Matrix | None:
    """The classes that most flips touch, in the order of the classes."""
    touched: dict[int, int] = {}
    for p in flips.pairs:
        for k in (p.teacher_class, p.file_class):
            touched[k] = touched.get(k, 0) + p.n
    if not touched:
        return None
    kept = sorted(sorted(touched, key=lambda k: (-touched[k], k))[:MOST_SIDE])
    place = {k: i for i, k in enumerate(kept)}
    inside = [p for p in flips.pairs if p.teacher_class in place and p.file_class in place]
    most = max((p.n for p in inside), default=1)
    cells = tuple(
        Cell(
            place[p.teacher_class],
            place[p.file_class],
            str(p.n) if p.n < 1000 else f"{round(p.n / 1000):,}k",
            math.sqrt(p.n / most),
            f"{class_name(names, p.teacher_class)} → {class_name(names, p.file_class)}: {p.n:,}",
        )
        for p in inside
    )
    return Matrix(
        rows=tuple(_row_label(k, names) for k in kept),
        columns=tuple(str(k) for k in kept),
        cells=cells,
        left_out=flips.n - sum(p.n for p in inside),
        alternative=f"Flips of {name}, from the teacher’s answer to the file’s: "
        + "; ".join(cell.told for cell in cells[:8])
        + ("; and so on." if len(cells) > 8 else "."),
    )


def _row_label(k: int, names: tuple[str, ...]) -> str:
    name = class_name(names, k)
    if name in (str(k), f"class {k}"):
        return str(k)
    label = f"{k} {name}"
    return label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"


def change_tables(report: Report) -> tuple[Table, ...]:
    """The worst of it, for Markdown: a few rows of each file that answers differently."""
    found = []
    for change in changes(report)[:4]:
        for table in (change.drops, change.pairs):
            rest = len(table.rows) - _MOST_ROWS
            title = table.title + (f" (the first {_MOST_ROWS} of {len(table.rows)})" if rest > 0 else "")
            if table.rows:
                found.append(Table(title, table.head, table.rows[:_MOST_ROWS], table.numeric))
    return tuple(found)
