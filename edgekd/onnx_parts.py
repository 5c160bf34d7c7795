"""ONNX files whose weights lie in files beside them, as torch.onnx writes them."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgekd.errors import UsageError


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside an ONNX file that hold its weights.

    Raises:
        UsageError: it is no ONNX file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise UsageError(f"{path}: no ONNX file: {error}") from None
    places = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return tuple(path.parent / place for place in sorted(places))


def copy_whole(source: Path, copy: Path) -> None:
    """Copies an ONNX file with all its weights in one file.

    Raises:
        UsageError: a file of weights is not there, lies elsewhere than beside it, or they are too large.
    """
    import onnx
    from google.protobuf.message import EncodeError

    if not external_files(source):
        shutil.copyfile(source, copy)
        return
    try:
        onnx.save(onnx.load(source), copy)
    except (OSError, ValueError, EncodeError, onnx.checker.ValidationError) as error:
        raise UsageError(
            f"{source}: cannot be made one file with the weights that lie beside it: {error}",
            hint="export with external_data=False; one file holds less than 2 GB",
        ) from None
