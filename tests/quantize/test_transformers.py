"""A transformer's block in integers: what its layer norms and softmaxes leave."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import inputs, outputs, policy, run_onnx, run_tflite, write
from torch import nn

from edgekd.measure.inventory import inventory_of
from edgekd.measure.parity import complaint_of
from edgekd.quantize import gaps, qat
from edgekd.quantize.schemes import _PerTensor, lower, nudged
from edgekd.stages.export import compared

EXAMPLE = torch.from_numpy(inputs(1))
LINEARS = 5
# As the runtimes name integer layers on rows, and what stays float: norms, attention's weights, and casts.
LAYER = {"onnx": "QGemm", "tflite": "FULLY_CONNECTED"}
FLOAT = {
    "onnx": {"LayerNormalization", "Mul", "Softmax", "QuantizeLinear"},
    "tflite": {
        *("MEAN", "RESHAPE", "SQUARED_DIFFERENCE", "ADD", "RSQRT", "MUL", "SUB"),
        *("SOFTMAX", "BATCH_MATMUL", "QUANTIZE"),
    },
}


class Encoder(nn.Module):
    """Patches of an image, one block of attention and of GELU, and the mean over its tokens."""

    def __init__(self, dim=16, heads=2):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.patches = nn.Conv2d(2, dim, 4, 4)
        self.norm1, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.norm2, self.wide, self.narrow = (
            nn.LayerNorm(dim),
            nn.Linear(dim, 2 * dim),
            nn.Linear(2 * dim, dim),
        )
        self.head = nn.Linear(dim, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        batch, tokens, dim = x.shape
        q, k, v = (
            self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        )
        attention = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        x = x + self.out((attention @ v).transpose(1, 2).reshape(batch, tokens, dim))
        x = x + self.narrow(F.gelu(self.wide(self.norm2(x))))
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def quantized():
    torch.manual_seed(0)
    net = Encoder().eval()
    return net, qat.prepare(net, inputs(48), policy())


def test_what_stays_float_is_named(quantized):
    assert gaps.float_operators(quantized[0], EXAMPLE) == {"layer_norm": 2, "softmax": 1}


@pytest.mark.parametrize(("format", "activations"), [("onnx", "unsigned"), ("tflite", "signed")])
def test_layers_on_tokens_are_integers_with_their_biases(quantized, tmp_path, format, activations):
    net, fake = quantized
    expected = outputs(net, inputs(64))
    assert np.abs(outputs(fake, inputs(64)) - expected).mean() < 0.02 * np.ptp(expected)
    low, path = lower(fake, EXAMPLE, activations, format), tmp_path / f"model.{format}"
    write(low, path, format, "static_wi8_ai8")
    operators = inventory_of(path, format).operators
    assert sum(o.op_type == LAYER[format] and o.dtype in ("int8", "uint8") for o in operators) == LINEARS
    assert {o.op_type for o in operators if o.dtype == "float32"} <= FLOAT[format]
    run = {"onnx": run_onnx, "tflite": run_tflite}[format]
    # A TFLite file with views takes one sample at a time.
    made = np.concatenate([run(path, inputs(64, 9)[i : i + 1]) for i in range(64)])
    steps = np.abs(made - outputs(low, inputs(64, 9))) / float(fake.output.scale)
    assert (steps.max(axis=1) <= 2.01).mean() >= 0.99


def test_weights_of_norms_are_not_rounded(tmp_path):
    """NNCF rounds them and LiteRT's converter does not: the file computed other norms than its model."""
    torch.manual_seed(0)
    net = Encoder().eval()
    with torch.no_grad():
        for norm in (net.norm1, net.norm2):
            norm.weight.copy_(torch.linspace(0.013, 2.5, 16) ** 2)
    fake = qat.prepare(net, inputs(48), policy())
    before = [name for name, _ in fake.named_modules() if "pre_hooks" in name]
    assert before and not any("layer_norm" in name for name in before)
    low, path = lower(fake, EXAMPLE, "signed", "tflite"), tmp_path / "model"
    write(low, path, "tflite", "static_wi8_ai8")
    made = np.concatenate([run_tflite(path, inputs(64, 9)[i : i + 1]) for i in range(64)])
    steps = np.abs(made - outputs(low, inputs(64, 9))) / float(fake.output.scale)
    assert steps.mean() < 0.2  # 0.5 where they are rounded


class Steep(nn.Module):
    """Rounded to whole numbers, and then a hundred times as much in one of two outputs."""

    def __init__(self):
        super().__init__()
        self.round = _PerTensor(1.0, 0, -128)

    def forward(self, x):
        return self.round(x) * torch.tensor([1.0, 100.0])


def test_nudged_values_are_rounded_otherwise_as_often_as_they_are_moved_over_an_edge():
    """Of values anywhere between two steps a nudge of up to a quarter takes one in eight over the edge."""
    x = torch.rand(20_000, 2) * 100
    steep = Steep()
    plain = steep(x)
    with nudged(steep, 0.25, seed=1):
        share = float((steep(x) != plain).float().mean())
        assert float((steep(x) / plain.clamp_min(1)).isfinite().float().mean()) == 1
    assert share == pytest.approx(0.125, abs=0.01)
    assert torch.equal(steep(x), plain)


def test_a_file_that_is_off_is_held_to_what_its_model_moves_by():
    rng = np.random.default_rng(0)
    # all on an edge: each nudge decides, and the second output is all of the range
    x = (rng.integers(0, 3, (200, 2)) + 0.5).astype(np.float32)
    steep, columns = Steep(), [slice(0, 2)]
    reference = steep(torch.from_numpy(x)).numpy()
    other = np.where(rng.random(x.shape) < 0.5, reference, reference + np.float32([1, 100]))
    found = compared(steep, x, reference, {1: other}, "static_wi8_ai8", columns)
    # half of the values go the other way, by 50.5 in the mean; 300 / 255 is a step
    step = np.ptp(reference) / 255
    assert found.own_steps == pytest.approx(50.5 / 2 / step, rel=0.15)
    near = compared(steep, x, reference, {1: reference + 0.9 * step}, "static_wi8_ai8", columns)
    assert near.own_steps is None
    assert compared(steep, x, reference, {1: other}, "fp32", columns).own_steps is None


def test_values_that_are_far_from_an_edge_stay_where_they_are():
    """A quarter of a step from it: what is nudged by 1/256 gives its file no room."""
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 3, (200, 2)) + 0.25).astype(np.float32)
    steep, columns = Steep(), [slice(0, 2)]
    reference = steep(torch.from_numpy(x)).numpy()
    found = compared(steep, x, reference, {1: reference + 50}, "static_wi8_ai8", columns)
    assert found.own_steps == 0
    assert complaint_of(found, "static_wi8_ai8", float(np.ptp(reference))).startswith("mean error")
