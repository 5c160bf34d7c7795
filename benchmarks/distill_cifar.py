"""Which distillation earns its name on CIFAR-10: ResNet-56 teaches ResNet-8, equal budgets for all methods.

Data: 45,000 images train, 5,000 (numbers 4500 to 4999 of each class) choose, 5,000 test images
(the first 500 of each class of the public test set) judge, once, when every run of the plan is there
(until then their figures are kept and not shown).
One seed of each method chooses; then five more of cross-entropy, of KD and of the best.

Runs go on where they were stopped: each leaves its JSON in reports/distillation/runs, and a killed one
goes on from its last epoch. Start it again with more time until it prints the table.

    EDGEKD_DATA=... python benchmarks/distill_cifar.py --minutes 60
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

HERE = Path(__file__).parent
REPORTS = HERE.parent / "reports" / "distillation"
RUNS = REPORTS / "runs"
EPOCHS = 30
SEEDS = (1, 2, 3, 4, 5)
CE: dict[str, Any] = {"kind": "cross_entropy"}
KD: dict[str, Any] = {"kind": "kd", "temperature": 4.0}
# The end of the last stage of both, which is of one width and size.
HINT = {"kind": "hint", "student_layer": "blocks.2", "teacher_layer": "layer3"}
TRAINING = {
    "batch_size": 128,
    "warmup_epochs": 0.5,
    "augment": ["crop", "flip"],
    "optimizer": "muon",
    "lr": 0.02,
}
PUBLIC = {
    "checkpoint": "$EDGEKD_DATA/models/akamaster_resnet_cifar10/resnet56-4bfd9763.th",
    "train": {**TRAINING, "optimizer": "sgd", "epochs": 3, "lr": 0.01},
}
METHODS: dict[str, list[dict[str, Any]]] = {
    "cross_entropy": [CE],
    "label_smoothing": [{**CE, "smoothing": 0.1}],
    "kd": [{**CE, "weight": 0.1}, {**KD, "weight": 0.9}],
    "dkd": [{**CE, "weight": 1.0}, {"kind": "dkd", "weight": 0.25, "beta": 2.0}],
    "dist": [{**CE, "weight": 1.0}, {"kind": "dist", "weight": 0.5}],
    "hint_kd": [{**CE, "weight": 0.1}, {**KD, "weight": 0.9}, {**HINT, "weight": 0.5}],
    "kd_dist": [{**CE, "weight": 0.1}, {**KD, "weight": 0.9}, {"kind": "dist", "weight": 0.25}],
}


def recipe(teacher: dict[str, Any], method: str = "kd", seed: int = 0) -> dict[str, Any]:
    """Data, teacher and the views that it saw are the same for all: the seed is the student's alone."""
    data = "$EDGEKD_DATA/cifar10_jpeg"
    return {
        "name": "distill-cifar",
        "targets": ["host"],
        "required_targets": ["host"],
        "task": {
            "kind": "image_folder",
            "train": f"{data}/cifar10_jpeg_train.zip",
            "test": f"{data}/cifar10_jpeg_test_first500.zip",
            "val_range": [4500, 4999],
        },
        "teacher": {"model": {"kind": "cifar_nets:resnet56"}, **teacher},
        "student": {"model": {"kind": "resnet", "blocks": [1, 1, 1], "width": 16}},
        # A view for each epoch: all methods see the same pixels, those with a cached teacher too.
        "distill": {**TRAINING, "epochs": EPOCHS, "seed": seed, "views": EPOCHS, "losses": METHODS[method]},
        "quantize": {"method": "ptq"},
        "gate": {"max_drop_pp": 3.0},
    }


def tuned_teacher() -> Path:
    """The public network, trained on on our images: once, kept in the store beside its stage."""
    from chain import stages_until

    from edgekd.store import Store

    path = Store.default_root() / "distill-cifar-teacher.safetensors"
    if not path.is_file():
        context = stages_until("teacher", recipe(PUBLIC))
        part = path.with_suffix(".part")
        shutil.copyfile(context.entries["teacher"].file("model.safetensors"), part)
        part.rename(path)
    return path


def run_one(method: str, seed: int) -> None:
    """One training in this process; its JSON when it ends."""
    from chain import stages_until

    from edgekd.precision import make_fabric
    from edgekd.store import sha256_file

    path = tuned_teacher()
    context = stages_until("student", recipe({"checkpoint": str(path)}, method, seed))
    teacher, student = (context.entries[label] for label in ("teacher", "student"))
    labels = context.task.splits["test"].labels
    scores = np.load(student.file("test_scores.npy"), allow_pickle=False)
    teacher_scores = np.load(teacher.file("test_scores.npy"), allow_pickle=False)
    RUNS.mkdir(parents=True, exist_ok=True)
    record = {
        "method": method,
        "seed": seed,
        "epochs": EPOCHS,
        "val_accuracy": student.result["val_accuracy"],
        "test_accuracy": float((scores.argmax(1) == labels).mean() * 100),
        "teacher_val_accuracy": teacher.result["val_accuracy"],
        "teacher_test_accuracy": float((teacher_scores.argmax(1) == labels).mean() * 100),
        "params": student.result["params"],
        "macs": student.result["macs"],
        "seconds": student.seconds,
        "precision": make_fabric("auto").strategy.precision.precision,
        "teacher_sha256": sha256_file(path),
        "losses": METHODS[method],
        "training": {**TRAINING, "views": EPOCHS},
    }
    (RUNS / f"{method}-{seed}.json").write_text(json.dumps(record, indent=1) + "\n")


