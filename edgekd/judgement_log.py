"""Which judgements a test split has seen: a log in the store, and its copy beside each report.

A split that is asked again and again passes a bad candidate sooner or later. So every judgement is entered
before it is made, under the split's hash: what was judged (its files or predictions), by which policy, and,
afterwards, with which verdict. The same candidate under the same policy is the same judgement.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from edgekd.config import GateConfig
from edgekd.errors import DataError
from edgekd.report.schema import Report
from edgekd.store import hash_of, no_space_is_clear, write_atomic

FILE = "judgements.json"
# What a policy says that no verdict depends on.
_BESIDE = {"why", "expected_discordance"}


@dataclass(frozen=True)
class Judgement:
    """One judgement of a test split.

    Attributes:
        candidate: sha256 of what was judged.
        policy: sha256 of what it was judged by.
        status: PASS, FAIL or INCONCLUSIVE; None of one that was begun and not finished.
    """

    candidate: str
    policy: str
    status: str | None = None

    def is_same(self, other: Judgement) -> bool:
        """Whether both are of one candidate under one policy, whatever came of it."""
        return (self.candidate, self.policy) == (other.candidate, other.policy)


def judgement_of(report: Report, policy: GateConfig) -> Judgement:
    """What is entered for a report: the files that ship, all together, against this teacher."""
    files = sorted(f.sha256 for a in report.artifacts if a.role == "target" for f in a.files)
    teacher = report.teacher.predictions
    required = sorted(str(a.target) for a in report.artifacts if a.required)
    rest = [required, report.gate.get("budgets"), report.gate.get("targets")]
    return Judgement(
        hash_of([files, None if teacher is None else teacher.sha256]), policy_sha256(policy, rest)
    )


def policy_sha256(policy: GateConfig, rest: Any = None) -> str:
    """Of what decides in a policy, and of what a report adds to it."""
    # A recipe's gate and the same in a policy file, which may say more, are one policy.
    return hash_of([policy.model_dump(mode="json", exclude=_BESIDE, exclude_defaults=True), rest])


def count(store: Path, test_sha256: str) -> int:
    """How many judgements a test split has seen."""
    return len(_read(_path(store, test_sha256), test_sha256))


def enter(
    store: Path, test_sha256: str, new: Judgement, before: Sequence[Judgement] = ()
) -> tuple[Judgement, ...]:
    """Enters a judgement that is about to be made; the log up to it, itself last.

    Args:
        store: the store's root.
        test_sha256: of the split.
        new: the judgement; one that was entered before keeps its place.
        before: judgements made elsewhere, as a report has them.

    Raises:
        DataError: the log is damaged.
        StoreError: it cannot be written.
    """
    path = _path(store, test_sha256)
    with no_space_is_clear(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            log = list(before)
            log += [one for one in _read(path, test_sha256) if not any(map(one.is_same, log))]
            if not any(map(new.is_same, log)):
                log.append(new)
            write_atomic(path, dumps(test_sha256, log))
    place = next(i for i, one in enumerate(log) if new.is_same(one))
    return tuple(log[: place + 1])


def settle(store: Path, test_sha256: str, done: Judgement) -> None:
    """Writes down what became of a judgement that was entered."""
    path = _path(store, test_sha256)
    with no_space_is_clear(path), FileLock(path.with_suffix(".lock")):
        log = [done if done.is_same(one) else one for one in _read(path, test_sha256)]
        write_atomic(path, dumps(test_sha256, log))


def begun(log: Sequence[Judgement]) -> tuple[Judgement, ...]:
    """The log as it stands beside its report, which itself says what became of the last."""
    return (*log[:-1], replace(log[-1], status=None))


def not_passed(log: Sequence[Judgement]) -> int:
    """How many before the last did not pass."""
    return sum(one.status != "PASS" for one in log[:-1])


def dumps(test_sha256: str, log: Sequence[Judgement]) -> str:
    """The log as JSON text."""
    found = {"test_sha256": test_sha256, "judgements": [asdict(one) for one in log]}
    return json.dumps(found, indent=2, sort_keys=True) + "\n"


def parse(text: str | bytes, test_sha256: str, where: str) -> tuple[Judgement, ...]:
    """A log.

    Raises:
        DataError: it is damaged, or of another test split.
    """
    try:
        found: Any = json.loads(text)
        log = tuple(Judgement(**one) for one in found["judgements"])
        of = found["test_sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{where}: damaged: {error!r}", hint="take a copy from a report's folder") from None
    if not log:
        raise DataError(f"{where}: no judgement stands there", hint="take a copy from a report's folder")
    if of != test_sha256:
        raise DataError(f"{where}: the log of another test split, {of!r}")
    for one in log:
        if not all(isinstance(text, str) for text in (one.candidate, one.policy, one.status or "")):
            raise DataError(f"{where}: damaged: {one}")
    return log


def _path(store: Path, test_sha256: str) -> Path:
    return store / ".judgements" / f"{test_sha256}.json"


def _read(path: Path, test_sha256: str) -> tuple[Judgement, ...]:
    return parse(path.read_bytes(), test_sha256, str(path)) if path.is_file() else ()
