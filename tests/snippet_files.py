"""Files with metadata as a run writes it, of every kind of input, for tests of snippets."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import nn

from edgekd.layouts import to_layout
from edgekd.types import InputSpec

NAMES = ("a", 'quo"te$x\\', "1\x01é\n2")  # what a language may take for something else
HEADS = {"two or more": ("no", "yes")}
TABLE = InputSpec(
    "row",
    (6,),
    "NC",
    "float32",
    (-3.0, 3.0),
    1.7,
    (0.1, -2.0, 1e-9, 3e7, 0.0, 1.0),
    (0.3, 2.0, 7.0, 1e5, 1e-6, 1.0),
)
IDS = InputSpec("ids", (7,), "NC", "int32", (0, 39), 1.0, (), ())
CASES = [
    ("image", "tflite", "static_wi8_ai8"),
    ("image", "tflite", "fp32"),
    ("image", "onnx", "static_wi8_ai8"),
    ("image", "onnx", "fp16"),
    ("table", "tflite", "fp32"),
    ("table", "onnx", "fp32"),
    ("ids", "tflite", "fp32"),
    ("ids", "onnx", "fp32"),
]


class Words(nn.Module):
    """The mean of embeddings, and five outputs of it."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(40, 4), nn.Linear(4, 5)

    def forward(self, ids):
        return self.head(self.embedding(ids).mean(1))


class Row(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        return self.head(x)


@dataclass(frozen=True)
class Made:
    """A file, and what is known of it from elsewhere than the file."""

    path: Path
    spec: InputSpec
    format: str

    def raw(self, n, seed=0):
        """Raw samples (n, *shape), with all that their dtype can hold."""
        rng = np.random.default_rng(seed)
        if self.spec.raw_dtype == "uint8":
            return rng.integers(0, 256, (n, *self.spec.shape)).astype(np.uint8)
        if self.spec.raw_dtype == "int32":
            return rng.integers(0, 40, (n, *self.spec.shape)).astype(np.int32)
        return (rng.standard_normal((n, *self.spec.shape)) * 5).astype(np.float32)

    def prepared(self, raw):
        """Model inputs in the file's layout, as the chain prepares them."""
        values = raw if self.spec.raw_dtype == "int32" else self.spec.preprocess(raw)
        return to_layout(values, "NHWC" if self.format == "tflite" else "NCHW")


def metadata(spec, format, scheme):
    if len(spec.shape) == 3 and format == "tflite":
        channels, height, width = spec.shape
        written = asdict(spec) | {"shape": (height, width, channels), "layout": "NHWC"}
    else:
        written = asdict(spec)
    return {
        "edgekd.input": json.dumps(written),
        "edgekd.class_names": json.dumps(NAMES),
        "edgekd.heads": json.dumps(HEADS),
        "edgekd.scheme": scheme,
    }


def above_the_call(text):
    """What needs the standard library alone."""
    above, marked, _ = text.partition("// The call.")
    assert marked
    return above
