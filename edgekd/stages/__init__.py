"""The stages of the chain: each a module with `run(folder, node, context)`, loaded on demand.

A stage writes its files into `folder` and returns what is worth knowing as a JSON-able
mapping. Its version is part of the key of its results: raise it when the meaning of a
result changes, and older results are no longer found.
"""

from __future__ import annotations

from dataclasses import dataclass

_TORCH = ("torch", "lightning-fabric")
_EXPORT = ("torch", "nncf", "onnx", "onnxscript", "onnxruntime", "litert-torch", "ai-edge-quantizer")


@dataclass(frozen=True)
class Stage:
    """Where a stage's code lies, its version, the libraries its result depends on, and a guess of its cost."""

    module: str
    version: int
    libraries: tuple[str, ...]
    seconds: float


STAGES = {
    "data": Stage("edgekd.stages.data", 1, ("numpy", "pillow", "scikit-learn"), 2),
    "calibration": Stage("edgekd.stages.calibration", 1, ("numpy",), 1),
    "network": Stage("edgekd.stages.network", 1, _TORCH, 5),
    "onnx_file": Stage("edgekd.stages.onnx_file", 1, ("onnxruntime",), 2),
    "outputs": Stage("edgekd.stages.outputs", 1, _TORCH, 5),
    "distill": Stage("edgekd.stages.distill", 1, _TORCH, 30),
    "prune": Stage("edgekd.stages.prune", 1, (*_TORCH, "torch-pruning"), 20),
    "quantize": Stage("edgekd.stages.quantize", 1, (*_TORCH, "nncf"), 30),
    "export": Stage("edgekd.stages.export", 1, _EXPORT, 8),
    "evaluate": Stage("edgekd.stages.evaluate", 1, ("onnxruntime", "ai-edge-litert"), 4),
    "measure": Stage("edgekd.stages.measure", 1, ("onnxruntime", "ai-edge-litert"), 12),
}
