"""Jobs that were done before a run was cut are not done again: their answers lie in a folder."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.devices.board import READ
from edgekd.devices.events import Event, RunJob
from edgekd.store import hash_of, sha256_file, write_atomic


class KeptJobs:
    """A `RunJob` that remembers, by what was asked: files count by their content, and the second of two
    equal jobs is another one. What is damaged, or is not the scores that the agent told of, is done anew.

    Args:
        run: does what was not done yet.
        folder: where answers are kept.
    """

    def __init__(self, run: RunJob, folder: Path) -> None:
        self._run, self._folder = run, folder
        self._asked: Counter[str] = Counter()

    def __call__(self, job: Mapping[str, Any], *, time_limit_s: float = 600.0) -> tuple[Event, ...]:
        """The events of the job, of now or of then."""
        asked = hash_of(_by_content(job))[:24]
        self._asked[asked] += 1
        events = self._folder / f"{asked}-{self._asked[asked]}.json"
        scores = events.with_suffix(".npy")
        outputs = job.get("outputs")
        if (kept := _read(events)) is not None:
            if outputs is None:
                return kept
            if scores.is_file() and sha256_file(scores) == _sha256(kept):
                shutil.copyfile(scores, outputs)
                return kept
        found = self._run(job, time_limit_s=time_limit_s)
        if outputs is not None:
            write_atomic(scores, Path(outputs).read_bytes())
        write_atomic(events, json.dumps(found))  # last: what has events is whole
        return found


def _read(path: Path) -> tuple[Event, ...] | None:
    """The events of a job that was done; None where it was not, or where its file is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    sound = isinstance(found, list) and all(isinstance(e, dict) and "event" in e for e in found)
    return tuple(found) if sound else None


def _sha256(events: tuple[Event, ...]) -> str | None:
    """Of the scores, as the agent told it; None where it told of none, so that no file equals it."""
    told = next((event for event in events if event["event"] == "scores"), {})
    return told.get("sha256")


def _by_content(job: Any) -> Any:
    if isinstance(job, list | tuple):
        return [_by_content(each) for each in job]
    if not isinstance(job, Mapping):
        return job
    return {
        key: sha256_file(Path(value)) if key in READ and value is not None else _by_content(value)
        for key, value in job.items()
        if key != "outputs"
    }
