"""A teacher that is a user's function: a scikit-learn model, a remote service, anything with outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    return _asked(kind, function_of(kind, "teacher"), options)


def fit_function(
    kind: str,
    options: Mapping[str, Any],
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    seed: int,
) -> Teacher:
    """The function that `package.module:function` gives for training samples, as of `open_function`.

    Args:
        kind: names it.
        options: of the recipe.
        inputs: model inputs (N, *shape) of the training split.
        labels: (N,).
        seed: of all that it draws.

    Raises:
        UsageError: there is no such function, it fails, or gives no function; as `open_function`.
    """
    with _named(kind):
        fitted = function_of(kind, "teacher")(inputs, labels, seed=seed, **options)
    if not callable(fitted):
        raise UsageError(
            f"teacher function {kind!r}: gave {type(fitted).__name__}, expected a function of inputs (B, ...)"
        )
    return _asked(kind, fitted, {})


def _asked(kind: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Teacher:
    def teacher(x: NDArray[np.float32]) -> NDArray[np.float32]:
        with _named(kind):
            found = np.asarray(function(x, **options), np.float32)
        if found.ndim != 2 or len(found) != len(x):
            raise UsageError(
                f"teacher function {kind!r}: gave {found.shape} for {len(x)} samples, expected ({len(x)}, K)"
            )
        return found

    return teacher


@contextmanager
def _named(kind: str) -> Iterator[None]:
    """Whatever a user's function raises, as an error that names it."""
    try:
        yield
    except EdgeKDError:
        raise
    except Exception as error:
        raise UsageError(f"teacher function {kind!r}: {type(error).__name__}: {error}") from error