def done() -> dict[tuple[str, int], dict[str, Any]]:
    """Runs that have ended, all of the methods as they stand here; those of one seed of one kind.

    What tuning leaves in the teacher differs by rounding from machine to machine, and precision differs.
    Methods are compared seed by seed, so a seed's runs share both. Seed 0 only chooses: its runs may be of
    several machines.

    Raises:
        SystemExit: a run is of something else; it names the file.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    same: dict[tuple[str, int], Any] = {}
    for path in sorted(RUNS.glob("*.json")):
        run = json.loads(path.read_text())
        wanted = {
            "epochs": EPOCHS,
            "losses": METHODS.get(run["method"]),
            "training": {**TRAINING, "views": EPOCHS},
        }
        if run["seed"] in SEEDS:
            shared = ["precision"]
            if any(loss["kind"] != "cross_entropy" for loss in run["losses"]):
                shared.append("teacher_sha256")
            wanted |= {key: same.setdefault((key, run["seed"]), run[key]) for key in shared}
        for key, value in wanted.items():
            if run[key] != value:
                sys.exit(
                    f"{path}: {key} = {run[key]!r}, here it is {value!r}; delete the file or mend METHODS"
                )
        found[run["method"], run["seed"]] = run
    return found


def best_of(found: dict[tuple[str, int], dict[str, Any]]) -> str | None:
    """The method that does best on val with seed 0, once all have run; plain labels and KD run anyway."""
    if any((method, 0) not in found for method in METHODS):
        return None
    others = [m for m in METHODS if m not in ("cross_entropy", "kd")]
    return max(others, key=lambda m: found[m, 0]["val_accuracy"])


def pending(found: dict[tuple[str, int], dict[str, Any]]) -> list[tuple[str, int]]:
    first = [(method, 0) for method in METHODS if (method, 0) not in found]
    if first:
        return first
    chosen = ("cross_entropy", "kd", str(best_of(found)))
    # A seed at a time, so that a table of pairs stands whenever the time is up.
    return [(m, seed) for seed in SEEDS for m in chosen if (m, seed) not in found]


def table(found: dict[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    """Mean, spread, difference to cross-entropy by seed; on test once all runs are there, else on val."""
    complete = not pending(found)
    split = "test_accuracy" if complete else "val_accuracy"
    rows = []
    for method in METHODS:
        seeds = [s for s in SEEDS if (method, s) in found]
        row: dict[str, Any] = {"method": method, "seeds": len(seeds)}
        if (method, 0) in found:
            row["val_seed_0"] = found[method, 0]["val_accuracy"]
        if seeds:
            values = np.array([found[method, s][split] for s in seeds])
            row |= {"mean": values.mean(), "std": values.std(ddof=1) if len(values) > 1 else None}
        paired = [s for s in seeds if ("cross_entropy", s) in found]
        if method != "cross_entropy" and len(paired) > 1:
            gain = np.array([found[method, s][split] - found["cross_entropy", s][split] for s in paired])
            error = gain.std(ddof=1) / np.sqrt(len(gain))
            # One-sided 95%, Student's t: the seeds are the samples.
            lower = gain.mean() - stats.t.ppf(0.95, len(gain) - 1) * error
            row |= {"gain_pp": gain.mean(), "gain_lower_pp": lower}
        rows.append(row)
    return {"benchmark": "distill_cifar", "complete": complete, "split": split, "rows": rows}


def show(result: dict[str, Any]) -> str:
    lines = [
        "| method | val, seed 0 | seeds | mean | std | gain over cross-entropy | lower 95% |",
        "|---|" + "---:|" * 6,
    ]
    for row in result["rows"]:
        cells = [row["method"]] + [
            "" if row.get(key) is None else f"{row[key]:{style}}"
            for key, style in (
                ("val_seed_0", ".2f"),
                ("seeds", "d"),
                ("mean", ".2f"),
                ("std", ".2f"),
                ("gain_pp", "+.2f"),
                ("gain_lower_pp", "+.2f"),
            )
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=0.0, help="start no run after; 0: table only")
    parser.add_argument("--only", nargs=2, metavar=("METHOD", "SEED"), help="this one run, in this process")
    arguments = parser.parse_args()
    if arguments.only:
        run_one(arguments.only[0], int(arguments.only[1]))
        return 0
    started = time.monotonic()
    while (left := pending(done())) and time.monotonic() - started < 60 * arguments.minutes:
        method, seed = left[0]
        print(f"{method}, seed {seed} ({len(left)} runs left)", flush=True)
        # A process of its own: one that dies takes no other with it.
        subprocess.run(
            [sys.executable, __file__, "--only", method, str(seed)], check=True, env=_environment()
        )
    result = table(done())
    print(show(result))
    print(json.dumps(result))
    return 0


def _environment() -> dict[str, str]:
    """With this folder on the path, where the teacher's network is."""
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), known] if known else [str(HERE)])}


if __name__ == "__main__":
    sys.exit(main())
