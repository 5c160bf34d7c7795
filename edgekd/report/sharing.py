"""Artifacts that share what is drawn: targets often get the same file, and one plot is enough then."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from edgekd.report import words
from edgekd.report.schema import ArtifactRecord

_NAMES = 4  # more are counted


@dataclass(frozen=True)
class Shared:
    """Artifacts that are alike in some way; the first stands for all."""

    artifacts: tuple[ArtifactRecord, ...]

    @property
    def first(self) -> ArtifactRecord:
        """One of them."""
        return self.artifacts[0]

    @property
    def required(self) -> bool:
        """Whether the verdict covers one of them."""
        return any(a.required for a in self.artifacts)

    @property
    def name(self) -> str:
        """All of them, or the first and how many more."""
        names = [shown_name(a) for a in self.artifacts]
        if len(names) > _NAMES:
            names = [*names[: _NAMES - 1], words.count(len(names) - _NAMES + 1, "more target")]
        return words.listed(names)


def shown_name(artifact: ArtifactRecord) -> str:
    """The target, or which float reference in which format it is."""
    if artifact.target is not None:
        return artifact.target
    return f"{words.sentence(words.name_of(artifact))}, {artifact.format}"


def shared(artifacts: Iterable[ArtifactRecord], by: Callable[[ArtifactRecord], Any]) -> tuple[Shared, ...]:
    """Groups of equal `by`, those with a required target first; artifacts without are left out."""
    found: list[tuple[Any, list[ArtifactRecord]]] = []
    for artifact in artifacts:
        key = by(artifact)
        if key is None:
            continue
        same = next((group for known, group in found if known == key), None)
        if same is None:
            found.append((key, [artifact]))
        else:
            same.append(artifact)
    groups = [Shared(tuple(sorted(group, key=lambda a: not a.required))) for _, group in found]
    return tuple(sorted(groups, key=lambda g: (g.first.role != "target", not g.required)))


def class_name(names: tuple[str, ...], index: int) -> str:
    """What a class is called, by its number where it has no name."""
    return names[index] if index < len(names) else f"class {index}"
