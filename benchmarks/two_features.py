"""What the chain loses on two features and 1,000 samples: the recipe two-features, ten seeds of two problems.

Each run makes its own data and Keras files (examples/two_features/make_models.py) and takes them through the
recipe for `host`: distilled, pruned, trained for int8, written as TFLite. All is asked on 20,000 test
samples, drawn with the others. At most half a point may be lost from the teacher to the file, on average.

Runs go on where they were stopped: each leaves a line in reports/two-features/seeds.json. Prints a table; the
last line is one JSON document.

    python benchmarks/two_features.py --work FOLDER
"""

import argparse
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples/two_features"))
SEEDS = range(10)
DATA = ("make_moons", "make_classification")
STEPS = ("teacher", "distilled", "pruned", "trained for int8", "int8 file")
LIMIT_PP = 0.5
# What the figures come from: runs of other settings are not put beside these.
SECTIONS = ("task", "student", "distill", "prune", "quantize", "calibration")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="where data, models and finished stages lie")
    parser.add_argument("--output", type=Path, default=ROOT / "reports/two-features")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    path = given.output / "seeds.json"
    settings = tomllib.loads((ROOT / "recipes/two-features.toml").read_text())
    known = {"recipe": {section: settings[section] for section in SECTIONS}, "runs": []}
    if path.exists():
        found = json.loads(path.read_text())
        if found["recipe"] != known["recipe"]:
            sys.exit(f"{path}: of another recipe than two-features is now; delete the file")
        known = found
    runs: list[dict[str, Any]] = known["runs"]
    os.environ["EDGEKD_STORE"] = str((given.work / "store").resolve())
    for seed in SEEDS:
        for name in DATA:
            if not any((run["data"], run["seed"]) == (name, seed) for run in runs):
                print(f"{name}, seed {seed}", flush=True)
                accuracy = run_one(name, seed, settings, given.work.resolve())
                runs.append({"data": name, "seed": seed, "accuracy": accuracy})
                part = path.with_suffix(".part")
                part.write_text(json.dumps(known, indent=1) + "\n")
                part.rename(path)
    result = summary(runs)
    print(show(result))
    print(json.dumps(result))
    return 0 if result["drop_pp"] <= LIMIT_PP else 1


def run_one(name: str, seed: int, settings: dict[str, Any], work: Path) -> dict[str, float]:
    """Accuracy after each step, in %, on the test samples."""
    import make_models
    from chain import stages_until

    from edgekd.nodes import TEST_SCORES

    folder = work / f"{name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "student.keras").exists():  # written last
        make_models.make(name, seed, folder)
    recipe = {
        **settings,
        "seed": seed,
        "targets": ["host"],
        "task": {**settings["task"], "path": str(folder / "two-features.npz")},
        "teacher": {"file": str(folder / "teacher.keras")},
    }
    recipe["student"] = {"model": {**settings["student"]["model"], "file": str(folder / "student.keras")}}
    context = stages_until("evaluate", recipe)
    labels = context.task.splits["test"].labels
    last = {"teacher": "teacher", "distilled": "student"}
    last |= {"pruned": "prune-8", "trained for int8": "quantize-prune-8"}
    last["int8 file"] = context.plan.emissions["host"].evaluate
    scores = {step: np.load(context.entries[last[step]].file(TEST_SCORES)) for step in STEPS}
    return {step: 100 * float((scores[step].argmax(1) == labels).mean()) for step in STEPS}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and what is lost from the teacher to the file: mean and largest, in points."""
    rows = {}
    for name in (*DATA, "both"):
        table = np.array([[r["accuracy"][s] for s in STEPS] for r in runs if name in (r["data"], "both")])
        drops = table[:, 0] - table[:, -1]
        means = dict(zip(STEPS, table.mean(0).round(3).tolist(), strict=True))
        rows[name] = {"runs": len(table), "accuracy": means, "drop_pp": round(float(drops.mean()), 3)}
        rows[name] |= {"drop_std_pp": round(float(drops.std(ddof=1)), 3), "largest_pp": round(drops.max(), 3)}
    total = rows["both"]["drop_pp"]
    return {"benchmark": "two_features", "drop_pp": total, "limit_pp": LIMIT_PP, "rows": rows}


def show(result: dict[str, Any]) -> str:
    lines = ["| data | runs | " + " | ".join(STEPS) + " | drop, mean | std | largest |"]
    lines.append("|---|" + "---:|" * (len(STEPS) + 4))
    for name, row in result["rows"].items():
        accuracies = [f"{row['accuracy'][step]:.2f}" for step in STEPS]
        drops = [f"{row[key]:+.2f}" for key in ("drop_pp", "drop_std_pp", "largest_pp")]
        lines.append(f"| {name} | {row['runs']} | " + " | ".join([*accuracies, *drops]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
