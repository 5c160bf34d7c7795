"""Networks' latency as predicted from tables of layers, beside what their int8 files take.

The tables (`edgekd profile --target host` and `--target x86-onnx`, made here where they are missing) know
layers, not these networks: other depths, widths and depthwise ones. Table and files are timed against
the same reference, at the processor's full speed. A processor shared with others may need some minutes.

Prints a table; the last line is one JSON document.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekd import exporters
from edgekd.config import Target, load_calibration, load_target
from edgekd.latency.costs import Costs
from edgekd.latency.network import layers_of, predict
from edgekd.latency.profile import common_layers, profile
from edgekd.latency.table import Table
from edgekd.latency.timing import ratios_of
from edgekd.models import mobilenet, resnet
from edgekd.progress import Display
from edgekd.quantize import qat, schemes
from edgekd.store import Store
from edgekd.terminal import console

TARGETS = ("host", "x86-onnx")
MEDIAN_LIMIT, WORST_LIMIT = 0.10, 0.25
CIFAR, MNIST = (3, 32, 32), (1, 28, 28)
NETWORKS: dict[str, tuple[Any, tuple[int, ...], dict[str, Any]]] = {
    "ResNet-20": (resnet, CIFAR, {"blocks": (3, 3, 3), "width": 16}),
    "ResNet-8": (resnet, CIFAR, {"blocks": (1, 1, 1), "width": 16}),
    "ResNet-8, width 8": (resnet, CIFAR, {"blocks": (1, 1, 1), "width": 8}),
    "ResNet-10, width 40": (resnet, CIFAR, {"blocks": (1, 2, 1), "width": 40}),
    "ResNet-10, width 24, 28x28": (resnet, MNIST, {"blocks": (1, 1, 2), "width": 24}),
    "ResNet-14, width 12, 28x28": (resnet, MNIST, {"blocks": (2, 2, 2), "width": 12}),
    "ResNet-32, width 8, 28x28": (resnet, MNIST, {"blocks": (5, 5, 5), "width": 8}),
    "MobileNet, width 8": (mobilenet, CIFAR, {"width": 8, "blocks": (1, 2, 2), "expand": 4}),
    "MobileNet, width 16": (mobilenet, CIFAR, {"width": 16, "blocks": (1, 2, 2), "expand": 4}),
    "MobileNet, width 16, 28x28": (mobilenet, MNIST, {"width": 16, "blocks": (2, 3, 2), "expand": 6}),
    "MobileNet, width 24, 28x28": (mobilenet, MNIST, {"width": 24, "blocks": (1, 1, 1), "expand": 3}),
    "MobileNet, width 12, 28x28": (mobilenet, MNIST, {"width": 12, "blocks": (1, 2, 3), "expand": 4}),
}


def networks() -> dict[str, tuple[torch.nn.Module, torch.Tensor]]:
    """Untrained: what their kernels take does not depend on the weights."""
    made = {}
    for name, (kind, shape, options) in NETWORKS.items():
        torch.manual_seed(0)
        net, x = kind.build(shape, 10, **options), torch.randn(64, *shape)
        with torch.no_grad():
            net.train()(x)  # batch norms see some values
        made[name] = (net.eval(), x[:1])
    return made


def written(
    target: Target, nets: dict[str, tuple[torch.nn.Module, torch.Tensor]], folder: Path
) -> dict[str, Path]:
    """Each network as the int8 file that the target gets."""
    policy, paths = load_calibration("stratified-512"), {}
    emission = target.artifact
    for name, (net, example) in nets.items():
        samples = np.random.default_rng(0).standard_normal((64, *example.shape[1:])).astype(np.float32)
        quantized = qat.prepare(net, samples, policy)
        paths[name] = folder / f"{len(paths)}{exporters.SUFFIXES[emission.format]}"
        write(target, quantized, example, paths[name])
    return paths


def write(target: Target, quantized: schemes.QuantizedNet, example: torch.Tensor, path: Path) -> None:
    """A quantized network as the target gets it."""
    emission = target.artifact
    exporters.export(
        schemes.lower(quantized, example, emission.activation_signedness, emission.format),
        example,
        path,
        format=emission.format,
        scheme=emission.scheme,
        input_name="image",
        metadata={},
    )


def compare(target: Target, table: Table, nets: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    costs, rows = Costs(table), []
    found = ratios_of(written(target, nets, folder), table, folder)
    for name, (net, example) in nets.items():
        predicted = predict(layers_of(net, example), costs)
        taken, error, _ = found[name]
        rows.append(
            {
                "network": name,
                "target": target.name,
                "predicted_ms": predicted.ratio * table.unit_ms,
                "measured_ms": taken * table.unit_ms,
                "error": predicted.ratio / taken - 1,
                "measured_standard_error": error / taken,
                "layers_outside": len(predicted.outside),
            }
        )
    return rows


def main() -> int:
    store, nets = Store(Store.default_root()), networks()
    result: dict[str, Any] = {"benchmark": "latency_prediction", "rows": []}
    for name in TARGETS:
        target = load_target(name)
        started = time.monotonic()
        with Display(console) as display:
            table = profile(target, common_layers(), store, display)
        result[f"profile_s_{name}"] = time.monotonic() - started
        result[f"chains_{name}"] = len(table.ratios)
        with tempfile.TemporaryDirectory() as folder:
            result["rows"] += compare(target, table, nets, Path(folder))
    print("| network | target | predicted ms | measured ms | error |\n|---|---|---:|---:|---:|")
    for row in result["rows"]:
        outside = f" ({row['layers_outside']} layers outside)" if row["layers_outside"] else ""
        print(
            f"| {row['network']} | {row['target']} | {row['predicted_ms']:.3f}{outside} "
            f"| {row['measured_ms']:.3f} | {row['error']:+.1%} |"
        )
    good = True
    for name in TARGETS:
        errors = [abs(row["error"]) for row in result["rows"] if row["target"] == name]
        result[f"median_error_{name}"], result[f"worst_error_{name}"] = float(np.median(errors)), max(errors)
        good &= np.median(errors) <= MEDIAN_LIMIT and max(errors) <= WORST_LIMIT
        print(f"{name}: median error {np.median(errors):.1%}, worst {max(errors):.1%}")
    print(json.dumps(result))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
