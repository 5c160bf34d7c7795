"""Torch module to ONNX: opset 18, dynamic batch, int8 weights folded, metadata inside."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from edgekd.errors import ExportError
from edgekd.exporters.onnx_weights import to_8_bits, to_halves

OPSET = 18


def export(
    module: nn.Module,
    example_input: Tensor,
    path: Path,
    *,
    scheme: str,
    input_name: str,
    metadata: dict[str, str],
    halves: bool = False,
) -> None:
    """See `edgekd.exporters.export`. The file takes (batch, *shape) and gives `logits` (batch, classes)."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        raw = Path(folder) / "raw.onnx"
        _trace(_half(module) if scheme == "fp16" else module, example_input, raw, input_name)
        if scheme == "static_wi8_ai8":
            raw = _fold_weights(raw, Path(folder) / "folded.onnx")
        elif scheme == "dynamic_wi8_afp32":
            raw = _dynamic(raw, Path(folder) / "dynamic.onnx")
        model = onnx.load(raw)
        if scheme == "weight_only_wi8_afp32":
            to_8_bits(model)
        if halves:
            to_halves(model)
        _clean(model)
        onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
        onnx.checker.check_model(model, full_check=True)
        done = Path(folder) / "done.onnx"
        done.write_bytes(model.SerializeToString(deterministic=True))
        done.replace(path)


def _trace(module: nn.Module, example_input: Tensor, path: Path, input_name: str) -> None:
    batch = torch.export.Dim("batch", min=1, max=4096)
    # torch.export specialises a dimension of size 1, so the example has two samples.
    two = torch.cat([example_input, example_input])
    try:
        program = torch.onnx.export(
            module.eval(),
            (two,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # the exporter wraps every cause in types of its own
        raise ExportError(f"ONNX: {_cause(error)}", hint="replace that operator in the network") from error
    assert program is not None
    model = program.model_proto
    _pool_globally(model)
    _scale_at_dequantizers(model)
    path.write_bytes(model.SerializeToString())


def _cause(error: BaseException) -> str:
    """The innermost message: that is where the operator is named."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]


class _Half(nn.Module):
    """float32 outside, float16 inside: what a device with half-precision units wants."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        import copy

        self.module = copy.deepcopy(module).half()

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.half()).float()  # type: ignore[no-any-return]


def _half(module: nn.Module) -> nn.Module:
    return _Half(module).eval()


def _fold_weights(source: Path, path: Path) -> Path:
    """Turns float weights followed by QuantizeLinear into int8 weights: constants fold in a basic pass."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return path


def _dynamic(source: Path, path: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    del model.graph.value_info[:]  # stale shapes make the quantizer stumble
    quantize_dynamic(model, path, weight_type=QuantType.QInt8, per_channel=True)
    return path


def _pool_globally(model: Any) -> None:
    """Means over both image axes become GlobalAveragePool, which runtimes have in int8.

    Runs before quantized weights are folded, so that the runtime sees one operator.
    """
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        axes = sorted(constants[node.input[1]].tolist())
        if axes in ([2, 3], [-2, -1]):
            node.op_type = "GlobalAveragePool"
            both = node.input.pop()
            del node.attribute[:]
            if settings.get("keepdims", 1) == 0:
                flat, node.output[0] = node.output[0], f"{node.output[0]}_pooled"
                squeeze = onnx.helper.make_node(
                    "Squeeze", [node.output[0], both], [flat], f"{node.name}_flat"
                )
                model.graph.node.insert(list(model.graph.node).index(node) + 1, squeeze)


def _scale_at_dequantizers(model: Any) -> None:
    """8-bit values times a positive constant are the same bytes with another scale."""
    graph = model.graph
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type not in ("Mul", "Div") or len(node.input) != 2:
            continue
        values, constant = node.input
        if node.op_type == "Mul" and values in constants:
            values, constant = constant, values
        source, factor = made.get(values), constants.get(constant)
        if source is None or source.op_type != "DequantizeLinear" or factor is None or factor.size != 1:
            continue
        if factor.ndim > 1:  # it may add dimensions to what it is multiplied by
            continue
        scale = constants.get(source.input[1])
        if scale is None or scale.size != 1 or factor.item() <= 0:
            continue
        scaled = scale * factor if node.op_type == "Mul" else scale / factor
        name = f"{node.output[0]}_scale"
        graph.initializer.append(onnx.numpy_helper.from_array(scaled.reshape(()).astype(scale.dtype), name))
        node.op_type = "DequantizeLinear"
        node.input[:] = [source.input[0], name, *source.input[2:]]
    used = {name for node in graph.node for name in node.input} | {out.name for out in graph.output}
    for node in [n for n in graph.node if n.op_type == "DequantizeLinear" and n.output[0] not in used]:
        graph.node.remove(node)


def _clean(model: Any) -> None:
    """Drops what tracing left behind: stack traces with paths of the machine that exported.

    And the shapes between layers, which runtimes infer: a twentieth of a file of 80,000 weights.
    """
    graph = model.graph
    del graph.value_info[:]
    for holder in (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.initializer,
    ):
        del holder.metadata_props[:]
        holder.doc_string = ""
    for function in model.functions:
        del function.metadata_props[:]
        function.doc_string = ""
    model.producer_name, model.producer_version = "edgekd", ""
