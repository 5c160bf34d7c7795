"""What each technique of a chain gives alone, and what all of them together.

Of one recipe: its teacher; the student distilled from it, whole and in float; the teacher pruned, as the
recipe prunes its student, and in float; the teacher quantized; and the chain as it stands. What is not
distilled recovers on labels alone. Settings are the recipe's, and each file is judged as the recipe says;
files are timed in turns, in one process, on one thread. One training each: its chance is in no interval
here, the test images' is.

Finished stages are kept in the store, so a killed study goes on where it was when it is started again.

    EDGEKD_DATA=... python benchmarks/techniques.py --work FOLDER cifar10-resnet50   # makes and times all
    EDGEKD_DATA=... python benchmarks/techniques.py --work FOLDER cifar10-resnet56 --whole stem
    python benchmarks/techniques.py                                                  # the tables so far
"""

import argparse
import copy
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from in_turns import timed

import edgekd
from edgekd import config
from edgekd.devices.machine import host_info
from edgekd.report.schema import Report

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "reports" / "techniques"
LABELS = [{"kind": "cross_entropy"}]
# What a recipe keeps for each, beside its data and teacher; and the scheme, where it is not the target's.
TECHNIQUES: dict[str, tuple[tuple[str, ...], str | None]] = {
    "distillation": (("student", "distill"), "fp32"),
    "pruning": (("prune",), "fp32"),
    "quantization": (("quantize",), None),
    "all": (("student", "distill", "prune", "quantize"), None),
}


