"""Two students at half of their int8 latency: pruned by the clock, and by MACs.

A ResNet-20 and a MobileNetV2-type network distil on Fashion-MNIST from one teacher; each is shipped whole,
pruned to half of its latency in LiteRT, and pruned to half of its MACs, each with the same recovery. Stages
are kept in the store, so a killed study goes on; the files are timed in turns at the end.

    EDGEKD_DATA=... python benchmarks/half_latency.py --work FOLDER     # makes, judges and times the files
    EDGEKD_DATA=... python benchmarks/half_latency.py --work FOLDER --student ResNet-20  # its own alone
    python benchmarks/half_latency.py                                   # the table of the last run
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from in_turns import timed

import edgekd
from edgekd.devices.machine import host_info
from edgekd.report.schema import Report

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "reports" / "half-latency" / "half_latency.json"
STUDENTS: dict[str, dict[str, Any]] = {
    "ResNet-20": {"kind": "resnet", "blocks": [3, 3, 3], "width": 16},
    "MobileNetV2": {"kind": "mobilenet", "blocks": [1, 2, 2], "width": 16, "expand": 4},
}
EPOCHS = 12
# Epochs of recovery and of QAT, the same for both ways: what is narrow from the start recovers more slowly.
RECOVERY = {"ResNet-20": (8, 1), "MobileNetV2": (24, 2)}
KEEP = 0.5
WAYS: dict[str, dict[str, Any] | None] = {
    "nothing": None,
    "latency": {"goal": "latency_ms", "keep": KEEP, "remove_blocks": True},
    "MACs": {"goal": "macs", "keep": KEEP},
}
WITHIN, MAX_DROP_PP = 0.10, 0.6


def recipe(student: str, way: str) -> dict[str, Any]:
    made = tomllib.loads((ROOT / "recipes" / "fashion-mnist-tiny.toml").read_text())
    name = f"half-{student}-{way}".lower()
    made |= {"name": name, "targets": ["host"], "required_targets": ["host"]}
    made["student"]["model"] = STUDENTS[student]
    recovery, qat = RECOVERY[student]
    made["distill"]["epochs"], made["quantize"]["epochs"] = EPOCHS, qat
    made.pop("prune", None)
    if (how := WAYS[way]) is not None:
        made["prune"] = {**made["distill"], "epochs": recovery, **how}
    return made


def row(student: str, way: str, report: Report) -> dict[str, Any]:
    """What the report says of the shipped file and of the network before quantization."""
    (file,) = (a for a in report.artifacts if a.role == "target")
    stages = {stage.name: stage for stage in report.stages}
    network = stages.get("prune", stages["distill"])
    predicted = network.predicted_latency
    return {
        "student": student,
        "way": way,
        "recovery_epochs": RECOVERY[student][0] if way != "nothing" else 0,
        "params": network.params,
        "macs": network.macs,
        "removed_blocks": network.removed_blocks,
        "predicted_ms": predicted and predicted.pruned_ms,
        "asked_ms": predicted and predicted.limit_ms,
        "float_accuracy": network.metrics[0].value,
        "accuracy": file.metrics[0].value,
        "size_bytes": file.size_bytes,
        "teacher_accuracy": report.teacher.metrics[0].value,
    }


def study(work: Path, students: Sequence[str]) -> list[dict[str, Any]]:
    rows, paths = [], []
    for student in students:
        for way in WAYS:
            folder = work / f"{student}-{way}"
            report = edgekd.compress(recipe(student, way), workdir=folder, show=True)
            rows.append(row(student, way, report))
            paths.append(folder / "artifacts" / "host.tflite")
    for each, latencies in zip(rows, timed(paths), strict=True):
        each["latency_ms"] = float(np.median(latencies))
    for student in students:
        mine = {each["way"]: each for each in rows if each["student"] == student}
        for each in mine.values():
            each["drop_pp"] = mine["nothing"]["float_accuracy"] - each["accuracy"]
            each["latency_share"] = each["latency_ms"] / mine["nothing"]["latency_ms"]
    return rows


def show(result: dict[str, Any]) -> str:
    lines = [
        "| student | pruned by | recovery | MACs | weights | int8, ms | share | float % | int8 % | drop pp |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in result["rows"]:
        lines.append(
            f"| {r['student']} | {r['way']} | {r['recovery_epochs']} | {r['macs']:,} | {r['params']:,} "
            f"| {r['latency_ms']:.4f} | {r['latency_share']:.2f} | {r['float_accuracy']:.2f} "
            f"| {r['accuracy']:.2f} | {r['drop_pp']:+.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="make, judge and time all files, kept in this folder")
    parser.add_argument("--student", choices=STUDENTS, action="append", help="these alone, others as before")
    arguments = parser.parse_args()
    if arguments.work is not None:
        chosen = arguments.student or list(STUDENTS)
        before = json.loads(RESULT.read_text())["rows"] if RESULT.is_file() else []
        rows = [row for row in before if row["student"] not in chosen] + study(arguments.work, chosen)
        result = {"benchmark": "half_latency", "keep": KEEP, "host": host_info(), "rows": rows}
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    if not RESULT.is_file():
        print("no run yet: --work FOLDER makes one, in about an hour")
        return 0
    result = json.loads(RESULT.read_text())
    print(show(result))
    print(json.dumps(result))
    by_clock = [r for r in result["rows"] if r["way"] == "latency"]
    met = all(r["latency_share"] <= KEEP * (1 + WITHIN) and r["drop_pp"] <= MAX_DROP_PP for r in by_clock)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
