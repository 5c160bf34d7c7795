"""One verdict a target, and the matrix of files and devices that they stand in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from edgekd.report import words
from edgekd.report.schema import ArtifactRecord, Report
from edgekd.types import Status

# More columns than these are read by nobody: then each device has a line with the name of its file.
MOST_COLUMNS = 5
SHORT_SCHEMES = {
    "static_wi8_ai8": "int8",
    "dynamic_wi8_afp32": "int8 dynamic",
    "weight_only_wi8_afp32": "int8 weights",
}


class Checked(Protocol):
    """A check as the gate gives it or as a report holds it."""

    @property
    def name(self) -> str:
        """Which question."""

    @property
    def target(self) -> str:
        """Of what."""

    @property
    def observed(self) -> float | None:
        """What was seen, in `unit`."""

    @property
    def limit(self) -> float | None:
        """What is allowed, in `unit`."""

    @property
    def unit(self) -> str:
        """Of both."""

    @property
    def status(self) -> Status:
        """The answer."""

    @property
    def detail(self) -> str:
        """The reason."""

    @property
    def slice(self) -> tuple[str, str] | None:
        """Column and value of the samples; None: all."""


@dataclass(frozen=True)
class Matrix:
    """Devices in rows, the different files in columns, a verdict where a file ships to a device.

    `statuses` has for each device those of `files`, None where another file ships.
    """

    devices: tuple[str, ...]
    required: tuple[bool, ...]
    files: tuple[str, ...]
    statuses: tuple[tuple[Status | None, ...], ...]

    def lines(self, absent: str) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        """Head and rows as text; with many files the file is named on the line of its device."""
        named = [f"{d}{' (required)' if r else ''}" for d, r in zip(self.devices, self.required, strict=True)]
        if len(self.files) <= MOST_COLUMNS:
            rows = ((d, *(s or absent for s in row)) for d, row in zip(named, self.statuses, strict=True))
            return ("Device", *self.files), tuple(rows)
        shipped = (
            (name, self.files[next(i for i, s in enumerate(row) if s is not None)], *filter(None, row))
            for name, row in zip(named, self.statuses, strict=True)
        )
        return ("Device", "File", "Verdict"), tuple(shipped)


def worst(statuses: Iterable[Status]) -> Status:
    """FAIL over INCONCLUSIVE over PASS, as the gate concludes."""
    found = set(statuses)
    return next((s for s in (Status.FAIL, Status.INCONCLUSIVE) if s in found), Status.PASS)


def verdict_of(report: Report, target: str) -> Status:
    """The verdict of one target by the gate's own rule, whether or not it is required.

    Where the policy's metric was not judged it is never better than INCONCLUSIVE.
    """
    checks = [c for c in report.verdict.checks if c.target == target]
    metric = words.policy(report).get("metric", "accuracy")
    judged = any(c.name == metric and c.status != Status.NOT_APPLICABLE for c in checks)
    return worst([*(c.status for c in checks), *([] if judged else [Status.INCONCLUSIVE])])


def is_required(report: Report, target: str) -> bool:
    """Whether the overall verdict covers the checks of a target; those of the run as a whole always count."""
    return target not in {a.target for a in report.artifacts if a.role == "target" and not a.required}


def matrix(report: Report) -> Matrix:
    """Every target's verdict in the column of the file that ships there; equal content is one file."""
    shipped = [a for a in report.artifacts if a.role == "target"]
    shipped.sort(key=lambda a: not a.required)
    contents = [tuple(f.sha256 for f in a.files) for a in shipped]
    first = {content: a for content, a in reversed(list(zip(contents, shipped, strict=True)))}
    columns = tuple(dict.fromkeys(contents))
    return Matrix(
        devices=tuple(str(a.target) for a in shipped),
        required=tuple(a.required for a in shipped),
        files=_told_apart([first[content] for content in columns]),
        statuses=tuple(
            tuple(verdict_of(report, str(a.target)) if content == own else None for content in columns)
            for a, own in zip(shipped, contents, strict=True)
        ),
    )


def _told_apart(artifacts: list[ArtifactRecord]) -> tuple[str, ...]:
    """`tflite int8`; where several are called so, with the first target of each."""
    names = [f"{a.format} {SHORT_SCHEMES.get(a.scheme, a.scheme)}" for a in artifacts]
    return tuple(
        name if names.count(name) == 1 else f"{name} of {a.target}"
        for name, a in zip(names, artifacts, strict=True)
    )
