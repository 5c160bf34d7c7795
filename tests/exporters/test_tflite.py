import json

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as tfl
from ai_edge_litert.interpreter import Interpreter
from nets import METADATA, write
from torch import nn

SCHEMES = ["fp32", "fp16", "dynamic_wi8_afp32", "weight_only_wi8_afp32", "static_wi8_ai8"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_metadata_stands_in_the_file(exported, scheme):
    model = tfl.Model.GetRootAs(exported("tflite", scheme)[1].read_bytes(), 0)
    entries = {model.Metadata(i).Name(): model.Metadata(i).Buffer() for i in range(model.MetadataLength())}
    content = model.Buffers(entries[b"edgekd"]).DataAsNumpy().tobytes()
    assert json.loads(content) == METADATA


@pytest.mark.parametrize("scheme", SCHEMES)
def test_names_shapes_and_types_as_the_runtime_reads_them(exported, scheme):
    interpreter = Interpreter(str(exported("tflite", scheme)[1]))
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    kind = np.int8 if scheme == "static_wi8_ai8" else np.float32
    assert (taken["name"], taken["shape"].tolist(), taken["dtype"]) == ("image", [1, 8, 8, 2], kind)
    assert (given["name"], given["shape"].tolist(), given["dtype"]) == ("logits", [1, 5], kind)
    signature = interpreter.get_signature_list()
    assert list(signature.values()) == [{"inputs": ["image"], "outputs": ["logits"]}]
    rng = np.random.default_rng(0)
    fed = rng.integers(-9, 9, (1, 8, 8, 2)).astype(kind)
    by_name = interpreter.get_signature_runner()(image=fed)["logits"]
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], fed)
    interpreter.invoke()
    np.testing.assert_array_equal(by_name, interpreter.get_tensor(given["index"]))


def test_tensors_have_the_names_of_layers(exported):
    module, path = exported("tflite", "fp32")[:2]
    names = [t["name"] for t in Interpreter(str(path)).get_tensor_details() if t["name"]]
    assert len(set(names)) == len(names) and {"image", "logits"} <= set(names)
    inside = {n.split(":")[0] for n in names} - {"image", "logits", "arith.constant"}
    assert len(inside) > 5 and inside <= {name for name, _ in module.named_modules()}


class My_Net(nn.Module):  # the converter joins class and attribute by an underscore
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())
        self.logits = nn.Linear(4 * 36, 6)
        self.image = nn.Linear(6, 5)

    def forward(self, x):
        return self.image(self.logits(self.body(x).flatten(1)).relu())


def test_names_of_odd_networks(tmp_path):
    path = tmp_path / "model.tflite"
    write(nn.Sequential(My_Net()).eval(), path, "tflite", "fp32")
    details = Interpreter(str(path))
    names = [t["name"] for t in details.get_tensor_details() if t["name"]]
    assert len(set(names)) == len(names)
    found = {n.split(":")[0] for n in names}
    assert {"0.logits", "0.image", "image", "logits"} <= found and any(n.startswith("0.body.") for n in found)
    assert details.get_input_details()[0]["name"] == "image"


def test_a_layer_that_has_the_outputs_name(tmp_path):
    path = tmp_path / "model.tflite"
    write(My_Net().eval(), path, "tflite", "fp32")
    details = Interpreter(str(path))
    names = [t["name"] for t in details.get_tensor_details() if t["name"]]
    assert len(set(names)) == len(names) and {"logits:2", "image:2"} <= set(names)
    assert details.get_output_details()[0]["name"] == "logits"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_names_are_no_weight_of_their_own(exported, scheme):
    model = tfl.ModelT.InitFromObj(tfl.Model.GetRootAs(exported("tflite", scheme)[1].read_bytes(), 0))
    assert max(len(t.name) for g in model.subgraphs for t in g.tensors) < 40


def operators(path):
    model = tfl.ModelT.InitFromObj(tfl.Model.GetRootAs(path.read_bytes(), 0))
    names = {v: k for k, v in vars(tfl.BuiltinOperator).items() if isinstance(v, int)}
    types = {v: k for k, v in vars(tfl.TensorType).items() if isinstance(v, int)}
    graph = model.subgraphs[0]
    for op in graph.operators:
        code = model.operatorCodes[op.opcodeIndex]
        kind = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        yield kind, [types[graph.tensors[i].type] for i in op.inputs if i >= 0]


WEIGHTS = {
    "fp32": ["FLOAT32", "FLOAT32"],
    "dynamic_wi8_afp32": ["FLOAT32", "INT8"],
    "static_wi8_ai8": ["INT8", "INT8"],
}


@pytest.mark.parametrize("scheme", WEIGHTS)
def test_convolutions_have_the_schemes_types(exported, scheme):
    found = [types[:2] for kind, types in operators(exported("tflite", scheme)[1]) if kind == "CONV_2D"]
    assert found == [WEIGHTS[scheme]] * 6  # stem, two a block, one shortcut


def test_fp16_weights_are_stored_in_half(exported):
    kinds = list(operators(exported("tflite", "fp16")[1]))
    assert sum(kind == "DEQUANTIZE" and types == ["FLOAT16"] for kind, types in kinds) >= 7


def test_files_shrink_with_their_scheme(exported):
    sizes = {s: exported("tflite", s)[1].stat().st_size for s in ("fp32", "fp16")}
    params = sum(p.numel() for p in exported("tflite", "fp32")[0].parameters())
    # Half the bytes a weight; what fp16 adds is one DEQUANTIZE a tensor.
    assert sizes["fp32"] - sizes["fp16"] == pytest.approx(2 * params, abs=5000)
