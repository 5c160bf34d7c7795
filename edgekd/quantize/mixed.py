"""Quantized networks with some layers in float: what belongs to a layer, what it costs, which to choose."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.errors import TrainingError, UsageError, nearest
from edgekd.progress import QUIET, Display
from edgekd.quantize.gaps import CONSTANT, QUANTIZERS, WEIGHTED, made_by, named, place_of, prefix, take_away
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
        drop: what is lost of another figure, in its unit; None where none is asked for.
    """

    path: str
    logit_error: float
    drop_pp: float
    drop: float | None = None


def layers(net: QuantizedNet, example_input: Tensor) -> tuple[Layer, ...]:
    """The layers, in the order they run; one that is called twice stands once."""
    graph, found = _graph(net.body, example_input), dict[str, Layer]()
    for node in graph.get_all_nodes():
        if path := _path_of(graph, node, net.body):
            edges = {e.input_port_id: e for e in graph.get_input_edges(node)}
            quantizers = {place_of(graph, made_by(graph, edges[port]).from_node) for port in (0, 1)} - {""}
            shape = graph.get_output_edges(node)[0].tensor_shape
            positions = math.prod(shape[1:-1] if node.node_type == "linear" else shape[2:])
            before = found.get(path, Layer(path, (), 0))
            macs = before.macs + math.prod(edges[1].tensor_shape) * positions
            found[path] = Layer(path, tuple(sorted({*before.quantizers, *quantizers})), macs)
    return tuple(found.values())


def check_paths(module: nn.Module, example_input: Tensor, paths: Iterable[str]) -> None:
    """Nothing where a float network has all these layers.

    Raises:
        UsageError: there is no such layer; names the nearest.
    """
    from nncf.torch.function_hook import wrap_model

    body = wrap_model(named(copy.deepcopy(module)))
    graph = _graph(body, example_input)
    found = (_path_of(graph, node, body) for node in graph.get_all_nodes())
    known = list(dict.fromkeys(path for path in found if path))
    for path in paths:
        if path not in known:
            raise UsageError(
                f"quantize.float_layers: no layer {path!r}",
                hint=nearest(path, known, f"layers: {', '.join(known)}"),
            )


def in_float(net: QuantizedNet, example_input: Tensor, paths: Iterable[str]) -> QuantizedNet:
    """A copy whose named layers compute in float.

    Their weights have no quantizers, nor has what flows where no integer layer gives or takes it; the
    network's input stays in 8 bits.
    """
    chosen, graph = set(paths), _graph(net.body, example_input)
    gone = []
    for node in graph.get_all_nodes():
        if node.node_type not in QUANTIZERS or _of_input(graph, node):
            continue
        # A sum or an activation between two quantizers has no layer beside it: then those further off decide.
        beside = _beside(graph, node) or _beside(graph, node, further=True)
        touched = {_path_of(graph, layer, net.body) for layer in beside}
        if touched and touched <= chosen:
            gone.append(place_of(graph, node))
    mixed = copy.deepcopy(net)
    for place in gone:
        take_away(mixed.body, place)
    return mixed


@torch.no_grad()
def round_to_halves(net: QuantizedNet, paths: Iterable[str]) -> None:
    """Rounds the weights of layers in float, in place, to what 16 bits hold: exporters then store them so.

    Raises:
        TrainingError: a weight is larger than they can hold.
    """
    weights = {**dict(net.body.named_parameters()), **dict(net.body.named_buffers())}
    for path in paths:
        name = prefix(net.body) + path
        weight = weights[f"{name}.weight" if f"{name}.weight" in weights else name]
        if not weight.half().isfinite().all():
            raise TrainingError(
                f'quantize.float_weights = "fp16": {path!r} has weights up to {float(weight.abs().max()):g}, '
                "16 bits hold 65504",
                hint='float_weights = "fp32"',
            )
        weight.copy_(weight.half().float())


