"""What leaving rare words out of a student's vocabulary does to sentences that have them.

    EDGEKD_DATA=... EDGEKD_MINILM=... python benchmarks/unseen_words.py runs/banking77

Of the test sentences of a finished run: those all of whose words have a row of their own in the student, and
the others. The shipped file is asked twice: as it is, where a word that was left out is read as the nearest
that stays, and with such words given as the unknown one. Prints a table and one JSON line.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from edgekd import tasks
from edgekd.config import TaskConfig
from edgekd.report.schema import parse
from edgekd.runtimes import open_session

RUNTIMES = {".tflite": "litert", ".onnx": "onnxruntime"}


def main() -> None:
    """Reads a run's folder; trains nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--target", default="host")
    asked = parser.parse_args()
    report = parse(asked.workdir / "report.json")
    recipe = report.recipe.config
    task = tasks.read(TaskConfig.model_validate(recipe["task"]), report.seed)
    train, test = (np.asarray(task.splits[name].inputs) for name in ("train", "test"))
    counts = np.bincount(train.reshape(-1), minlength=task.notes["vocabulary"]["size"])
    rare = counts < recipe["student"]["model"]["min_count"]
    unknown = task.notes["vocabulary"]["unknown_id"]
    rare[[0, unknown]] = False
    path = next(asked.workdir / a.files[0].path for a in report.artifacts if a.target == asked.target)
    session = open_session(RUNTIMES[path.suffix], path)
    labels, affected = task.splits["test"].labels, rare[test].any(axis=1)
    with np.load(asked.workdir / report.teacher.predictions.path) as found:
        place = {str(sample): i for i, sample in enumerate(found["sample_ids"])}
        teacher = found["scores"][[place[str(i)] for i in task.splits["test"].ids]]
    answers = {
        "teacher, all words": teacher.argmax(1),
        "file, rare words as the nearest": answers_of(session, test),
        "file, rare words as unknown": answers_of(session, np.where(rare[test], unknown, test)),
    }
    right = {name: said == labels for name, said in answers.items()}
    print(
        f"{path.name}: {int((~rare & (counts > 0)).sum())} of {int((counts > 0).sum())} words of train kept"
    )
    print(f"{'':34} {'sentences without':>18} {'with rare words':>18}   accuracy, %")
    print(f"{'':34} {int((~affected).sum()):18,} {int(affected.sum()):18,}")
    rows = {}
    for name, of in right.items():
        rows[name] = [round(100 * float(of[part].mean()), 2) for part in (~affected, affected)]
        print(f"{name:34} {rows[name][0]:18.2f} {rows[name][1]:18.2f}")
    counted = {"sentences": len(test), "with_rare_words": int(affected.sum())}
    print(json.dumps({"benchmark": "unseen_words", **counted, "accuracy": rows}))


def answers_of(session, ids) -> np.ndarray:
    """(N,) classes of ids (N, L)."""
    return session.run(np.ascontiguousarray(ids, np.int32)).argmax(1)


if __name__ == "__main__":
    main()
