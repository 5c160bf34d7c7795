from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import inputs, policy, tiny_mobilenet, tiny_pooled, tiny_resnet
from torch import nn

from edgekd import exporters, probes
from edgekd.latency.costs import before
from edgekd.latency.network import layers_at, layers_of
from edgekd.layers import WITHOUT_WEIGHTS, Layer
from edgekd.measure.inventory import MOVES
from edgekd.quantize import mixed, qat, schemes
from edgekd.runtimes import list_operators, open_session

RUNTIME = {"onnx": "onnxruntime", "tflite": "litert"}
NETS = {"resnet": tiny_resnet, "mobilenet": tiny_mobilenet, "pooled": tiny_pooled}
FORMATS = [("tflite", "signed"), ("onnx", "unsigned"), ("onnx", "signed")]


def written(tmp_path, layers, format, scheme, activations):
    path = tmp_path / f"probe.{format}"
    path.write_bytes(probes.build(layers, format=format, scheme=scheme, activations=activations))
    return path


def computing(path, format):
    """The operators that compute (and TFLite's paddings) with their inputs' types; how often each.

    A convolution that ends in a ReLU is called FusedConv in float ONNX: all of the probes' do.
    """
    found = list_operators(RUNTIME[format], path)
    return Counter(
        (o.op_type.replace("FusedConv", "Conv"), o.input_dtypes[0])
        for o in found
        if o.op_type not in MOVES or o.op_type == "PAD"
    )


CASES = [("resnet", *case, scheme) for case in FORMATS for scheme in probes.SCHEMES]
CASES += [(kind, *case, "static_wi8_ai8") for kind in ("mobilenet", "pooled") for case in FORMATS]
CASES += [("pooled", *FORMATS[0], "fp32")]


@pytest.mark.parametrize(("kind", "format", "activations", "scheme"), CASES)
def test_the_probes_of_a_networks_layers_run_what_its_exported_file_runs(
    tmp_path, exported, kind, format, activations, scheme
):
    _, file = exported(format, scheme, activations, kind)
    counted = Counter()
    for layer in layers_of(NETS[kind](), torch.from_numpy(inputs(1))):
        ahead = before(layer)
        counted += computing(written(tmp_path, (*ahead, layer), format, scheme, activations), format)
        if ahead:
            counted -= computing(written(tmp_path, ahead, format, scheme, activations), format)
    assert counted == computing(file, format)
    assert counted.total() >= 7


def test_a_convolution_of_one_channel_is_what_the_converter_makes_of_it(tmp_path):
    layer = Layer("conv", 8, 8, 1, 4, 3, 1, 1)
    net, file = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()).eval(), tmp_path / "net.tflite"
    settings = {"format": "tflite", "scheme": "fp32", "input_name": "image", "metadata": {}}
    exporters.export(net, torch.zeros(1, 1, 8, 8), file, **settings)
    found = computing(written(tmp_path, (layer,), "tflite", "fp32", "signed"), "tflite")
    assert found == {("DEPTHWISE_CONV_2D", "float32"): 1}
    assert found.items() <= computing(file, "tflite").items()


def as_torch(layer):
    """The layer as torch has it, for shapes only."""
    if layer.kind == "linear":
        return nn.Linear(layer.in_channels, layer.out_channels)
    if layer.kind == "global_pool":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if layer.kind == "max_pool":
        return nn.MaxPool2d(layer.kernel, layer.stride, layer.padding)
    if layer.kind == "add":
        return nn.Identity()
    groups = layer.in_channels if layer.kind == "depthwise" else 1
    return nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel,
        layer.stride,
        layer.padding,
        groups=groups,
    )


LAYERS = [
    Layer("conv", 9, 9, 3, 5, 3, 1, 1),
    Layer("conv", 9, 7, 3, 5, 3, 2, 1),
    Layer("conv", 8, 8, 4, 6, 2, 2, 0),
    Layer("conv", 9, 9, 4, 4, 3, 1, 0),
    Layer("conv", 9, 9, 1, 5, 3, 1, 1),
    Layer("conv", 9, 9, 4, 7, 5, 1, 1),
    Layer("depthwise", 9, 9, 6, 6, 3, 1, 1),
    Layer("depthwise", 9, 9, 6, 6, 5, 2, 2),
    Layer("add", 5, 5, 6, 6),
    Layer("max_pool", 8, 8, 6, 6, 2, 2, 0),
    Layer("max_pool", 9, 7, 6, 6, 3, 2, 1),
    Layer("global_pool", 5, 5, 6, 6),
    Layer("linear", 1, 1, 12, 10),
]


