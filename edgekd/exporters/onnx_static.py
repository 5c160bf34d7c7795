"""A user's float ONNX file in another scheme, without a torch module: calibrated, never trained."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekd.config import CalibrationPolicy
from edgekd.errors import ExportError, UsageError
from edgekd.exporters.onnx_weights import to_8_bits

# Of onnxruntime. Its entropy search starts from as many bins as it may end with, so it only ever finds
# the whole range: that is min_max under another name, and not offered.
OBSERVERS = {"min_max": "MinMax", "percentile": "Percentile"}


def emit(
    source: Path,
    path: Path,
    *,
    scheme: str,
    activations: str | None,
    samples: NDArray[np.float32] | None,
    policy: CalibrationPolicy,
    metadata: dict[str, str],
) -> None:
    """Writes `source` in a scheme: fp32 as it is, dynamic and static int8 by onnxruntime's quantizer.

    Args:
        source: a float ONNX file with one input.
        path: where the new file goes.
        scheme: fp32, or one with 8-bit weights.
        activations: "unsigned" or "signed", for static_wi8_ai8.
        samples: calibration inputs (N, *shape), for static_wi8_ai8.
        policy: whose observer chooses the ranges, for static_wi8_ai8.
        metadata: written into the file.

    Raises:
        UsageError: the scheme or the observer is not offered for a file.
        ExportError: onnxruntime's quantizer refuses the file.
    """
    if scheme == "fp16":
        raise UsageError(
            f"scheme {scheme!r} is not offered for an ONNX file", hint="give the student as a network"
        )
    if scheme == "static_wi8_ai8" and policy.observer not in OBSERVERS:
        raise UsageError(
            f"calibration {policy.name!r}: observer {policy.observer!r} is not offered for an ONNX file",
            hint=f"choose one of {', '.join(OBSERVERS)}",
        )
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        try:
            if scheme in ("fp32", "weight_only_wi8_afp32"):
                model = onnx.load(source)
                if scheme != "fp32":
                    to_8_bits(model)
                    onnx.checker.check_model(model)
            elif scheme == "dynamic_wi8_afp32":
                model = _dynamic(source, Path(folder))
            else:
                assert samples is not None
                model = _static(source, Path(folder), activations, samples, policy)
        except ExportError:
            raise
        except Exception as error:  # the quantizer raises whatever its shape inference or its kernels met
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"{source}: cannot be quantized: {reason}") from error
        onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
        done = Path(folder) / "done.onnx"
        done.write_bytes(model.SerializeToString(deterministic=True))
        done.replace(path)


def _dynamic(source: Path, folder: Path) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    del model.graph.value_info[:]  # stale shapes make the quantizer stumble
    quantize_dynamic(model, folder / "dynamic.onnx", weight_type=QuantType.QInt8, per_channel=True)
    return onnx.load(folder / "dynamic.onnx")


def _static(
    source: Path,
    folder: Path,
    activations: str | None,
    samples: NDArray[np.float32],
    policy: CalibrationPolicy,
) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    quant_pre_process(str(source), str(prepared))
    quantize_static(
        str(prepared),
        str(folder / "static.onnx"),
        _Feed(prepared, samples),
        per_channel=True,
        calibrate_method=CalibrationMethod[OBSERVERS[policy.observer]],
        extra_options={"CalibPercentile": policy.percentile} if policy.observer == "percentile" else {},
        activation_type=QuantType.QInt8 if activations == "signed" else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return onnx.load(folder / "static.onnx")


class _Feed:
    """Calibration samples one by one, as onnxruntime's quantizer reads them."""

    def __init__(self, model: Path, samples: NDArray[np.float32]) -> None:
        graph = onnx.load(model, load_external_data=False).graph
        weights = {i.name for i in graph.initializer}  # files of before IR 4 list them as inputs too
        name = next(i.name for i in graph.input if i.name not in weights)
        self.feed = iter([{name: samples[i : i + 1]} for i in range(len(samples))])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self.feed, None)
