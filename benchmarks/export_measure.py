"""Export, parity, evaluation and measurement of three targets for a ResNet-20: at most 120 s.

The network is trained just enough to be told from one that guesses: what is timed does not
depend on its weights.

Prints a table; the last line is one JSON document.
"""

import json
import sys
import tempfile
from pathlib import Path

import edgekd

LIMIT_S = 120.0
TARGETS = ("host", "x86-onnx", "arm64-onnx")


def main() -> int:
    recipe = {
        "name": "export-measure",
        "targets": list(TARGETS),
        "required_targets": ["host"],
        "teacher": {"model": {"kind": "resnet"}, "train": {"epochs": 4, "batch_size": 64}},
        "task": {"kind": "digits"},
        "quantize": {"method": "ptq"},
        "gate": {"max_drop_pp": 50.0},
    }
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        edgekd.compress(
            recipe,
            workdir=Path(folder) / "run",
            store=store,
        )
        found: dict[str, float] = {}
        for path in store.glob("*/result.json"):
            record = json.loads(path.read_text())
            found[record["stage"]] = found.get(record["stage"], 0.0) + record["seconds"]
    timed = {stage: found[stage] for stage in ("export", "evaluate", "measure")}
    for stage, seconds in timed.items():
        print(f"{stage:10} {seconds:6.1f} s")
    total = sum(timed.values())
    print(json.dumps({"benchmark": "export_measure", **timed, "total_s": total, "limit_s": LIMIT_S}))
    return 0 if total <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
