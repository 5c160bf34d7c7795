"""The five int8 files of MLPerf Tiny on this computer and on a device: do they compute the same there?

    python benchmarks/mlperf_tiny.py --device NAME --output FOLDER

`edgekd devices add` names devices; without one a fresh process of this computer stands in. Inputs are random,
in the whole range of each file's input; scores are compared in steps of the output's scale. Prints a table,
and writes it as mlperf_tiny.md and mlperf_tiny.json where a folder is named.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgekd.devices.board import Board
from edgekd.devices.known import Device, device
from edgekd.devices.local import run_agent
from edgekd.measure.bench import Bench, bench
from edgekd.measurements import Protocol

FILES = ("ad01_int8", "kws_ref_model", "pretrainedResnet_quant", "pretrainedResnet_large_int8", "vww_96_int8")
SAMPLES = 50
HERE = Protocol(warmup_runs=10, min_runs=1000, min_seconds=1.0, num_processes=3, num_threads=1)
# A device may be slow; an emulated one is, and its times are none.
THERE = Protocol(warmup_runs=2, min_runs=30, min_seconds=0.5, num_processes=3, num_threads=1)


def main() -> int:
    """Runs all; 1 where a file gives other classes there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="a name of `edgekd devices list`")
    parser.add_argument("--output", type=Path, help="folder for the table")
    asked = parser.parse_args()
    if "EDGEKD_DATA" not in os.environ:
        print("mlperf_tiny: skipped, EDGEKD_DATA names no folder with models/mlperf_tiny")
        return 0
    data = Path(os.environ["EDGEKD_DATA"]) / "models" / "mlperf_tiny"
    stand_in = Device(via="local", python=sys.executable)
    with Board(asked.device or "local", device(asked.device) if asked.device else stand_in) as board:
        machine = board.machine()
        rows = [row(data / f"{name}.tflite", board) for name in FILES]
    found = {
        "benchmark": "mlperf_tiny",
        "device": {key: machine[key] for key in ("cpu", "isa", "features", "cores")},
        "emulated": board.device.is_emulator,
        "samples": SAMPLES,
        "rows": rows,
    }
    text = table(found)
    print(text)
    if asked.output is not None:
        asked.output.mkdir(parents=True, exist_ok=True)
        (asked.output / "mlperf_tiny.md").write_text(text + "\n")
        (asked.output / "mlperf_tiny.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(json.dumps(found))
    return 0 if all(row["classes_differ"] == 0 for row in rows) else 1


def row(path: Path, board: Board) -> dict[str, object]:
    """One file, here and there."""
    here, there = bench(path, protocol=HERE), bench(path, protocol=THERE, board=board)
    scores, scale = compared(path, board)
    steps = np.abs(scores[0] - scores[1]) / scale
    return {
        "file": path.stem,
        "size_bytes": here.size_bytes,
        "largest_steps": float(steps.max()),
        "equal_share": float((steps < 0.5).mean()),
        # The autoencoder names no class: its output is a spectrum.
        "classes_differ": int((scores[0].argmax(1) != scores[1].argmax(1)).sum())
        if path.stem != "ad01_int8"
        else 0,
        "here": figures(here),
        "there": figures(there),
    }


def figures(found: Bench) -> dict[str, object]:
    """What a bench says of one place."""
    said = found.as_dict()
    keys = (
        "kind",
        "backend",
        "runtime_version",
        "median_ms",
        "p90_ms",
        "peak_memory_bytes",
        "int8_ops",
        "float_ops",
    )
    return {key: said[key] for key in keys}


def compared(path: Path, board: Board) -> tuple[list[np.ndarray], float]:
    """Scores (N, K) of both, and the output's scale, of inputs in the whole range of the input."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    given, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = given["quantization"]
    steps = np.random.default_rng(0).integers(-128, 128, (SAMPLES, *given["shape"][1:]))
    inputs = ((steps - zero) * scale).astype(np.float32)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.save(folder / "inputs.npy", inputs)
        model = {"id": path.stem, "path": str(path), "runtime": "litert", "delegate": "cpu", "num_threads": 1}
        job = {"mode": "predict", "model": model, "inputs": str(folder / "inputs.npy"), "batch_size": 1}
        found = []
        for number, run in enumerate((run_agent, board.run)):
            run({**job, "outputs": str(folder / f"{number}.npy")})
            found.append(np.load(folder / f"{number}.npy"))
    return found, out["quantization"][0]


def table(found: dict) -> str:
    """As Markdown."""
    device = found["device"]
    head = (
        "File",
        "kB",
        "Largest difference, steps",
        "Equal scores",
        "Other class",
        "Here, ms",
        "There, ms",
        "Kind there",
    )
    lines = [
        f"MLPerf Tiny's int8 files on {device['cpu']} ({device['isa']}): {found['samples']} random samples "
        "each, against this computer.",
        "",
        "| " + " | ".join(head) + " |",
        "|---" + "|---:" * 6 + "|---|",
    ]
    for each in found["rows"]:
        cells = (
            each["file"],
            f"{each['size_bytes'] / 1000:.1f}",
            f"{each['largest_steps']:.0f}",
            f"{each['equal_share']:.1%}",
            each["classes_differ"],
            f"{each['here']['median_ms']:.3f}",
            "–" if found["emulated"] else f"{each['there']['median_ms']:.3f}",
            each["there"]["kind"],
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
