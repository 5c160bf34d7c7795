import subprocess
import sys
from pathlib import Path

import pytest

from edgekd import terminal_report
from edgekd.pipeline import default_workdir
from edgekd.report.schema import parse


def report_of(finished):
    return parse(finished.folder / "runs/tiny-smoke/report.json")


def test_a_report_fits_80_columns_and_cuts_nothing(finished, told):
    report = report_of(finished)
    text = told(terminal_report.show_report, report, Path("runs/tiny-smoke"))
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    # In the table of files, and in that of verdicts.
    host, verdict = (line for line in text.splitlines() if line.strip().startswith("host "))
    assert verdict.split()[-1] in ("PASS", "FAIL", "INCONCLUSIVE")
    artifact = next(a for a in report.artifacts if a.target == "host")
    assert f"{artifact.size_bytes / 1000:.1f} KB" in host and "tflite int8" in host
    assert f"{artifact.metrics[0].value:.2f}" in host


def test_targets_with_the_same_answer_stand_together(finished, told):
    report = report_of(finished)
    share = next(c for c in report.verdict.checks if c.name == "int8_share" and c.target == "x86-onnx")
    twins = [share.model_copy(update={"target": name}) for name in ("x86-onnx", "other")]
    artifacts = [a.model_copy(update={"required": a.role == "target"}) for a in report.artifacts]
    other = next(a for a in artifacts if a.target == "x86-onnx").model_copy(update={"target": "other"})
    verdict = report.verdict.model_copy(update={"checks": tuple(twins)})
    changed = report.model_copy(update={"verdict": verdict, "artifacts": (*artifacts, other)})
    text = told(terminal_report.show_verdict, changed)
    assert "int8_share: x86-onnx, other" in text
    assert text.count("computing operators run in int8") == 1


def test_a_target_that_failed_though_not_required_is_named(finished, told):
    report = report_of(finished)
    failed = report.verdict.checks[0].model_copy(update={"target": "spare", "status": "FAIL"})
    verdict = report.verdict.model_copy(update={"checks": (failed,), "status": "PASS"})
    text = told(terminal_report.show_verdict, report.model_copy(update={"verdict": verdict}))
    assert f"not required, but failed: spare ({failed.name})" in text
    verdict = verdict.model_copy(update={"checks": ()})
    assert "not required, but" not in told(
        terminal_report.show_verdict, report.model_copy(update={"verdict": verdict})
    )


def test_a_smoke_run_has_a_folder_of_its_own():
    assert default_workdir("shoes", smoke=False) == Path("runs/shoes")
    assert default_workdir("shoes", smoke=True) == Path("runs/shoes-smoke")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(["--version"], 0, "edgekd "), ([], 2, "Usage"), (["run"], 2, "")],
)
def test_without_a_command(arguments, code, words):
    done = subprocess.run([sys.executable, "-m", "edgekd", *arguments], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout


@pytest.mark.parametrize(("columns", "width"), [(None, 100), ("60", 60), ("none", 100), ("0", 100)])
def test_tables_in_a_pipe_are_as_wide_as_a_log(monkeypatch, columns, width):
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    command = [sys.executable, "-m", "edgekd", "targets", "raspberry-pi-5"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert max(map(len, lines)) == width
