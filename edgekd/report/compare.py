"""Two reports side by side as one self-contained HTML page, and words that the terminal shares with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekd.report import words
from edgekd.report.compared import Change, Comparison, TargetChange, Word
from edgekd.report.pages import environment

TRACK = 1000.0  # width of a plot's own coordinates; the page stretches them to the column
SAID: dict[Word, str] = {
    "better": "better",
    "worse": "worse",
    "same": "same",
    "noise": "within noise",
    "unjudged": "not judged",
    "not comparable": "not comparable",
}
TONES: dict[Word, str] = {"better": "pass", "worse": "fail", "not comparable": "inconclusive"}
FIGURES = {"size": "Size", "median": "Median latency", "p90": "p90 latency", "memory": "Peak memory"}


@dataclass(frozen=True)
class Cell:
    """One figure of one target as text; `note` is what must be seen at once: how, or why not."""

    name: str
    old: str
    new: str
    change: str
    interval: str
    word: str
    tone: str
    basis: str
    note: str


@dataclass(frozen=True)
class Mark:
    """A change with its interval on a plot's track (0 to 1000)."""

    label: str
    at: float
    low: float
    high: float
    text: str
    interval: str
    tone: str


@dataclass(frozen=True)
class Plot:
    """Changes of one figure on one scale; `zero` is no change."""

    title: str
    zero: float
    marks: tuple[Mark, ...]
    ends: tuple[str, str]


def name_of(figure: str) -> str:
    """`p90` as "Latency, p90"."""
    return FIGURES.get(figure, words.sentence(figure))


def cell(change: Change) -> Cell:
    """A change in the units that it is read in."""
    low, high = change.interval if change.interval is not None else (None, None)
    return Cell(
        name=name_of(change.figure),
        old=_value(change, change.old),
        new=_value(change, change.new),
        change=_change(change, change.change),
        interval="" if low is None or high is None else f"[{_bare(change, low)}, {_bare(change, high)}]",
        word=SAID[change.word],
        tone=TONES.get(change.word, "none"),
        basis=change.basis + _alone(change),
        note=_note(change),
    )


def _note(change: Change) -> str:
    if change.word == "not comparable":
        return change.brief or change.basis
    if _is_ratio(change):
        return ""
    return "not paired: two intervals" if change.interval is None else "paired"


def _alone(change: Change) -> str:
    """The two intervals, where these were compared."""
    if change.old_interval is None or change.new_interval is None:
        return ""
    ends = (
        "[" + ", ".join(words.number(end, words.value_decimals(change.unit)) for end in pair) + "]"
        for pair in (change.old_interval, change.new_interval)
    )
    return ": {} then, {} now".format(*ends)


def _value(change: Change, value: float | None) -> str:
    if value is None:
        return words.ABSENT
    if change.unit == "bytes":
        return f"{words.number(value / 1000, 1)} kB"
    if change.unit == "ms":
        return f"{words.number(value, 4 if value < 0.1 else words.ms_decimals([value]))} ms"
    text = words.number(value, words.value_decimals(change.unit))
    return f"{text}%" if change.unit == "percent" else f"{text} {change.unit}".rstrip()


def _is_ratio(change: Change) -> bool:
    return change.unit in ("bytes", "ms")


def _bare(change: Change, value: float) -> str:
    if _is_ratio(change):
        return words.signed(100 * (value - 1), 1)
    return words.signed(value, words.value_decimals(change.unit))


def _change(change: Change, value: float | None) -> str:
    """A ratio as what it is more or less, in percent; a difference in its unit."""
    if value is None:
        return words.ABSENT
    unit = "%" if _is_ratio(change) else f" {words.drop_unit(change.unit)}".rstrip()
    return f"{_bare(change, value)}{unit}"


def tone(found: Comparison) -> tuple[str, str]:
    """The word for the whole, and the class that colours it."""
    told = {change.word for target in found.targets for change in target.figures}
    told |= {target.verdict for target in found.targets}
    if {"better", "worse"} <= told:
        return "Better and worse", "inconclusive"
    if "worse" in told:
        return "Worse", "fail"
    if "better" in told:
        return "Better", "pass"
    return "No difference shown", "none"


def headline(found: Comparison) -> str:
    """What got worse and what got better beyond noise, and what to mind, in a sentence each."""
    parts = []
    for word in ("worse", "better"):
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, targets in _told(found.targets, word).items():
            groups.setdefault(tuple(targets), []).append(name)
        said = [f"{words.listed(names)} on {_targets(targets, found)}" for targets, names in groups.items()]
        parts += [f"{words.sentence(word)}: {'; '.join(said)}."] if said else []
    if not found.targets:
        return "The two reports have no target in common."
    parts = parts or ["Nothing that could be compared changed beyond noise."]
    if found.cautioned:
        parts.append(f"Read it with the cautions about {words.listed(found.cautioned)}.")
    return " ".join(parts)


def _told(targets: Iterable[TargetChange], word: str) -> dict[str, list[str]]:
    """Figure -> targets, of what is said to be `word`."""
    named: dict[str, list[str]] = {}
    for target in targets:
        if target.verdict == word:
            named.setdefault("verdict", []).append(target.target)
        for change in target.figures:
            if change.word == word:
                name = name_of(change.figure)
                named.setdefault(name[:1].lower() + name[1:], []).append(target.target)
    return named


def _targets(targets: Sequence[str], found: Comparison) -> str:
    if len(targets) == len(found.targets) > 2:
        return f"all {len(targets)} targets"
    return words.listed(targets)


def html(found: Comparison) -> str:
    """The comparison as one HTML document; all text from the reports is escaped."""
    word, colour = tone(found)
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            found=found,
            word=word,
            tone=colour,
            headline=headline(found),
            rows=[(target, [cell(change) for change in target.figures]) for target in found.targets],
            heads=[name_of(change.figure) for change in found.targets[0].figures] if found.targets else [],
            plots=[plot for figure in (found.metric, "median") if (plot := _plot(found, figure)) is not None],
            tones=TONES,
        )
    )


def _plot(found: Comparison, figure: str) -> Plot | None:
    """Changes that have an interval; none where there is none."""
    shown = [
        (target.target, change, change.change, change.interval)
        for target in found.targets
        for change in target.figures
        if change.figure == figure and change.interval is not None and change.change is not None
    ]
    if not shown:
        return None
    neutral = 1.0 if _is_ratio(shown[0][1]) else 0.0
    far = max(abs(end - neutral) for _, _, _, ends in shown for end in ends) * 1.08
    far = far if far > 0 and math.isfinite(far) else 1.0

    def at(value: float) -> float:
        return round(TRACK / 2 * (1 + (value - neutral) / far), 3)

    marks = tuple(
        Mark(
            label=target,
            at=at(value),
            low=at(ends[0]),
            high=at(ends[1]),
            text=cell(change).change,
            interval=cell(change).interval,
            tone=TONES.get(change.word, "none"),
        )
        for target, change, value, ends in shown
    )
    first = shown[0][1]
    unit = "%" if neutral else words.drop_unit(first.unit)
    ends = (_change(first, neutral - far), _change(first, neutral + far))
    title = f"{name_of(figure)}, change" + (f" in {unit}" if unit else "")
    return Plot(title, at(neutral), marks, ends)
