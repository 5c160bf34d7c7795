"""The shipped example predictions by README's command, and what the number of samples advised is worth."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edgekd import cli

FOLDER = Path(__file__).parents[2] / "examples/gate"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))


def gate(candidate, *more):
    command = ["gate", "--baseline", FOLDER / "teacher.csv", "--candidate", FOLDER / candidate, *more]
    return CliRunner().invoke(cli.app, [*map(str, command)])


def right(name):
    rows = [line.split(",") for line in (FOLDER / name).read_text().splitlines()[1:]]
    return {i: (label, label == said) for i, label, said, _ in rows}


def test_the_files_are_what_the_script_writes(tmp_path):
    script = tmp_path / "make.py"
    script.write_text((FOLDER / "make.py").read_text())
    subprocess.run([sys.executable, str(script)], check=True)
    for name in ("teacher.csv", "student.csv", "student-one-class.csv"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


def test_a_student_that_keeps_every_class_passes():
    found = json.loads(gate("student.csv", "--policy", FOLDER / "policy.toml", "--json").stdout)
    assert (found["status"], found["exit_code"]) == ("PASS", 0)
    assert (
        len(found["candidates"]["student"]["slices"]) == 8 + 3
    )  # classes that must pass, shops that need not


def test_one_class_made_worse_fails_by_its_name_alone():
    found = gate("student-one-class.csv", "--policy", FOLDER / "policy.toml", "--json")
    assert found.exit_code == 1
    answer = json.loads(found.stdout)["candidates"]["student-one-class"]
    whole = next(c for c in answer["checks"] if c["name"] == "accuracy")
    assert whole["status"] == "PASS"
    failed = [c["slice"] for c in answer["checks"] if c["status"] == "FAIL"]
    assert failed == [["label", "shoes"]]
    # The drop by hand, from the files' own rows.
    before, after = right("teacher.csv"), right("student-one-class.csv")
    shoes = [i for i, (label, _) in before.items() if label == "shoes"]
    drop = 100 * sum(before[i][1] - after[i][1] for i in shoes) / len(shoes)
    (told,) = [s for s in answer["slices"] if s["value"] == "shoes"]
    assert told["drop"] == pytest.approx(drop) and drop > 6
    shown = gate("student-one-class.csv", "--policy", FOLDER / "policy.toml")
    assert re.search(r"label = shoes .*FAIL", shown.stdout)
    assert " ".join(shown.stdout.split()).endswith("(student-one-class: label = shoes)")


@pytest.mark.parametrize("assumed", [None, 0.1])
def test_at_the_samples_advised_nine_of_ten_pass(assumed):
    """From the text that a user reads to the decision of a statistic written out anew."""
    told = gate("student.csv", "--max-drop", 0.3, *([] if assumed is None else ["--assumed-drop", assumed]))
    assert told.exit_code == 3
    text = " ".join(told.stdout.split())
    pattern = (
        r"about ([\d,]+) decide if nothing was lost"
        if assumed is None
        else r"about ([\d,]+) if 0.1 pp were lost"
    )
    n = int(re.search(pattern, text)[1].replace(",", ""))
    b, c = (int(re.search(rf"{letter} = (\d+) (?:lost|won)", text)[1]) for letter in "bc")
    psi, drop = (b + c) / 4000, (assumed or 0.0) / 100
    rng = np.random.default_rng(0)
    lost, won, _ = rng.multinomial(n, [(psi + drop) / 2, (psi - drop) / 2, 1 - psi], 2000).T
    assert np.mean(score_z(lost, won, n, 0.003) < -1.6448536) >= 0.88
    # Two thirds of them would not do, four thirds would: the number means something.
    few = 2 * n // 3
    lost, won, _ = rng.multinomial(few, [(psi + drop) / 2, (psi - drop) / 2, 1 - psi], 2000).T
    assert np.mean(score_z(lost, won, few, 0.003) < -1.6448536) < 0.85


def score_z(b, c, n, margin):
    """Tango's statistic with the constrained rate found by bisection of the likelihood's derivative."""
    low, high = np.full(len(b), 1e-12), np.full(len(b), (1 - margin) / 2 - 1e-12)
    for _ in range(200):
        q = (low + high) / 2
        slope = b / (q + margin) + c / q - 2 * (n - b - c) / (1 - 2 * q - margin)
        low, high = np.where(slope > 0, q, low), np.where(slope > 0, high, q)
    return (b - c - n * margin) / np.sqrt(n * (2 * q + margin * (1 - margin)))
