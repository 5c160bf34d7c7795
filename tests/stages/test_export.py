"""What an export refuses to ship."""

from pathlib import Path

import pytest

from edgekd.errors import ExportError
from edgekd.stages.export import _check_floats
from edgekd.types import Operator

OPERATORS = [
    Operator("a", "QLinearConv", "uint8"),
    Operator("b", "FusedConv", "float32"),
    Operator("c", "GlobalAveragePool", "float32"),
    Operator("d", "FULLY_CONNECTED", "float32"),
    Operator("e", "MatMul", "float32"),
]


def test_a_file_whose_runtime_rounds_what_was_left_in_float_is_refused():
    _check_floats(OPERATORS, 3, Path("model.onnx"))
    with pytest.raises(ExportError, match=r"model\.onnx: 4 layers were left in float, and .* computes 3 so"):
        _check_floats(OPERATORS, 4, Path("model.onnx"))
