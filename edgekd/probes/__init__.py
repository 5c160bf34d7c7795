"""Model files of a few layers, to be timed: one module a format, no training framework needed."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence

from edgekd.layers import Layer

PROBES = {"onnx": "edgekd.probes.onnx", "tflite": "edgekd.probes.tflite"}
SCHEMES = ("static_wi8_ai8", "fp32")


def build(layers: Sequence[Layer], *, format: str, scheme: str, activations: str) -> bytes:
    """A file that runs the layers one after another, written as the exporters write them.

    Weights are random: what these kernels take does not depend on the values.

    Args:
        layers: each takes what the one before gives; an `add` adds its input to itself.
        format: "onnx" or "tflite".
        scheme: of `SCHEMES`; integer files take and give integers, whatever computes `in_float` within.
        activations: "signed" or "unsigned", for static_wi8_ai8.

    Raises:
        ValueError: a layer does not fit the one before it, or the scheme has no probes.
    """
    for before, after in itertools.pairwise(layers):
        flat = after.kind == "linear" and after.in_channels == before.out_elements
        if not flat and (before.out_height, before.out_width, before.out_channels) != (
            after.height,
            after.width,
            after.in_channels,
        ):
            raise ValueError(f"{after} does not follow on {before}")
    if scheme not in SCHEMES:
        raise ValueError(f"no probes for scheme {scheme!r} (known: {', '.join(SCHEMES)})")
    if scheme == "fp32" and any(layer.in_float for layer in layers):
        raise ValueError("in a file in float every layer is: in_float is for files of integers")
    return bytes(importlib.import_module(PROBES[format]).build(layers, scheme, activations))