def sensitivities(
    net: QuantizedNet,
    example_input: Tensor,
    samples: Tensor,
    labels: NDArray[np.int64],
    columns: slice,
    num_classes: int | None = None,
    display: Display = QUIET,
    figure: Callable[[NDArray[np.float64]], float] | None = None,
) -> tuple[Sensitivity, ...]:
    """What each layer costs alone, the costliest first.

    Args:
        net: with chosen ranges; left as it is.
        example_input: (1, *shape).
        samples: inputs (N, *shape).
        labels: their classes (N,).
        columns: of the outputs, those that are judged.
        num_classes: the first of them, which the labels are about; None: all.
        display: where progress is shown.
        figure: of what is judged (N, judged), more being better, that is told beside accuracy.

    Raises:
        TrainingError: the float network's logits are all 0, or no numbers.
    """
    found = []
    with _only(net, ()):
        whole = _logits(net, samples, columns)
    right = whole[:, :num_classes].argmax(axis=1) == labels
    size = math.sqrt(float((whole**2).mean()))
    if not 0 < size < math.inf:
        raise TrainingError(
            f"sensitivity: the network's logits are {size:g} on the validation split",
            hint="look at the student's accuracy and losses",
        )
    all_layers = layers(net, example_input)
    for layer in display.track(all_layers, "sensitivity", len(all_layers)):
        with _only(net, layer.quantizers):
            alone = _logits(net, samples, columns)
        error = math.sqrt(float(((alone - whole) ** 2).mean())) / size
        drop = 100 * float(right.mean() - (alone[:, :num_classes].argmax(axis=1) == labels).mean())
        lost = None if figure is None else figure(whole) - figure(alone)
        found.append(Sensitivity(layer.path, error, drop, lost))
    return tuple(sorted(found, key=lambda s: -s.logit_error))


def cheapest(
    ranked: Sequence[tuple[str, float]], costs: Mapping[str, float], fits: Callable[[Sequence[str]], bool]
) -> list[str]:
    """Layers that, in float, are enough and cost little.

    Two ways are gone and the cheaper result is taken: layers are added by what they lose in 8 bits, and by
    what they lose for each unit of cost. Then each that turns out not to be needed is taken out again, the
    costliest first.

    Args:
        ranked: path and error in 8 bits of each layer that may be chosen.
        costs: of each in float; below 0 is a gain, and stays where it was chosen.
        fits: whether layers are enough; all together are.
    """

    def worth(layer: tuple[str, float]) -> float:
        path, error = layer
        return error**2 / costs[path] if costs[path] > 0 else math.inf

    found = []
    for key in (lambda layer: layer[1], worth):
        chosen: list[str] = []
        for path, _ in sorted(ranked, key=key, reverse=True):
            if fits(chosen):
                break
            chosen.append(path)
        for path in sorted((p for p in chosen if costs[p] >= 0), key=lambda p: -costs[p]):
            fewer = [other for other in chosen if other != path]
            if fits(fewer):
                chosen = fewer
        found.append(chosen)
    return min(found, key=lambda paths: (sum(costs[path] for path in paths), len(paths)))


def _graph(body: nn.Module, example_input: Tensor) -> Any:
    from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph

    return build_nncf_graph(body, example_input)


def _path_of(graph: Any, node: Any, body: nn.Module) -> str:
    """Of a layer its module's path, or its parameter's where that is not called weight; else nothing."""
    if node.node_type not in WEIGHTED:
        return ""
    edges, port = graph.get_input_edges(node), 1
    while edges:
        weight = next(e for e in edges if e.input_port_id == port).from_node
        if weight.node_type == CONSTANT:
            return str(weight.node_name).removesuffix(".weight").removeprefix(prefix(body))
        edges, port = graph.get_input_edges(weight), 0
    return ""  # multiplied by what is computed from data


def _of_input(graph: Any, node: Any) -> bool:
    return any(e.from_node.node_type == "nncf_model_input" for e in graph.get_input_edges(node))


def _beside(graph: Any, node: Any, further: bool = False) -> list[Any]:
    """The layers that give or take what a quantizer rounds; `further`: also those behind other quantizers."""
    found: dict[int, Any] = {}
    for neighbours in (graph.get_previous_nodes, graph.get_next_nodes):
        todo, seen = list(neighbours(node)), set[int]()
        while todo:
            other = todo.pop()
            if other.node_id in seen or other.node_type == CONSTANT:
                continue
            seen.add(other.node_id)
            if other.node_type in WEIGHTED:
                found[other.node_id] = other
            elif further or other.node_type not in QUANTIZERS:
                todo += neighbours(other)
    return list(found.values())


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