def alone(recipe: Mapping[str, Any], technique: str, whole: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe with one technique only, or with all; `whole` are layers of the teacher to leave alone.

    Raises:
        SystemExit: the recipe lacks the section of that technique.
    """
    kept, _ = TECHNIQUES[technique]
    if missing := [section for section in kept if section not in recipe]:
        sys.exit(f"{recipe['name']}: has no [{missing[0]}]: nothing to compare")
    made = copy.deepcopy(dict(recipe))
    for section in {section for sections, _ in TECHNIQUES.values() for section in sections} - set(kept):
        made.pop(section, None)
    made["name"] = f"{recipe['name']}-{technique}"
    if technique in ("pruning", "quantization"):
        (section,) = kept
        made[section]["losses"] = LABELS
        for key in ("ignored_layers", "float_layers"):
            made[section].pop(key, None)  # the student's
    if technique == "pruning" and whole:
        made["prune"]["ignored_layers"] = list(whole)
    return made


def targets(recipe: Mapping[str, Any], technique: str, beside: Path) -> list[config.Target]:
    """Those that the verdict covers, in float where nothing is quantized."""
    _, scheme = TECHNIQUES[technique]
    found = [config.load_target(name, beside=beside) for name in recipe["required_targets"]]
    if scheme is None:
        return found
    emissions = [target.artifact.model_copy(update={"scheme": scheme}) for target in found]
    return [t.model_copy(update={"artifact": e}) for t, e in zip(found, emissions, strict=True)]


def rows_of(technique: str, report: Report, work: Path) -> list[tuple[dict[str, Any], Path]]:
    """Each target's file in a run, with what was judged of it."""
    found = []
    for artifact in report.artifacts:
        if artifact.role != "target":
            continue
        judged = artifact.metrics[0]
        row = {
            "technique": technique,
            "target": artifact.target,
            "scheme": artifact.scheme,
            "metric": judged.name,
            "value": judged.value,
            "drop": judged.drop,
            "drop_interval": judged.drop_interval,
            "size_bytes": artifact.size_bytes,
        }
        found.append((row, work / artifact.files[0].path))
    return found


def teacher_of(report: Report, work: Path) -> list[tuple[dict[str, Any], Path]]:
    """The teacher's float file for each target of a run."""
    floats = [a for a in report.artifacts if a.id in report.teacher.artifact_ids]
    found = []
    for artifact in (a for a in report.artifacts if a.role == "target"):
        (own,) = [each for each in floats if each.format == artifact.format]
        judged = report.teacher.metrics[0]
        row = {
            "technique": "none (teacher)",
            "target": artifact.target,
            "scheme": own.scheme,
            "metric": judged.name,
            "value": judged.value,
            "drop": 0.0,
            "drop_interval": None,
            "size_bytes": own.size_bytes,
        }
        found.append((row, work / own.files[0].path))
    return found


def study(recipe: Mapping[str, Any], beside: Path, work: Path, whole: Sequence[str]) -> dict[str, Any]:
    """Runs the chain and each technique alone; then times all files."""
    made: list[tuple[dict[str, Any], Path]] = []
    for technique in TECHNIQUES:
        folder = work / technique
        report = edgekd.compress(
            alone(recipe, technique, whole),
            targets=targets(recipe, technique, beside),
            workdir=folder,
            show=True,
        )
        assert report is not None
        if not made:
            made += teacher_of(report, folder)
        made += rows_of(technique, report, folder)
    for (row, _), latencies in zip(made, timed([path for _, path in made]), strict=True):
        row["latency_ms"] = float(np.median(latencies))
    rows = [row for row, _ in made]
    for row in rows:
        (base,) = [r for r in rows if r["target"] == row["target"] and r["technique"].startswith("none")]
        row["times_smaller"] = base["size_bytes"] / row["size_bytes"]
        row["times_faster"] = base["latency_ms"] / row["latency_ms"]
    return {
        "benchmark": "techniques",
        "recipe": recipe["name"],
        "smoke": bool(recipe.get("smoke", False)),
        "metric": rows[0]["metric"],
        "whole": list(whole),
        "host": host_info(),
        "rows": sorted(rows, key=lambda row: list(recipe["required_targets"]).index(row["target"])),
    }


def show(result: Mapping[str, Any]) -> str:
    """The table, a row for each technique and target."""
    lines = [
        f"| target | technique | {result['metric']} | drop | 90% interval | size, bytes | smaller "
        "| latency, ms | faster |",
        "|---|---|" + "---:|" * 7,
    ]
    for row in result["rows"]:
        interval = row["drop_interval"]
        between = "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
        lines.append(
            f"| {row['target']} | {row['technique']} | {row['value']:.2f} | {row['drop']:.2f} | {between} "
            f"| {row['size_bytes']:,} | {row['times_smaller']:.1f} | {row['latency_ms']:.4f} "
            f"| {row['times_faster']:.1f} |"
        )
    return "\n".join(lines)


def page(result: Mapping[str, Any]) -> str:
    """What is written beside the JSON."""
    given = "smoke form: these figures say nothing" if result["smoke"] else "one training each"
    more = "".join(f" --whole {layer}" for layer in result["whole"])
    return (
        f"# {result['recipe']}: each technique alone, and all of them\n\n"
        f"By `python benchmarks/techniques.py --work FOLDER {result['recipe']}{more}`, {given}; files timed "
        f"in turns, on one thread of {result['host']['cpu']}. Drops are against the teacher, on the same "
        "test samples.\n\n"
        f"{show(result)}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", help="name of a shipped recipe, or a file")
    parser.add_argument("--work", type=Path, help="make, judge and time all files, kept in this folder")
    parser.add_argument(
        "--whole",
        action="append",
        default=[],
        help="a layer of the teacher to leave whole where it is pruned",
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where tables and JSON go")
    given = parser.parse_args(arguments)
    if (given.recipe is None) != (given.work is None):
        parser.error("a recipe and --work go together")
    if given.recipe is not None:
        path = config.find("recipe", given.recipe)
        result = study(config.read_toml(path)[0], path.parent, given.work, given.whole)
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / f"{result['recipe']}.json").write_text(json.dumps(result, indent=1) + "\n")
        (given.output / f"{result['recipe']}.md").write_text(page(result))
    found = sorted(given.output.glob("*.json"))
    if not found:
        print("no run yet: a recipe and --work FOLDER make one")
    for path in found:
        result = json.loads(path.read_text())
        print(show(result))
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
