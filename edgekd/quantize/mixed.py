"""Quantized networks with some layers in float: what belongs to a layer, what it costs, which to choose."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import UsageError, nearest
from edgekd.progress import QUIET, Display
from edgekd.quantize.gaps import CONSTANT, MOVES, QUANTIZERS, WEIGHTED, made_by, prefix
from edgekd.quantize.schemes import QuantizedNet

_BATCH = 256


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer with quantizers.

    Attributes:
        path: of the module in the float network.
        quantizers: of its weights and its input, by their paths in the quantized one.
        macs: multiply-accumulates of one sample.
    """

    path: str
    quantizers: tuple[str, ...]
    macs: int


@dataclass(frozen=True)
class Sensitivity:
    """What a layer costs that is quantized alone.

    Attributes:
        path: of the layer.
        logit_error: root mean square of what the logits change by, over that of the logits.
        drop_pp: accuracy lost, percentage points.
    """

    path: str
    logit_error: float
    drop_pp: float


def layers(net: QuantizedNet, example_input: Tensor) -> tuple[Layer, ...]:
    """The layers, in the order they run; one that is called twice stands once."""
    graph, found = _graph(net, example_input), dict[str, Layer]()
    for node in graph.get_all_nodes():
        if path := _layer_of(graph, node):
            places = {_place(graph, made_by(graph, e).from_node) for e in graph.get_input_edges(node)}
            weight = net.body.get_parameter(f"{path}.weight")
            shape = graph.get_output_edges(node)[0].tensor_shape
            positions = math.prod(shape[1:-1] if node.node_type == "linear" else shape[2:])
            before = found.get(path, Layer(path, (), 0))
            quantizers = sorted({*before.quantizers, *places} - {""})
            found[path] = Layer(path, tuple(quantizers), before.macs + weight.numel() * positions)
    start = prefix(net.body)
    return tuple(replace(layer, path=layer.path.removeprefix(start)) for layer in found.values())


def in_float(net: QuantizedNet, example_input: Tensor, paths: Iterable[str]) -> QuantizedNet:
    """A copy whose named layers compute in float.

    Their weights have no quantizers, nor has what flows between two of them; what an integer layer gives or
    takes stays in 8 bits.

    Raises:
        UsageError: there is no such layer; names the nearest.
    """
    chosen = {*paths}
    known = [layer.path for layer in layers(net, example_input)]
    if unknown := sorted(chosen - set(known)):
        raise UsageError(
            f"quantize.float_layers: no layer {unknown[0]!r}",
            hint=nearest(unknown[0], known, f"layers: {', '.join(known)}"),
        )
    graph, floats, start = _graph(net, example_input), dict[int, bool](), prefix(net.body)
    for node in graph.get_all_nodes():  # in the order they run
        before = [e.from_node for e in graph.get_input_edges(node) if e.from_node.node_type != CONSTANT]
        path = _layer_of(graph, node)
        # The input is in 8 bits whatever comes after it; sums and activations go with what they are fed.
        fed = bool(before) and all(floats[n.node_id] for n in before)
        floats[node.node_id] = path.removeprefix(start) in chosen if path else fed
    gone = []
    for node in graph.get_all_nodes():
        if node.node_type not in QUANTIZERS:
            continue
        taken = list(_takers(graph, node))
        of_weights = all(e.from_node.node_type == CONSTANT for e in graph.get_input_edges(node))
        if (of_weights or floats[node.node_id]) and all(floats[n.node_id] for n in taken):
            gone.append(_place(graph, node))
    mixed = copy.deepcopy(net)
    for place in gone:
        hooks, kind, operator, _ = place.split(".")
        del getattr(getattr(mixed.body, hooks), kind)[operator]
    return mixed


