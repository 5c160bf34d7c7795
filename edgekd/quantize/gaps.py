"""Quantizers where NNCF leaves a gap, so that nothing between integer layers computes in float.

NNCF takes a convolution and an activation other than ReLU for one operator, and squeeze-and-excite blocks for
something that is better left alone: it fits its own runtime. In ONNX Runtime and LiteRT each such gap
is a float convolution between a dequantizer and a quantizer, slower than the float network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.folding import for_integers

WEIGHTED = ("conv1d", "conv2d", "linear")
# Values of a gate have a range of their own, whatever is fed; LiteRT's kernel insists on the sigmoid's.
GATES = {"sigmoid": (0.0, 255 / 256), "hardsigmoid": (0.0, 1.0)}
# Elementwise, with 8-bit kernels in the runtimes or made of such (see `decompositions`).
_ACTIVATIONS = ("gelu", "hardswish", "leaky_relu", "silu", *GATES)
# What has the same values before and after, only elsewhere.
MOVES = (
    "contiguous",
    "dropout",
    "flatten",
    "max_pool2d",
    "permute",
    "reshape",
    "squeeze",
    "transpose",
    "unsqueeze",
    "view",
)
# What computes nothing, but can stand between a quantizer and what it is for.
_NOTHING = (
    "__getitem__",
    "chunk",
    "clone",
    "detach",
    "is_contiguous",
    "split",
    "t",
    "to",
    "unbind",
    "unflatten",
    "zeros",
)
# What else runs in 8 bits, or is folded into what does.
_OTHERS = (
    "adaptive_avg_pool2d",
    "add",
    "avg_pool2d",
    "cat",
    "hardtanh",
    "matmul",
    "mean",
    "mul",
    "relu",
    "relu6",
)
_NORMS = ("group_norm", "instance_norm", "layer_norm", "rms_norm")
QUANTIZERS = ("asymmetric_quantize", "symmetric_quantize")
CONSTANT = "nncf_model_const"


class _Named(nn.Module):
    """A network under a name: NNCF fails on one whose top level is a bare nn.Sequential."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """What the network gives."""
        return self.net(x)  # type: ignore[no-any-return]


def named(module: nn.Module) -> nn.Module:
    """The network as NNCF can take it."""
    return _Named(module) if isinstance(module, nn.Sequential) else module


def prefix(body: nn.Module) -> str:
    """What stands before the network's own paths in one that `named` gave."""
    return "net." if isinstance(body, _Named) else ""


def fill(body: nn.Module, example_input: Tensor) -> list[Any]:
    """Adds what is missing to a network that NNCF has quantized; returns the new quantizers of activations.

    Takes away those of norms' weights.

    Scales of weights are set (the largest of each channel); ranges of activations are still to be chosen.
    """
    from nncf.torch.function_hook import register_post_function_hook, register_pre_function_hook
    from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph

    graph = build_nncf_graph(body, example_input)
    for needless in (node for node in graph.get_all_nodes() if _of_norm(graph, node)):
        take_away(body, place_of(graph, needless))
    constants = {**dict(body.named_parameters()), **dict(body.named_buffers())}
    added: dict[tuple[str, int], Any] = {}
    for node in graph.get_all_nodes():
        for edge in _integer_inputs(graph, node):
            if edge.from_node.node_type == CONSTANT:
                place = (node.node_name, edge.input_port_id)
                if node.node_type in WEIGHTED:
                    quantizer = _of_weights(constants[edge.from_node.node_name])
                else:
                    quantizer = added[place] = _of_activations()
                register_pre_function_hook(body, *place, quantizer)
                continue
            edge = made_by(graph, edge)
            place = (edge.from_node.node_name, edge.output_port_id)
            if edge.from_node.node_type not in (*QUANTIZERS, CONSTANT) and place not in added:
                added[place] = _of_activations()
                register_post_function_hook(body, *place, added[place])
    return list(added.values())


