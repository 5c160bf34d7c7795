"""Whether a network's forward can be traced, as exporters must, and where in its code it cannot."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import traceback
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekd.errors import ExportError

HINT = "avoid what depends on tensors' values: Python control flow, float(), .item(), NumPy"
_NOT_THEIRS = (Path(torch.__file__).parent, Path(__file__).parent)


def place_of(error: BaseException) -> str:
    """File, line and code of a network's own that an error came from, or nothing where none of it ran."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.line and not any(Path(frame.filename).is_relative_to(folder) for folder in _NOT_THEIRS)
    ]
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno}, `{own[-1].line}`" if own else ""


def refusal(module: nn.Module, error: BaseException) -> ExportError:
    """What is said of a network that an error shows to be untraceable."""
    reason = str(error).strip().partition("\n")[0]
    return ExportError(
        f"{type(module).__name__}: forward cannot be traced{place_of(error)}: {reason}", hint=HINT
    )


def check(module: nn.Module, example_input: Tensor, *, any_batch: bool) -> None:
    """Nothing where the exporters can follow a network.

    Args:
        module: left as it is.
        example_input: (1, *shape).
        any_batch: whether a file leaves its number of samples open, as ONNX files do.

    Raises:
        ExportError: with the place that they cannot follow.
    """
    traced, inputs, shapes = copy.deepcopy(module).eval(), (example_input,), None
    if any_batch:  # torch.export takes one sample for a matter of the network
        inputs, shapes = (torch.cat([example_input, example_input]),), ({0: torch.export.Dim("batch")},)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # torch lists the whole network so far
            torch.export.export(traced, inputs, dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises many types; all of them mean the same here
        raise refusal(module, error) from error
    finally:
        logging.disable(before)
