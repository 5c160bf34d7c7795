import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from nets import METADATA, inputs, outputs, run_onnx, write
from torch import nn

from edgekd.errors import ExportError


def session(path):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


SCHEMES = ["fp32", "fp16", "dynamic_wi8_afp32", "weight_only_wi8_afp32", "static_wi8_ai8"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_names_shapes_and_metadata_as_the_runtime_reads_them(exported, scheme):
    found = session(exported("onnx", scheme)[1])
    (taken,), (given,) = found.get_inputs(), found.get_outputs()
    assert (taken.name, taken.type, taken.shape[1:]) == ("image", "tensor(float)", [2, 8, 8])
    assert (given.name, given.type, given.shape[1:]) == ("logits", "tensor(float)", [5])
    assert isinstance(taken.shape[0], str)  # any batch
    assert taken.shape[0] == given.shape[0]
    assert found.get_modelmeta().custom_metadata_map == METADATA
    assert found.get_modelmeta().producer_name == "edgekd"


@pytest.mark.parametrize("scheme", ["fp32", "static_wi8_ai8"])
def test_nothing_stands_in_the_file_that_runtimes_infer(exported, scheme):
    assert not onnx.load(exported("onnx", scheme)[1]).graph.value_info


def initializers(path):
    model = onnx.load(path)
    return {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}


def kinds(path):
    return [n.op_type for n in onnx.load(path).graph.node]


def test_weights_have_the_schemes_type(exported):
    large = {
        s: {str(v.dtype) for v in initializers(exported("onnx", s)[1]).values() if v.size >= 100}
        for s in SCHEMES
    }
    assert large["fp32"] == {"float32"}
    assert large["fp16"] == {"float16"}
    assert large["dynamic_wi8_afp32"] <= {"int8", "float32"}
    assert large["static_wi8_ai8"] == large["weight_only_wi8_afp32"] == {"int8"}


@pytest.mark.parametrize(("activations", "dtype"), [("signed", "int8"), ("unsigned", "uint8")])
def test_activations_have_the_targets_signedness(exported, activations, dtype):
    path = exported("onnx", "static_wi8_ai8", activations)[1]
    constants = initializers(path)
    found = [
        str(constants[n.input[2]].dtype) for n in onnx.load(path).graph.node if n.op_type == "QuantizeLinear"
    ]
    assert set(found) == {dtype}
    assert len(found) >= 8


def test_both_signednesses_give_the_same(exported):
    a, b = (run_onnx(exported("onnx", "static_wi8_ai8", s)[1], inputs(30)) for s in ("signed", "unsigned"))
    assert (np.abs(a - b) > 1e-6).mean() < 0.05


def test_the_opset_is_18_and_the_mean_is_one_operator(exported):
    model = onnx.load(exported("onnx", "fp32")[1])
    assert [(o.domain, o.version) for o in model.opset_import if o.domain == ""] == [("", 18)]
    assert "GlobalAveragePool" in kinds(exported("onnx", "fp32")[1])
    assert "ReduceMean" not in kinds(exported("onnx", "fp32")[1])
    assert "GlobalAveragePool" in kinds(exported("onnx", "static_wi8_ai8")[1])


class Means(nn.Module):
    """Means over other axes than the image's, and one that drops them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3)

    def forward(self, x):
        y = self.conv(x)
        y = y + y.mean(1, keepdim=True) + y.mean((1, 2), keepdim=True) + y.mean((2, 3), keepdim=True)
        return y.mean((2, 3))[:, :5]


def test_other_means_stay_what_they_are(tmp_path):
    torch.manual_seed(0)
    net = Means().eval()
    write(net, tmp_path / "model.onnx", "onnx", "fp32")
    np.testing.assert_allclose(
        run_onnx(tmp_path / "model.onnx", inputs(4)), outputs(net, inputs(4)), atol=1e-5
    )


def test_nothing_of_the_tracing_is_left(exported):
    model = onnx.load(exported("onnx", "fp32")[1])
    assert not any(n.doc_string or len(n.metadata_props) for n in model.graph.node)
    assert not any(len(i.metadata_props) for i in model.graph.initializer)


class Branches(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :5] if x.sum() > 0 else x.flatten(1)[:, 5:10]


def test_a_forward_that_cannot_be_exported_is_said(tmp_path):
    with pytest.raises(ExportError, match=r"^ONNX: .{20,300} \(replace"):
        write(Branches().eval(), tmp_path / "model.onnx", "onnx", "fp32")
    assert list(tmp_path.iterdir()) == []
