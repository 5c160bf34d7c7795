"""Torch module to artifact file, one module a format."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

EXPORTERS = {"onnx": "edgekd.exporters.onnx", "tflite": "edgekd.exporters.tflite"}
SUFFIXES = {"onnx": ".onnx", "tflite": ".tflite"}


def export(
    module: nn.Module,
    example_input: Tensor,
    path: Path,
    *,
    format: str,
    scheme: str,
    input_name: str,
    metadata: dict[str, str],
    halves: bool = False,
) -> None:
    """Writes `module` to `path` in a format and a scheme.

    Args:
        module: for static_wi8_ai8 what `quantize.schemes.lower` gave, else a float network.
        example_input: (1, *shape), in the torch layout.
        path: where the file goes; written whole or not at all.
        format: "onnx" or "tflite".
        scheme: name of the scheme.
        input_name: name of the input tensor in the file.
        metadata: written into the file.
        halves: whether float weights that 16 bits hold exactly are stored so, for static_wi8_ai8.

    Raises:
        ExportError: an operator that the format cannot express, named.
    """
    exporter = importlib.import_module(EXPORTERS[format])
    given = {"scheme": scheme, "input_name": input_name, "metadata": metadata, "halves": halves}
    exporter.export(module, example_input, path, **given)
