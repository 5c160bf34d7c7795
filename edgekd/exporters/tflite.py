"""Torch module to TFLite through litert-torch: NHWC input; static_wi8_ai8 has int8 at its borders too."""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from torch import Tensor, nn

from edgekd.errors import ExportError

METADATA_NAME = "edgekd"


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
    """See `edgekd.exporters.export`. Images are taken as (1, H, W, C), one sample at a time."""
    import litert_torch

    example: tuple[Tensor, ...] = (example_input,)
    mixed = scheme == "static_wi8_ai8" and bool(module.num_float)
    if example_input.dim() == 4:
        module = litert_torch.to_channel_last_io(module, args=[0]).eval()
        example = (example_input.permute(0, 2, 3, 1).contiguous(),)
    try:
        with _as_marked() if mixed else nullcontext():
            converted = litert_torch.convert(module, example, quant_config=_static_mode(scheme))
    except Exception as error:  # the converter raises whatever its lowering met
        # What stands before the converter's own stack names the operator.
        reason = " ".join(str(error).split("Original traceback")[0].split())[:300]
        raise ExportError(f"TFLite: {reason}", hint="replace that operator in the network") from error
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        raw = Path(folder) / "raw.tflite"
        converted.export(str(raw))
        if scheme in ("fp16", "dynamic_wi8_afp32", "weight_only_wi8_afp32"):
            raw = _post_training(raw, Path(folder) / "quantized.tflite", scheme)
        done = Path(folder) / "done.tflite"
        done.write_bytes(_finished(raw.read_bytes(), module, input_name, metadata, mixed, halves))
        done.replace(path)


def _static_mode(scheme: str) -> Any:
    """The converter emits integer kernels only when it is told that a quantizer was used.

    The scales in the file are those in the module, not this quantizer's.
    """
    if scheme != "static_wi8_ai8":
        return None
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    config = get_symmetric_quantization_config(is_per_channel=True)
    return QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(config))


@contextmanager
def _as_marked() -> Iterator[None]:
    """While it is open the converter turns only such layers into integer ones as are marked so in full.

    It has this setting, and litert-torch no way to it. Input and output of the file are float then.
    """
    from litert_torch._convert import litert_converter

    settings = litert_converter.converter_api_ext
    real = settings.ConvertToTFLConfig

    def strict() -> Any:
        config = real()
        config.strict_qdq_mode = True
        return config

    settings.ConvertToTFLConfig = strict
    try:
        yield
    finally:
        settings.ConvertToTFLConfig = real


def _with_integer_ends(model: Any) -> None:
    """Gives a file the integers at its ends that one without a float layer has: without its casts there.

    An end that is more than a cast stays as it is: what computes there computes in float.
    """
    from ai_edge_litert import schema_py_generated as schema

    (graph,), moved = model.subgraphs, {}
    for end, kind in (
        (int(graph.inputs[0]), schema.BuiltinOperator.QUANTIZE),
        (int(graph.outputs[0]), schema.BuiltinOperator.DEQUANTIZE),
    ):
        users = [o for o in graph.operators if end in (*o.inputs, *o.outputs)]
        if [model.operatorCodes[o.opcodeIndex].builtinCode for o in users] == [kind]:
            (cast,) = users
            (moved[end],) = {int(cast.inputs[0]), int(cast.outputs[0])} - {end}
            graph.operators = [o for o in graph.operators if o is not cast]
    graph.inputs, graph.outputs = (
        [moved.get(int(end), int(end)) for end in ends] for ends in (graph.inputs, graph.outputs)
    )
    for signature in model.signatureDefs or ():
        for named in (*signature.inputs, *signature.outputs):
            named.tensorIndex = moved.get(named.tensorIndex, named.tensorIndex)


