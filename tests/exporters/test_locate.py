import copy

import flatbuffers
import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as tfl
from nets import inputs
from torch import nn

from edgekd.exporters.locate import first_departure

X = inputs(1, 3)
NOTHING = "every layer's output is in the file for the first sample; the departure shows on others"


def spoil_onnx(path, shape, target):
    """Turns the signs of the one weight of this shape (as torch has it)."""
    model = onnx.load(path)
    (found,) = [i for i in model.graph.initializer if tuple(i.dims) == shape]
    found.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(found), found.name))
    target.write_bytes(model.SerializeToString())
    return target


def spoil_tflite(path, shape, target):
    out, inner, height, width = shape
    model = tfl.ModelT.InitFromObj(tfl.Model.GetRootAs(path.read_bytes(), 0))
    (found,) = [t for t in model.subgraphs[0].tensors if list(t.shape) == [out, height, width, inner]]
    kind = {0: np.float32, 9: np.int8}[found.type]
    values = np.asarray(model.buffers[found.buffer].data, np.uint8).view(kind)
    model.buffers[found.buffer].data = np.ascontiguousarray(-np.maximum(values, -127)).view(np.uint8)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    target.write_bytes(bytes(builder.Output()))
    return target


SPOIL = {"onnx": spoil_onnx, "tflite": spoil_tflite}
CASES = [("onnx", "fp32"), ("onnx", "static_wi8_ai8"), ("tflite", "fp32"), ("tflite", "static_wi8_ai8")]
LAYERS = {
    "stem": (8, 2, 3, 3),
    "blocks.1.conv1": (16, 8, 3, 3),  # beside it runs a shortcut that stays right
    "blocks.1.conv2": (16, 16, 3, 3),
    "blocks.1.shortcut.0": (16, 8, 1, 1),
}


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_layer_with_the_spoilt_weight_is_named(exported, case, layer, tmp_path):
    module, path = exported(*case)
    spoilt = SPOIL[case[0]](path, LAYERS[layer], tmp_path / path.name)
    told = first_departure(module, spoilt, case[0], X)
    assert told.startswith("the first tensor that departs: ")
    prefix = "" if case[1] == "fp32" else "body."  # beside it in what is exported is the output's quantizer
    assert told.endswith(f"the output of '{prefix}{layer}'")


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_right_file_departs_nowhere(exported, case):
    module, path = exported(*case)
    assert first_departure(module, path, case[0], X) == NOTHING


def test_what_agrees_last_is_told(exported, tmp_path):
    module, path = exported("onnx", "fp32")
    spoilt = spoil_onnx(path, LAYERS["blocks.1.conv1"], tmp_path / path.name)
    assert first_departure(module, spoilt, "onnx", X) == (
        "the first tensor that departs: after 'blocks.0.relu2', the output of 'blocks.1.conv1'"
    )


def test_a_relu_in_place_hides_nothing(exported, tmp_path):
    module, path = exported("onnx", "fp32")
    module = copy.deepcopy(module)
    for m in module.modules():
        if isinstance(m, nn.ReLU):
            m.inplace = True
    assert first_departure(module, path, "onnx", X) == NOTHING
    spoilt = spoil_onnx(path, LAYERS["blocks.1.conv1"], tmp_path / path.name)
    assert first_departure(module, spoilt, "onnx", X).endswith("the output of 'blocks.1.conv1'")


def test_no_hook_is_left_behind(exported):
    module, path = exported("onnx", "fp32")
    first_departure(module, path, "onnx", X)
    assert not any(m._forward_hooks for m in module.modules())
    assert torch.is_grad_enabled()
