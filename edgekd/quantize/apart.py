"""Layers in float that stay so in a file: runtimes and converters take them for integer ones left unfinished.

Where a layer with float weights stands between a dequantizer and a quantizer, ONNX Runtime (from 1.21, also
when it loads a file) and LiteRT's converter round the weights themselves, by scales of their own, and
compute in integers. The converter can be told not to (`exporters.tflite`); ONNX Runtime cannot, but does not
look through a change of sign: (-w)(-x) is wx, to the last bit.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edgekd.quantize.gaps import CONSTANT, QUANTIZERS, WEIGHTED, made_by


class _Negative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


def float_operators(body: nn.Module, example_input: Tensor) -> dict[str, bool]:
    """Operators with float weights, as NNCF names them, and whether what a quantizer gives may reach each.

    Args:
        body: a network with NNCF's quantizers.
        example_input: (1, *shape).
    """
    from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph

    graph, found = build_nncf_graph(body, example_input), {}
    for node in graph.get_all_nodes():
        if node.node_type in WEIGHTED:
            x, weight = (_input(graph, node, port) for port in (0, 1))
            if made_by(graph, weight).from_node.node_type == CONSTANT:
                found[str(node.node_name)] = _is_rounded(graph, x.from_node)
    return found


def _input(graph: Any, node: Any, port: int) -> Any:
    return next(edge for edge in graph.get_input_edges(node) if edge.input_port_id == port)


def _is_rounded(graph: Any, node: Any) -> bool:
    """Whether a quantizer lies before a layer, and no layer between: what does may be a mere view."""
    todo, seen = [node], set[int]()
    while todo:
        node = todo.pop()
        if node.node_type in QUANTIZERS:
            return True
        if node.node_id not in seen and node.node_type not in WEIGHTED:
            todo += graph.get_previous_nodes(node)
        seen.add(node.node_id)
    return False


def turn_signs(body: nn.Module, operators: list[str]) -> None:
    """Of input and weights of these operators, in place; the weights' become constants in the file."""
    from nncf.torch.function_hook import register_pre_function_hook

    for operator in operators:
        for port in (0, 1):
            register_pre_function_hook(body, operator, port, _Negative())