def _to_halves(model: Any) -> None:
    """Stores float weights that were rounded to 16 bits in these; runtimes widen them on loading."""
    from ai_edge_litert import schema_py_generated as schema

    (graph,), kinds = model.subgraphs, schema.BuiltinOperator
    weighted = (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.FULLY_CONNECTED)
    operators = [o for o in graph.operators if model.operatorCodes[o.opcodeIndex].builtinCode in weighted]
    casts = []
    for place in dict.fromkeys(int(o.inputs[1]) for o in operators):
        tensor = graph.tensors[place]
        content = model.buffers[tensor.buffer].data
        if tensor.type != schema.TensorType.FLOAT32 or content is None:
            continue
        values = np.frombuffer(bytes(content), np.float32)
        if not (values.astype(np.float16).astype(np.float32) == values).all():
            continue
        half, cast = copy.copy(tensor), schema.OperatorT()
        half.type, half.name, half.buffer = (
            schema.TensorType.FLOAT16,
            tensor.name + b":half",
            len(model.buffers),
        )
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = np.frombuffer(values.astype(np.float16).tobytes(), np.uint8)
        tensor.buffer = 0  # computed
        graph.tensors.append(half)
        cast.opcodeIndex = len(model.operatorCodes)
        cast.inputs, cast.outputs = [len(graph.tensors) - 1], [place]
        cast.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
        cast.builtinOptions = schema.DequantizeOptionsT()
        casts.append(cast)
    used = {tensor.buffer for tensor in graph.tensors}
    for i, buffer in enumerate(model.buffers):
        if i not in used and not any(m.buffer == i for m in model.metadata or ()):
            buffer.data = None
    if casts:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = kinds.DEQUANTIZE
        code.version = 3  # of 16-bit floats
        model.operatorCodes.append(code)
        graph.operators = [*casts, *graph.operators]


def _post_training(source: Path, path: Path, scheme: str) -> Path:
    from ai_edge_quantizer import quantizer, recipe

    engine = quantizer.Quantizer(str(source))
    if scheme != "fp16":
        engine.load_quantization_recipe(getattr(recipe, scheme)())
    else:
        from ai_edge_quantizer import qtyping

        engine.update_quantization_recipe(
            regex=".*",
            operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
            op_config=qtyping.OpQuantizationConfig(
                weight_tensor_config=qtyping.TensorQuantizationConfig(
                    num_bits=16, dtype=qtyping.TensorDataType.FLOAT
                ),
                compute_precision=qtyping.ComputePrecision.FLOAT,
            ),
            algorithm_key="float_casting",
        )
    engine.quantize().export_model(str(path), overwrite=True)
    return path


class _AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]  # the library has no types
    """Puts byte vectors on multiples of 16, as the TFLite schema asks.

    The generated Python code forgets it, and kernels on Arm read constants in place.
    """

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:
        return super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment)


def _layer(name: str, module: nn.Module) -> str:
    """`blocks.1.conv2` of the converter's name, which lists class and module of all that lies around it.

    Long names are a ninth of a file of 80,000 weights.
    """
    around, *inside = name.split(";")[0].split("/")
    path: list[str] = []
    for part in inside:
        children = (
            (f"{type(m).__module__}.{type(m).__name__}_{n}", n, m) for n, m in module.named_children()
        )
        attribute, child = next(((n, m) for full, n, m in children if full == part), ("", None))
        if child is None:
            break
        # What stands around the network here is no part of it.
        own = type(module).__module__.startswith(("litert_torch.", "edgekd.quantize."))
        path, module = [*path, *([] if own else [attribute])], child
    return ".".join(path) or around


def _finished(
    content: bytes, module: nn.Module, input_name: str, metadata: dict[str, str], mixed: bool, halves: bool
) -> bytes:
    """The file with one named metadata buffer (JSON) and readable names, and integers at its ends.

    `module` is what was converted, `mixed` whether it has layers in float between others in integers,
    `halves` whether their weights are stored in 16 bits.
    """
    import json

    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for held in model.buffers:
        if held.offset > 1:  # larger constants lie behind the flatbuffer, which is packed anew here
            held.data = np.frombuffer(content, np.uint8, held.size, held.offset)
            held.offset = held.size = 0
    if mixed:
        _with_integer_ends(model)
    if halves:
        _to_halves(model)
    for graph in model.subgraphs:
        ends = {graph.inputs[0]: input_name, graph.outputs[0]: "logits"}
        taken = Counter(ends.values())
        for i, tensor in enumerate(graph.tensors):
            name = ends.get(i)
            if name is None:
                name = _layer(tensor.name.decode(), module)
                taken[name] += 1
                name = name if taken[name] == 1 else f"{name}:{taken[name]}"
            tensor.name = name.encode()
    for signature in model.signatureDefs or ():
        signature.inputs[0].name, signature.outputs[0].name = input_name.encode(), b"logits"
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(json.dumps(metadata, sort_keys=True).encode(), np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA_NAME.encode(), len(model.buffers) - 1
    model.metadata = [*(m for m in model.metadata or () if m.name != entry.name), entry]
    builder = _AlignedBuilder(len(content) + 4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
