import numpy as np
import pytest
from model_files import MLPERF, conv_onnx, linear_onnx, linear_tflite, needs_mlperf, write_onnx

from edgekd.errors import MeasurementError
from edgekd.measure.inventory import HYBRID, count, inventory_of
from edgekd.types import Operator

WEIGHT = np.random.default_rng(0).integers(-60, 60, (4, 2, 3, 3)) / 64


@pytest.mark.parametrize(
    ("zero", "int8", "float_"),
    [
        (None, 0, 2),
        (np.int8(-128), 2, 0),
        (np.uint8(0), 2, 0),
        # Signed and symmetric: the ReLU cannot be absorbed, so the convolution stays float.
        (np.int8(0), 1, 1),
    ],
    ids=["float", "signed", "unsigned", "signed-symmetric"],
)
def test_onnx_convolution_and_pool_are_counted_as_they_run(tmp_path, zero, int8, float_):
    """One convolution (its ReLU fused into it) and one pool; flattening and Q/DQ do not count."""
    found = inventory_of(conv_onnx(tmp_path / "c.onnx", WEIGHT, zero), "onnx")
    assert (found.int8_ops, found.float_ops) == (int8, float_)
    assert "Flatten" in {o.op_type for o in found.operators}


def test_dynamic_quantization_counts_as_int8(tmp_path):
    file = write_onnx(
        tmp_path / "d.onnx",
        [
            ("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], {}),
            ("MatMulInteger", ["q", "w", "z"], ["i"], {}),
            ("Cast", ["i"], ["f"], {"to": 1}),
            ("Mul", ["f", "s"], ["y"], {}),
        ],
        [("x", ["N", 8])],
        [("y", ["N", 8])],
        {"w": np.eye(8, dtype=np.int8)},
    )
    found = inventory_of(file, "onnx")
    assert found.int8_ops == 1


@needs_mlperf
@pytest.mark.parametrize(
    ("name", "int8", "float_"),
    [
        # By their papers: ResNet-8 has 9 convolutions, 3 additions, pool, dense, softmax.
        ("pretrainedResnet.tflite", 0, 15),
        ("pretrainedResnet_quant.tflite", 15, 0),
        # MobileNetV1: 1 + 2 * 13 convolutions, pool, dense, softmax.
        ("vww_96_float.tflite", 0, 30),
        ("vww_96_int8.tflite", 30, 0),
        # A dense autoencoder of 10 layers.
        ("ad01_fp32.tflite", 0, 10),
        ("ad01_int8.tflite", 10, 0),
    ],
)
def test_public_tflite_files(name, int8, float_):
    found = inventory_of(MLPERF / name, "tflite")
    assert (found.int8_ops, found.float_ops) == (int8, float_)


def test_share_by_hand(tmp_path):
    path = linear_tflite(tmp_path / "m.tflite", [[1, 2]], kind="int8", steps=(1.0, 1.0, 1.0))
    found = inventory_of(path, "tflite")
    assert found.operators == (Operator("y", "FULLY_CONNECTED", "int8"),)
    assert (found.int8_ops, found.float_ops, found.int8_share) == (1, 0, 1.0)


def test_hybrid_operators_compute_in_int8(tmp_path):
    from edgekd.measure.inventory import main_dtype

    assert main_dtype("FULLY_CONNECTED", ["float32", "int8", "float32"]) == HYBRID
    assert main_dtype("CONV_2D", ["float32", "float32"]) == "float32"
    assert main_dtype("DynamicQuantizeMatMul", ["float32"]) == HYBRID
    # The first input of a transposed convolution is its output's shape.
    assert main_dtype("TRANSPOSE_CONV", ["int32", "int8", "int8", "int32"]) == "int8"
    assert main_dtype("RANDOM", []) == ""


def test_count_leaves_out_moves_and_integers():
    operators = [
        Operator("", "Conv", "float32"),
        Operator("", "QLinearConv", "uint8"),
        Operator("", "FULLY_CONNECTED", HYBRID),
        Operator("", "Relu", "float16"),
        Operator("", "QuantizeLinear", "float32"),
        Operator("", "DEQUANTIZE", "int8"),
        Operator("", "PAD", "int8"),
        Operator("", "Reshape", "float32"),
        Operator("", "Mul", "int64"),
    ]
    found = count(operators)
    assert (found.int8_ops, found.float_ops) == (2, 2)
    assert found.operators == tuple(operators)


def test_file_that_does_not_load_is_an_error(tmp_path):
    file = linear_onnx(tmp_path / "m.onnx", [[1]], [0])
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(MeasurementError, match=r"m\.onnx: onnxruntime cannot load it"):
        inventory_of(file, "onnx")
