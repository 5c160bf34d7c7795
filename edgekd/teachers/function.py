"""A teacher that is a user's function: a scikit-learn model, a remote service, anything with outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import EdgeKDError, UsageError
from edgekd.teachers import Teacher
from edgekd.user_code import function_of


def open_function(kind: str, options: Mapping[str, Any]) -> Teacher:
    """What `package.module:function` gives for model inputs (B, *shape): outputs (B, K), as float32.

    Raises:
        UsageError: there is no such function; when asked: it fails, or gives another shape.
    """
    function = function_of(kind, "teacher")

    def teacher(x: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            found = np.asarray(function(x, **options), np.float32)
        except EdgeKDError:
            raise
        except Exception as error:  # the user's function may raise anything
            raise UsageError(f"teacher function {kind!r}: {type(error).__name__}: {error}") from error
        if found.ndim != 2 or len(found) != len(x):
            raise UsageError(
                f"teacher function {kind!r}: gave {found.shape} for {len(x)} samples, expected ({len(x)}, K)"
            )
        return found

    return teacher
