"""What holds for both formats and every scheme."""

import copy

import numpy as np
import pytest
import torch
from nets import CLASSES, METADATA, inputs, outputs, run_file, tiny_resnet, write
from torch import nn

from edgekd import exporters
from edgekd.errors import ExportError
from edgekd.folding import fold_batch_norm

FORMATS = ["onnx", "tflite"]
SCHEMES = ["fp32", "fp16", "dynamic_wi8_afp32", "weight_only_wi8_afp32", "static_wi8_ai8"]
CASES = [(f, s, "signed") for f in FORMATS for s in SCHEMES] + [("onnx", "static_wi8_ai8", "unsigned")]

# Largest error as a share of the outputs' range, and bytes against the float file.
LIMITS = {
    "fp32": 1e-5,
    "fp16": 2e-3,
    "dynamic_wi8_afp32": 0.05,
    "weight_only_wi8_afp32": 0.02,
    "static_wi8_ai8": 2.01 / 255,
}


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize("batch", [1, 7])
def test_the_file_computes_what_the_network_does(exported, case, batch):
    module, path = exported(*case)
    x = inputs(21, 5)
    expected = outputs(module, x)
    found = np.concatenate([run_file(path, x[i : i + batch]) for i in range(0, 21, batch)])
    assert found.shape == (21, CLASSES)
    assert found.dtype == np.float32
    span = np.ptp(expected)
    assert np.abs(found - expected).max() <= LIMITS[case[1]] * span
    if case[1] == "static_wi8_ai8":
        assert np.abs(found - expected).mean() < 0.3 * span / 255
    else:
        assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9


@pytest.mark.parametrize("scheme", ["fp16", "dynamic_wi8_afp32", "weight_only_wi8_afp32"])
@pytest.mark.parametrize("format", FORMATS)
def test_lossy_schemes_do_lose(exported, format, scheme):
    module, path = exported(format, scheme)
    assert np.abs(run_file(path, inputs(5)) - outputs(module, inputs(5))).max() > 1e-5


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_file_holds_no_path_of_this_machine(exported, case):
    content = exported(*case)[1].read_bytes()
    for mark in (b"/tmp", b"/work", b"site-packages", b"/root", b"/home", b"nets.py", b"resnet.py"):
        assert mark not in content, mark


@pytest.mark.parametrize(
    "case",
    # Static int8 TFLite is compared byte for byte between whole runs, in tests/chain.
    [("onnx", s, "signed") for s in SCHEMES] + [("tflite", s, "signed") for s in SCHEMES[1:4]],
    ids="-".join,
)
def test_the_same_network_gives_the_same_bytes(exported, case, tmp_path):
    module, first = exported(*case)
    again = tmp_path / first.name
    write(module, again, case[0], case[1])
    assert again.read_bytes() == first.read_bytes()
    assert list(tmp_path.iterdir()) == [again]  # nothing else is left behind


def test_exporting_leaves_the_network_alone(tmp_path):
    module = fold_batch_norm(tiny_resnet())
    weights, expected = copy.deepcopy(module.state_dict()), outputs(module, inputs(3))
    write(module, tmp_path / "a.onnx", "onnx", "fp16")
    write(module, tmp_path / "a.tflite", "tflite", "fp32")
    after = module.state_dict()
    assert after.keys() == weights.keys()
    assert all(v.dtype == weights[k].dtype and torch.equal(v, weights[k]) for k, v in after.items())
    np.testing.assert_array_equal(outputs(module, inputs(3)), expected)


class Odd(nn.Module):
    """A network with one operator between a convolution and a head."""

    def __init__(self, operator):
        super().__init__()
        self.conv, self.head, self.operator = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, CLASSES), operator

    def forward(self, x):
        return self.head(self.operator(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("format", "operator", "named"),
    [
        ("onnx", lambda x: torch.linalg.inv(x + 10 * torch.eye(8)), "aten.linalg_inv_ex"),
        ("onnx", torch.matrix_exp, "aten.linalg_matrix_exp"),
        ("tflite", lambda x: torch.linalg.eigvalsh(x)[..., None], "aten._linalg_eigh"),
        ("tflite", lambda x: x * torch.histc(x, 8).sum(), "aten.histc"),
        ("tflite", lambda x: torch.fft.rfft2(x).real, "aten._fft_r2c"),
    ],
    ids=["onnx-inv", "onnx-matrix_exp", "tflite-eigvalsh", "tflite-histc", "tflite-rfft2"],
)
def test_an_operator_that_the_format_has_not_is_named(tmp_path, format, operator, named):
    path = tmp_path / f"model{exporters.SUFFIXES[format]}"
    with pytest.raises(ExportError, match=rf"{named}.*\(replace that operator") as caught:
        write(Odd(operator).eval(), path, format, "fp32")
    assert caught.value.message.startswith({"onnx": "ONNX: ", "tflite": "TFLite: "}[format])
    assert "site-packages" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(6, 12), nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.head(self.first(x).relu())


@pytest.mark.parametrize("format", FORMATS)
def test_tables_are_exported_too(tmp_path, format):
    torch.manual_seed(0)
    net, x = Rows().eval(), np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    path = tmp_path / f"model{exporters.SUFFIXES[format]}"
    exporters.export(
        net,
        torch.from_numpy(x[:1]),
        path,
        format=format,
        scheme="fp32",
        input_name="row",
        metadata=METADATA,
    )
    by_hand = np.maximum(x @ net.first.weight.detach().numpy().T + net.first.bias.detach().numpy(), 0)
    by_hand = by_hand @ net.head.weight.detach().numpy().T + net.head.bias.detach().numpy()
    np.testing.assert_allclose(run_file(path, x), by_hand, atol=1e-5)
