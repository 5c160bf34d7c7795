"""Small model files whose outputs can be worked out by hand, and the public ones."""

import os
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as tfl

MLPERF = Path(os.environ.get("EDGEKD_DATA", "")) / "models" / "mlperf_tiny"
needs_mlperf = pytest.mark.skipif(
    not os.environ.get("EDGEKD_DATA"), reason="EDGEKD_DATA (the public model files) is not set"
)


def write_onnx(path, nodes, inputs, outputs, constants):
    """An ONNX file; `inputs` and `outputs` are (name, shape) or (name, shape, onnx type)."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper

    def info(name, shape, kind=onnx.TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        [helper.make_node(kind, i, o, **attributes) for kind, i, o, attributes in nodes],
        "graph",
        [info(*i) for i in inputs],
        [info(*o) for o in outputs],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def linear_onnx(path, weight, bias, batch="N"):
    """y = x @ weight + bias, float32."""
    weight, bias = np.asarray(weight, np.float32), np.asarray(bias, np.float32)
    return write_onnx(
        path,
        [("Gemm", ["x", "w", "b"], ["y"], {})],
        [("x", [batch, weight.shape[0]])],
        [("y", [batch, weight.shape[1]])],
        {"w": weight, "b": bias},
    )


def conv_onnx(path, weight, zero=None, size=6):
    """Convolution 3x3, ReLU, mean over the image; with `zero` (a numpy int8 or uint8), Q/DQ around each.

    Activations are quantized in steps of 1/4 from that zero point, weights in
    steps of 1/64, so small integer inputs and such weights go in exactly.
    """
    weight = np.asarray(weight, np.float32)
    constants, nodes = {}, []

    def around(tensor):
        if zero is None:
            return tensor
        nodes.append(("QuantizeLinear", [tensor, "step", "zero"], [tensor + "_q"], {}))
        nodes.append(("DequantizeLinear", [tensor + "_q", "step", "zero"], [tensor + "_dq"], {}))
        return tensor + "_dq"

    kernel = "w"
    if zero is None:
        constants["w"] = weight
    else:
        constants.update(
            step=np.float32(1 / 4), zero=np.asarray(zero), w_step=np.float32(1 / 64), w_zero=np.int8(0)
        )
        constants["w_q"] = np.rint(weight * 64).astype(np.int8)
        nodes.append(("DequantizeLinear", ["w_q", "w_step", "w_zero"], ["w"], {}))
    nodes.append(("Conv", [around("x"), kernel], ["conv"], {"pads": [1, 1, 1, 1]}))
    nodes.append(("Relu", ["conv"], ["relu"], {}))
    nodes.append(("GlobalAveragePool", [around("relu")], ["mean"], {}))
    nodes.append(("Flatten", [around("mean")], ["y"], {}))
    return write_onnx(
        path,
        nodes,
        [("x", ["N", weight.shape[1], size, size])],
        [("y", ["N", weight.shape[0]])],
        constants,
    )


def conv_by_hand(x, weight):
    """What the float file of `conv_onnx` computes, in plain numpy."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.maximum(np.einsum("nchwij,ocij->nohw", windows, weight), 0).mean(axis=(2, 3))


def linear_tflite(path, weight, *, kind="float32", steps=(1.0, 1.0, 1.0), zeros=(0, 0), free_batch=True):
    """y = x @ weight.T as one FULLY_CONNECTED; weight (outputs, inputs).

    Args:
        kind: dtype of activations; weights are int8 where it is an integer.
        steps: of input, weights, output.
        zeros: zero points of input, output.
        free_batch: whether the file leaves its batch open.
    """
    whole = kind != "float32"
    codes = {"float32": tfl.TensorType.FLOAT32, "int8": tfl.TensorType.INT8, "int16": tfl.TensorType.INT16}
    stored = np.asarray(weight, np.int8 if whole else np.float32)
    weight_code = tfl.TensorType.INT8 if whole else tfl.TensorType.FLOAT32

    def tensor(name, shape, code, buffer, step, zero, signature=None):
        made = tfl.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(shape), code, buffer
        made.shapeSignature = signature
        made.hasRank = True
        if whole:
            made.quantization = tfl.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [step], [zero]
        return made

    outputs, inputs = stored.shape
    open_ = (lambda size: [-1, size]) if free_batch else (lambda size: None)
    graph = tfl.SubGraphT()
    graph.tensors = [
        tensor("x", (1, inputs), codes[kind], 0, steps[0], zeros[0], open_(inputs)),
        tensor("w", stored.shape, weight_code, 1, steps[1], 0),
        tensor("y", (1, outputs), codes[kind], 0, steps[2], zeros[1], open_(outputs)),
    ]
    graph.inputs, graph.outputs = [0], [2]
    operator = tfl.OperatorT()
    operator.inputs, operator.outputs = [0, 1, -1], [2]
    operator.builtinOptionsType = tfl.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = tfl.FullyConnectedOptionsT()
    graph.operators = [operator]
    code = tfl.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = tfl.BuiltinOperator.FULLY_CONNECTED
    code.version = 4 if kind == "int8" else 7 if whole else 1
    weights = tfl.BufferT()
    weights.data = np.frombuffer(stored.tobytes(), np.uint8)
    model = tfl.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [tfl.BufferT(), weights]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
