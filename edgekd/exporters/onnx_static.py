"""A user's float ONNX file in another scheme, without a torch module: calibrated, never trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekd.errors import ExportError, UsageError


def emit(
    source: Path,
    path: Path,
    *,
    scheme: str,
    activations: str | None,
    samples: NDArray[np.float32] | None,
    metadata: dict[str, str],
) -> None:
    """Writes `source` in a scheme: fp32 as it is, dynamic and static int8 by onnxruntime's quantizer.

    Args:
        source: a float ONNX file with one input.
        path: where the new file goes.
        scheme: fp32, dynamic_wi8_afp32 or static_wi8_ai8.
        activations: "unsigned" or "signed", for static_wi8_ai8.
        samples: calibration inputs (N, *shape), for static_wi8_ai8.
        metadata: written into the file.

    Raises:
        UsageError: the scheme is not offered for a file.
        ExportError: onnxruntime's quantizer refuses the file.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    temporary = path.with_suffix(".tmp.onnx")
    if scheme == "fp32":
        temporary.write_bytes(source.read_bytes())
    elif scheme == "dynamic_wi8_afp32":
        model = onnx.load(source)
        del model.graph.value_info[:]  # stale shapes make the quantizer stumble
        quantize_dynamic(model, temporary, weight_type=QuantType.QInt8, per_channel=True)
    elif scheme == "static_wi8_ai8":
        assert samples is not None
        prepared = path.with_suffix(".prepared.onnx")
        try:
            quant_pre_process(str(source), str(prepared))
            quantize_static(
                str(prepared),
                str(temporary),
                _Feed(prepared, samples),
                per_channel=True,
                activation_type=QuantType.QInt8 if activations == "signed" else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # it raises whatever its shape inference or its kernels met
            raise ExportError(
                f"{source}: cannot be quantized: {' '.join(str(error).split())[:200]}"
            ) from error
        finally:
            prepared.unlink(missing_ok=True)
    else:
        raise UsageError(
            f"scheme {scheme!r} is not offered for an ONNX file", hint="give the student as a network"
        )
    model = onnx.load(temporary)
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
    path.write_bytes(model.SerializeToString(deterministic=True))
    temporary.unlink()


class _Feed:
    """Calibration samples one by one, as onnxruntime's quantizer reads them."""

    def __init__(self, model: Path, samples: NDArray[np.float32]) -> None:
        name = onnx.load(model, load_external_data=False).graph.input[0].name
        self.feed = iter([{name: samples[i : i + 1]} for i in range(len(samples))])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self.feed, None)