def float_operators(module: nn.Module, example_input: Tensor) -> dict[str, int]:
    """Operators of a float network that stay float in its int8 files, with how often they stand there."""
    from nncf.torch.function_hook import wrap_model
    from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph

    graph = build_nncf_graph(wrap_model(named(for_integers(module))), example_input)
    integer = (*WEIGHTED, *_ACTIVATIONS, *MOVES, *_NOTHING, *_OTHERS)
    kinds = [node.node_type for node in graph.get_all_nodes()]
    return dict(Counter(kind for kind in kinds if kind not in integer and not kind.startswith("nncf_model")))


def _integer_inputs(graph: Any, node: Any) -> Iterator[Any]:
    """The edges into a node that must carry 8-bit values for it to compute in integers."""
    edges = graph.get_input_edges(node)
    if node.node_type in WEIGHTED:
        yield from (edge for edge in edges if edge.input_port_id in (0, 1))  # not the bias
    elif node.node_type in _ACTIVATIONS:
        yield edges[0]
    elif node.node_type == "mul" and any(made_by(graph, edge).from_node.node_type in GATES for edge in edges):
        yield from edges


def made_by(graph: Any, edge: Any) -> Any:
    """The edge on which the values first are what they are on this one."""
    while edge.from_node.node_type in MOVES:
        edge = graph.get_input_edges(edge.from_node)[0]
    return edge


def place_of(graph: Any, node: Any) -> str:
    """Of a quantizer the path of this place of it (a shared one has several); of another node nothing."""
    if node.node_type not in QUANTIZERS:
        return ""
    name = str(node.node_name)
    if "pre_hook__" in name:
        edge = graph.get_output_edges(node)[0]
        kind, operator, port = "pre_hooks", edge.to_node.node_name, edge.input_port_id
    else:
        edge = next(e for e in graph.get_input_edges(node) if e.from_node.node_type != CONSTANT)
        kind, operator, port = "post_hooks", edge.from_node.node_name, edge.output_port_id
    return f"__nncf_hooks.{kind}.{operator.replace('.', ':')}__{port}.0"


def take_away(body: nn.Module, place: str) -> None:
    """Removes the quantizer at a place that `place_of` gave."""
    hooks, kind, operator, _ = place.split(".")
    del getattr(getattr(body, hooks), kind)[operator]


def _of_norm(graph: Any, node: Any) -> bool:
    """Whether it is a quantizer of weights that a norm takes, which computes in float.

    NNCF puts one before the weights of layer norms; LiteRT's converter takes them as they were.
    """
    if node.node_type not in QUANTIZERS:
        return False
    makers, takers = graph.get_previous_nodes(node), graph.get_next_nodes(node)
    return all(m.node_type == CONSTANT for m in makers) and all(t.node_type in _NORMS for t in takers)


def _of_weights(weight: Tensor) -> Any:
    from nncf.torch.quantization.layers import PTQuantizerSpec, SymmetricQuantizer

    shape = (weight.shape[0], *[1] * (weight.dim() - 1))
    quantizer = SymmetricQuantizer(PTQuantizerSpec(8, _mode("SYMMETRIC"), True, True, False, shape, False))
    with torch.no_grad():
        quantizer.scale.copy_(weight.detach().abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True))
    return quantizer


def _of_activations() -> Any:
    from nncf.torch.quantization.layers import AsymmetricQuantizer, PTQuantizerSpec

    return AsymmetricQuantizer(PTQuantizerSpec(8, _mode("ASYMMETRIC"), None, False, False, (1,), False))


def _mode(name: str) -> Any:
    from nncf.common.quantization.structs import QuantizationScheme

    return QuantizationScheme[name]


def gate_of(path: str) -> tuple[float, float] | None:
    """The range of the quantizer at this path in a network, where it stands behind a gate; else nothing."""
    # As in __nncf_hooks.post_hooks.block/gate/sigmoid/0__0.0: the operator's type is the last name but one.
    operator = path.rpartition("__")[0].rpartition("/")[0].rpartition("/")[2]
    return GATES.get(operator)
