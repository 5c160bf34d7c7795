"""The errors a user may meet. Each says what is wrong, where, and how to mend it.

The command line turns any of them into one line and an exit code; a traceback
is kept for faults of edgekd itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgeKDError(Exception):
    """Base of every error that a user can cause or mend.

    Args:
        message: what is wrong and where (file, key, value).
        hint: what to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(EdgeKDError):
    """A recipe, a target, a flag or a model that cannot be used as it stands."""


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """A remedy for a name that is not known: the one that was probably meant, else `otherwise`."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else otherwise


class DataError(EdgeKDError):
    """A data file or data set that is missing, truncated, leaking or inconsistent."""


class StoreError(EdgeKDError):
    """The store or the workdir cannot be read, written or locked."""


class TrainingError(EdgeKDError):
    """Training diverged (NaN or infinite loss)."""

    exit_code = 4


class TrackingError(EdgeKDError):
    """A tracking server does not take what it is sent."""


class ExportError(EdgeKDError):
    """A model holds something that the target's format cannot express."""

    exit_code = 4


class EvidenceError(EdgeKDError):
    """A bundle that is not what was signed, or does not show what it says."""

    exit_code = 4


class MeasurementError(EdgeKDError):
    """A model could not be run or measured in its runtime."""

    exit_code = 4


class ParityError(MeasurementError):
    """The exported file does not compute what the model it came from computes."""
