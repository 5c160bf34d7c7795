"""What a layer takes longer in float in an int8 file: as tables of layers say, beside what the files take.

Of two networks each layer alone goes back to float, in ONNX and in TFLite. What counts is the order, since
by it `quantize.max_val_drop_pp` chooses: Spearman's rank correlation with the measured costs, of the
tables' and of multiply-accumulates. A processor shared with others may need some minutes.

Prints a table; the last line is one JSON document.
"""

import copy
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latency_prediction import TARGETS, networks, write
from scipy.stats import spearmanr

from edgekd import exporters
from edgekd.config import Target, load_calibration, load_target
from edgekd.latency.costs import Costs
from edgekd.latency.network import layers_at
from edgekd.latency.profile import in_either
from edgekd.latency.timing import ratios_of
from edgekd.progress import Display
from edgekd.quantize import mixed, qat
from edgekd.store import Store
from edgekd.terminal import console

NETWORKS = ("ResNet-8", "MobileNet, width 16")
LIMIT = 0.8
WHOLE = "all in integers"


def written(target: Target, net: torch.nn.Module, example: torch.Tensor, folder: Path) -> dict[str, Path]:
    """The file without a layer in float, and one for each layer that is."""
    policy = load_calibration("stratified-512")
    samples = np.random.default_rng(0).standard_normal((64, *example.shape[1:])).astype(np.float32)
    quantized = qat.prepare(copy.deepcopy(net), samples, policy)
    paths = {}
    for path in (WHOLE, *(layer.path for layer in mixed.layers(quantized, example))):
        kept = mixed.in_float(quantized, example, () if path == WHOLE else (path,))
        paths[path] = folder / f"{len(paths)}{exporters.SUFFIXES[target.artifact.format]}"
        write(target, kept, example, paths[path])
    return paths


def compare(target: Target, name: str, store: Store, folder: Path) -> list[dict[str, Any]]:
    net, example = networks()[name]
    paths = written(target, net, example, folder)
    within = layers_at(net, example, [path for path in paths if path != WHOLE])
    with Display(console) as display:
        table = in_either(target, {layer for layers in within.values() for layer in layers}, store, display)
    costs, taken = Costs(table), ratios_of(paths, table, folder)
    rows = []
    for path, (layer,) in within.items():
        more = costs.of(replace(layer, in_float=True)).value - costs.of(layer).value
        rows.append(
            {
                "network": name,
                "target": target.name,
                "layer": path,
                "macs": layer.macs,
                "predicted_ms": more * table.unit_ms,
                "measured_ms": (taken[path].value - taken[WHOLE].value) * table.unit_ms,
            }
        )
    return rows


def main() -> int:
    store, good = Store(Store.default_root()), True
    result: dict[str, Any] = {"benchmark": "float_layers", "rows": [], "rank_correlation": {}}
    print("| network | target | layer | predicted ms | measured ms |\n|---|---|---|---:|---:|")
    for name in NETWORKS:
        for target in TARGETS:
            with tempfile.TemporaryDirectory() as folder:
                rows = compare(load_target(target), name, store, Path(folder))
            for row in rows:
                print(
                    f"| {name} | {target} | {row['layer']} | {row['predicted_ms']:+.4f} "
                    f"| {row['measured_ms']:+.4f} |"
                )
            measured = [row["measured_ms"] for row in rows]
            found = {
                by: float(spearmanr([row[by] for row in rows], measured).statistic)
                for by in ("predicted_ms", "macs")
            }
            result["rows"] += rows
            result["rank_correlation"][f"{name}, {target}"] = found
            good &= found["predicted_ms"] >= LIMIT
    for where, found in result["rank_correlation"].items():
        print(f"{where}: rank correlation {found['predicted_ms']:.2f}, of MACs {found['macs']:.2f}")
    print(json.dumps(result))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
