"""The quantizers that the peers' benchmark compares with, each as its own documentation has it used.

All take a trained network in eval mode, prepared samples (N, C, H, W) to calibrate on, and the file to write.
"""

import operator
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from edgekd.folding import fold_batch_norm
from edgekd.prune.structured import count

Samples = NDArray[np.float32]
INPUT = "image"
STEPS = 400


def onnx_file(net: nn.Module, example: torch.Tensor, path: Path) -> None:
    """The network in float, one sample at a time."""
    program = torch.onnx.export(net, (example,), dynamo=True, input_names=[INPUT], verbose=False)
    program.save(str(path), external_data=False)  # type: ignore[union-attr]


def nncf_ptq(net: nn.Module, samples: Samples, path: Path) -> None:
    """NNCF's post-training quantization of an ONNX model, with its defaults."""
    import nncf

    with tempfile.TemporaryDirectory() as folder:
        onnx_file(net, torch.from_numpy(samples[:1]), Path(folder) / "float.onnx")
        model = onnx.load(Path(folder) / "float.onnx")
    data = nncf.Dataset([{INPUT: samples[i : i + 1]} for i in range(len(samples))])
    onnx.save(nncf.quantize(model, data, subset_size=len(samples)), path)


def onnxruntime_static(net: nn.Module, samples: Samples, path: Path) -> None:
    """ONNX Runtime's own: shape inference and fusions first, weights per channel, QDQ."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        left = iter(range(len(samples)))

        def get_next(self) -> dict[str, Samples] | None:
            i = next(self.left, None)
            return None if i is None else {INPUT: samples[i : i + 1]}

    with tempfile.TemporaryDirectory() as folder:
        whole, ready = Path(folder) / "float.onnx", Path(folder) / "ready.onnx"
        onnx_file(net, torch.from_numpy(samples[:1]), whole)
        quant_pre_process(str(whole), str(ready))
        quantization.quantize_static(ready, path, Reader(), per_channel=True)


def ai_edge_quantizer_static(net: nn.Module, samples: Samples, path: Path) -> None:
    """litert-torch in float, then ai-edge-quantizer with its recipe static_wi8_ai8."""
    import litert_torch
    from ai_edge_quantizer import quantizer, recipe

    images = np.ascontiguousarray(samples.transpose(0, 2, 3, 1))
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "float.tflite"
        moved = litert_torch.to_channel_last_io(net, args=[0]).eval()
        litert_torch.convert(moved, (torch.from_numpy(images[:1]),)).export(str(whole))
        engine = quantizer.Quantizer(str(whole))
        engine.load_quantization_recipe(recipe.static_wi8_ai8())
        found = engine.calibrate(
            {"serving_default": [{"args_0": images[i : i + 1]} for i in range(len(images))]}
        )
        path.unlink(missing_ok=True)  # it does not write over a file
        engine.quantize(found).export_model(str(path))


def tensorflow_converter(net: nn.Module, samples: Samples, path: Path) -> None:
    """TensorFlow's converter on the same network written in TensorFlow: int8 inside and at both ends."""
    import tensorflow as tf

    images = np.ascontiguousarray(samples.transpose(0, 2, 3, 1))
    module = tf.Module()
    forward = in_tensorflow(net)
    module.forward = tf.function(forward, input_signature=[tf.TensorSpec((1, *images.shape[1:]), tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.forward.get_concrete_function()], module
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([images[i : i + 1]] for i in range(len(images)))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())


def in_tensorflow(net: nn.Module) -> Callable[[Any], Any]:
    """The forward of a ResNet of edgekd's in TensorFlow's operators, on (1, H, W, C)."""
    import tensorflow as tf

    graph = torch.fx.symbolic_trace(fold_batch_norm(net))
    modules = dict(graph.named_modules())

    def convolution(layer: nn.Conv2d, x: Any) -> Any:
        (pad, other), (stride, _) = layer.padding, layer.stride
        assert pad == other and layer.groups == 1
        weight = tf.constant(layer.weight.detach().permute(2, 3, 1, 0).numpy())
        if pad and stride == 1:
            y = tf.nn.conv2d(x, weight, 1, "SAME")
        else:  # SAME would pad the other side first
            x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]]) if pad else x
            y = tf.nn.conv2d(x, weight, stride, "VALID")
        return y if layer.bias is None else tf.nn.bias_add(y, tf.constant(layer.bias.detach().numpy()))

    def linear(layer: nn.Linear, x: Any) -> Any:
        y = tf.matmul(x, tf.constant(layer.weight.detach().T.numpy()))
        return tf.nn.bias_add(y, tf.constant(layer.bias.detach().numpy()))

    def called(layer: nn.Module, x: Any) -> Any:
        if isinstance(layer, nn.Conv2d):
            return convolution(layer, x)
        if isinstance(layer, nn.Linear):
            return linear(layer, x)
        if isinstance(layer, nn.ReLU):
            return tf.nn.relu(x)
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            return tf.reduce_mean(x, [1, 2], keepdims=True)
        assert isinstance(layer, nn.Identity), layer
        return x

    def forward(x: Any) -> Any:
        values: dict[str, Any] = {}
        for node in graph.graph.nodes:
            args = [values[a.name] for a in node.args if isinstance(a, torch.fx.Node)]
            if node.op == "placeholder":
                values[node.name] = x
            elif node.op == "call_module":
                values[node.name] = called(modules[node.target], *args)
            elif node.op == "output":
                return args[0]
            elif node.target is operator.add:
                values[node.name] = args[0] + args[1]
            else:
                assert node.target == "flatten", node.target
                values[node.name] = tf.reshape(args[0], (1, -1))
        raise AssertionError("no output")

    return forward


def torch_pruning_by_macs(net: nn.Module, example: torch.Tensor, macs: float) -> nn.Module:
    """Down to so many MACs by Torch-Pruning: L2 norms of groups, compared over the whole network."""
    import torch_pruning as tp

    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        net,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=0.95,
        iterative_steps=STEPS,
        round_to=8,
        ignored_layers=[last],
    )
    for _ in range(STEPS):
        if count(net, example)[0] <= macs:
            return net
        pruner.step()
    raise RuntimeError(f"Torch-Pruning does not come down to {macs:,} multiply-accumulates")


PEERS = {
    "nncf": (nncf_ptq, "onnx"),
    "onnxruntime": (onnxruntime_static, "onnx"),
    "ai-edge-quantizer": (ai_edge_quantizer_static, "tflite"),
    "tensorflow": (tensorflow_converter, "tflite"),
}
