"""Where an exported file departs from the network: the first layer whose output is nowhere in the file.

Layer outputs and file tensors have different names, layouts and fusions, so they are
matched by value: a layer is found if some tensor of the file holds the same numbers, in
either order of the axes. A layer that a ReLU or ReLU6 is fused with has no tensor of its
own in the file, only what the activation makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

CLOSE = 0.02  # share of a layer's range within which its numbers count as the same


@torch.no_grad()
def first_departure(module: nn.Module, path: Path, format: str, x: NDArray[np.float32]) -> str:
    """Text for an error message: the last layer that agrees, and the first that does not.

    Args:
        module: the network that was exported.
        path: the file.
        format: "onnx" or "tflite".
        x: one sample (1, *shape), preprocessed, in the torch layout.
    """
    layers: list[tuple[str, NDArray[np.float32]]] = []

    def see(name: str, given: Any) -> None:
        if isinstance(given, torch.Tensor):
            layers.append((name, given.clone().numpy()))  # a copy: a ReLU in place would change it

    hooks = [
        m.register_forward_hook(lambda _m, _i, given, name=name: see(name, given))
        for name, m in module.named_modules()
        # A layer's output is seen behind its quantizer, so the quantizers need not be seen themselves.
        if name and not list(m.children()) and "__nncf_hooks" not in name
    ]
    module(torch.from_numpy(x))
    for hook in hooks:
        hook.remove()
    tensors = list(_onnx_tensors(path, x) if format == "onnx" else _tflite_tensors(path, x))
    after = ""
    for name, out in layers:
        fused = (out, np.maximum(out, 0), np.clip(out, 0, 6))
        if not any(_same(values, tensor) for values in fused for tensor in tensors):
            return f"the first tensor that departs: {after}the output of {name!r}"
        after = f"after {name!r}, "
    return "every layer's output is in the file for the first sample; the departure shows on others"


def _same(layer: NDArray[np.float32], tensor: NDArray[np.float32]) -> bool:
    if layer.size != tensor.size:
        return False
    orders = [layer]
    if layer.ndim == 4 and tensor.ndim == 4:
        orders.append(layer.transpose(0, 2, 3, 1))  # with as many channels as rows, both shapes are alike
    scale = float(np.ptp(layer)) or 1.0
    return any(
        float(np.abs(values.reshape(-1) - tensor.reshape(-1)).mean()) < CLOSE * scale
        for values in orders
        if values.ndim != tensor.ndim or values.shape == tensor.shape
    )


def _onnx_tensors(path: Path, x: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    import onnx
    import onnxruntime as ort

    model = onnx.load(path)
    inferred = onnx.shape_inference.infer_shapes(model)
    floats = [
        value
        for value in inferred.graph.value_info
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
    made = {name for node in model.graph.node for name in node.output}
    present = {o.name for o in model.graph.output}
    model.graph.output.extend(v for v in floats if v.name in made and v.name not in present)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    yield from session.run(None, {session.get_inputs()[0].name: x})


def _tflite_tensors(path: Path, x: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter: Any = Interpreter(
        str(path),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    fed = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
    scale, zero_point = entry["quantization"]
    if scale:
        limits = np.iinfo(entry["dtype"])
        fed = np.clip(np.rint(fed / scale) + zero_point, limits.min, limits.max)
    interpreter.set_tensor(entry["index"], np.ascontiguousarray(fed, entry["dtype"]))
    interpreter.invoke()
    for tensor in interpreter.get_tensor_details():
        try:
            values = interpreter.get_tensor(tensor["index"])
        except ValueError:  # a tensor without data, such as an optional input
            continue
        scale, zero_point = tensor["quantization"]
        yield (values.astype(np.float32) - zero_point) * (scale or 1.0)