def sensitivities(
    net: QuantizedNet,
    example_input: Tensor,
    samples: Tensor,
    labels: NDArray[np.int64],
    columns: slice,
    display: Display = QUIET,
) -> tuple[Sensitivity, ...]:
    """What each layer costs alone, the costliest first.

    Args:
        net: with chosen ranges; left as it is.
        example_input: (1, *shape).
        samples: inputs (N, *shape).
        labels: their classes (N,).
        columns: of the outputs, those that the labels are about.
        display: where progress is shown.
    """
    found = []
    with _only(net, ()):
        whole = _logits(net, samples, columns)
    right = whole.argmax(axis=1) == labels
    size = math.sqrt(float((whole**2).mean()))
    all_layers = layers(net, example_input)
    for layer in display.track(all_layers, "sensitivity", len(all_layers)):
        with _only(net, layer.quantizers):
            alone = _logits(net, samples, columns)
        error = math.sqrt(float(((alone - whole) ** 2).mean())) / size
        drop = 100 * float(right.mean() - (alone.argmax(axis=1) == labels).mean())
        found.append(Sensitivity(layer.path, error, drop))
    return tuple(sorted(found, key=lambda s: -s.logit_error))


def fewest(
    ranked: Sequence[str], macs: dict[str, int], fits: Callable[[Sequence[str]], bool]
) -> list[str] | None:
    """Few layers that, in float, are enough; None where all are not.

    Layers are added as they are ranked, then each that turns out not to be needed is taken out again, those
    with the most work first.
    """
    chosen: list[str] = []
    for path in ranked:
        if fits(chosen):
            break
        chosen.append(path)
    if not fits(chosen):
        return None
    for path in sorted(chosen, key=lambda p: -macs[p]):
        fewer = [other for other in chosen if other != path]
        if fits(fewer):
            chosen = fewer
    return chosen


def _graph(net: QuantizedNet, example_input: Tensor) -> Any:
    from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph

    return build_nncf_graph(net.body, example_input)


def _layer_of(graph: Any, node: Any) -> str:
    """The module path where a node is a layer; else nothing."""
    if node.node_type not in WEIGHTED:
        return ""
    weight = next(e for e in graph.get_input_edges(node) if e.input_port_id == 1).from_node
    while weight.node_type != CONSTANT:
        weight = next(iter(graph.get_input_edges(weight))).from_node
    return str(weight.node_name).rpartition(".")[0]


def _place(graph: Any, node: Any) -> str:
    """Of a quantizer its path in the network; of what is none nothing."""
    if node.node_type not in QUANTIZERS:
        return ""
    constants = [
        e.from_node.node_name for e in graph.get_input_edges(node) if e.from_node.node_type == CONSTANT
    ]
    return next(str(name).rpartition(".")[0] for name in constants if name.startswith("__nncf_hooks"))


def _takers(graph: Any, node: Any) -> Iterator[Any]:
    """The nodes that work on what a node gives."""
    for after in graph.get_next_nodes(node):
        if after.node_type in MOVES:
            yield from _takers(graph, after)
        elif after.node_type != "nncf_model_output":
            yield after


@contextmanager
def _only(net: QuantizedNet, places: Sequence[str]) -> Iterator[None]:
    """While it is open no other quantizer acts."""
    from nncf.torch.quantization.layers import BaseQuantizer

    kept = {id(net.body.get_submodule(place)) for place in places}
    quantizers: list[Any] = [m for m in net.body.modules() if isinstance(m, BaseQuantizer)]
    before = [int(q.enabled) for q in quantizers]
    for quantizer in quantizers:
        quantizer.enabled.fill_(id(quantizer) in kept)
    try:
        yield
    finally:
        for quantizer, enabled in zip(quantizers, before, strict=True):
            quantizer.enabled.fill_(enabled)


@torch.no_grad()
def _logits(net: QuantizedNet, samples: Tensor, columns: slice) -> NDArray[np.float64]:
    """Without the output's own quantizer, which is no layer's."""
    parts = [net.body(samples[i : i + _BATCH]) for i in range(0, len(samples), _BATCH)]
    return torch.cat(parts)[:, columns].double().numpy()