@pytest.mark.parametrize("scheme", probes.SCHEMES)
@pytest.mark.parametrize(("format", "activations"), FORMATS)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_probe_runs_and_gives_the_shape_that_torch_gives(tmp_path, layer, format, activations, scheme):
    path = written(tmp_path, (*before(layer), layer), format, scheme, activations)
    session = open_session(RUNTIME[format], path)
    kind = "float32" if scheme == "fp32" else {"signed": "int8", "unsigned": "uint8"}[activations]
    (taken,), (given,) = session.inputs, session.outputs
    assert {taken.dtype, given.dtype} == {kind}
    fed = session.random_inputs(0)
    found = session.invoke(session.prepare(fed))[0]
    shape = (layer.in_channels,) if layer.kind == "linear" else (layer.in_channels, layer.height, layer.width)
    with torch.no_grad():
        expected = tuple(as_torch(layer)(torch.zeros(1, *shape)).shape)
    if len(expected) == 4 and format == "tflite":
        expected = (1, *expected[2:], expected[1])
    assert found.shape == expected or found.shape[:2] == expected  # ONNX pools to (1, C, 1, 1)
    assert len(np.unique(found)) > 1  # neither all saturated nor all zero


IN_FLOAT = [replace(layer, in_float=True) for layer in LAYERS if layer.kind not in WITHOUT_WEIGHTS]
WEIGHTED = ("Conv", "QLinearConv", "Gemm", "QGemm", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def weighted(counted):
    """Of the operators that compute, convolutions and linear layers."""
    return {key: n for key, n in counted.items() if key[0] in WEIGHTED}


@pytest.mark.parametrize(("format", "activations"), FORMATS)
@pytest.mark.parametrize("layer", IN_FLOAT, ids=str)
def test_a_layer_in_float_is_the_only_one_in_a_file_of_integers(tmp_path, layer, format, activations):
    found = {}
    for one in (layer, replace(layer, in_float=False)):
        path = written(tmp_path, (*before(one), one), format, "static_wi8_ai8", activations)
        session = open_session(RUNTIME[format], path)
        name = {"signed": "int8", "unsigned": "uint8"}[activations]
        assert {session.inputs[0].dtype, session.outputs[0].dtype} == {name}
        given = session.invoke(session.prepare(session.random_inputs(0)))[0]
        assert len(np.unique(given)) > 1
        floats = sum(n for (_, kind), n in weighted(computing(path, format)).items() if kind == "float32")
        found[one.in_float] = (given.shape, floats)
    shape, _ = found[False]
    assert found == {True: (shape, 1), False: (shape, 0)}


@pytest.mark.parametrize("format", RUNTIME)
def test_in_a_file_in_float_no_layer_is_apart(format):
    with pytest.raises(ValueError, match="in_float is for files of integers"):
        probes.build(IN_FLOAT[:1], format=format, scheme="fp32", activations="signed")


@pytest.mark.parametrize(("format", "activations"), FORMATS)
def test_probes_with_layers_in_float_run_what_the_file_of_such_a_network_runs(tmp_path, format, activations):
    """Convolutions and linear layers: how many compute in float, and how many in integers."""
    net, example, scheme = tiny_resnet(), torch.from_numpy(inputs(1)), "static_wi8_ai8"
    chosen = ["blocks.0.conv1", "head"]
    kept = mixed.in_float(qat.prepare(net, inputs(48), policy()), example, chosen)
    file = tmp_path / f"model.{format}"
    settings = {"scheme": scheme, "input_name": "image", "metadata": {}}
    low = schemes.lower(kept, example, activations, format)
    exporters.export(low, example, file, format=format, **settings)
    counted = Counter()
    leaves = [name for name, module in net.named_modules() if not [*module.children()]]
    for path, layers in layers_at(net, example, leaves).items():
        for layer in (replace(one, in_float=path in chosen) for one in layers if one.weights):
            chain = (*before(layer), layer)
            counted += computing(written(tmp_path, chain, format, scheme, activations), format)
            if before(layer):
                ahead = written(tmp_path, before(layer), format, scheme, activations)
                counted -= computing(ahead, format)
    assert weighted(counted) == weighted(computing(file, format))
    assert sum(n for (_, kind), n in weighted(counted).items() if kind == "float32") == 2


@pytest.mark.parametrize("format", RUNTIME)
def test_layers_that_do_not_follow_on_each_other_are_refused(format):
    with pytest.raises(ValueError, match="does not follow on"):
        probes.build(LAYERS[:2], format=format, scheme="fp32", activations="signed")


def test_a_scheme_without_probes_is_refused():
    with pytest.raises(ValueError, match="fp16"):
        probes.build(LAYERS[:1], format="onnx", scheme="fp16", activations="signed")


def test_a_linear_layer_takes_a_whole_image(tmp_path):
    layers = (Layer("conv", 4, 4, 3, 5), Layer("linear", 1, 1, 80, 6))
    for format, activations in FORMATS:
        path = written(tmp_path, layers, format, "static_wi8_ai8", activations)
        session = open_session(RUNTIME[format], path)
        assert session.invoke(session.prepare(session.random_inputs(0)))[0].shape == (1, 6)
