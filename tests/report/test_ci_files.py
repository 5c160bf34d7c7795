"""`edgekd gate --junit --summary`, of reports and of predictions alone."""

import json
import os
import stat
from pathlib import Path

import folders
import numpy as np
import pytest
from junitparser import JUnitXml
from typer.testing import CliRunner

from edgekd import cli
from edgekd.errors import EdgeKDError, UsageError


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))


def gate(*arguments):
    found = CliRunner().invoke(cli.app, ["gate", *map(str, arguments)])
    if isinstance(found.exception, EdgeKDError):
        raise found.exception
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def cases(path):
    """(suite, case) -> what it is."""
    return {
        (suite.name, case.name): type(case.result[0]).__name__ if case.result else "passed"
        for suite in JUnitXml.fromfile(str(path))
        for case in suite
    }


@pytest.fixture
def ours(tmp_path):
    """Predictions of a teacher that is always right, and a student that errs in 40 of 2,000 of class 3."""
    labels = np.arange(10_000) % 5
    wrong = (labels == 3) & (np.arange(10_000) < 200)
    files = {"teacher": labels, "good": labels, "bad": np.where(wrong, 0, labels)}
    for name, said in files.items():
        rows = "".join(f"s{i},{y},{p}\n" for i, (y, p) in enumerate(zip(labels, said, strict=True)))
        (tmp_path / f"{name}.csv").write_text(f"sample_id,label,prediction\n{rows}")
    policy = (
        "[gate]\nmax_drop_pp = 1.0\nexpected_discordance = 0.005\n[gate.slices.label]\nmax_drop_pp = 1.0\n"
    )
    (tmp_path / "policy.toml").write_text(policy)
    return ["--baseline", tmp_path / "teacher.csv"], tmp_path


def test_predictions_have_a_case_for_each_candidate_check_and_slice(ours):
    baseline, folder = ours
    both = [x for name in ("good", "bad") for x in ("--candidate", folder / f"{name}.csv")]
    junit, page = folder / "junit.xml", folder / "summary.md"
    asked = ["--policy", folder / "policy.toml", "--junit", junit, "--summary", page, "--json"]
    found = gate(*baseline, *both, *asked)
    assert found.exit_code == 1
    told = cases(junit)
    assert len(told) == 2 * (2 + 5)  # accuracy, flips and five classes each
    assert told["good", "slice label = 3 on good"] == told["bad", "accuracy on bad"] == "passed"
    assert [key for key, kind in told.items() if kind == "Failure"] == [("bad", "slice label = 3 on bad")]
    assert told["bad", "negative_flips on bad"] == "Skipped"
    text = page.read_text()
    assert text.startswith("## edgekd: predictions: ❌ FAIL\n\nbad fails at a margin of 1 pp of accuracy.\n")
    # 40 of 10,000 lost, none won.
    row = next(line for line in text.splitlines() if line.startswith("| bad"))
    assert row.startswith("| bad | 100 | 99.6 | +0.40 \\[+0.3") and row.endswith("| ❌ FAIL |")
    assert "| good | 100 | 100 | 0.00 \\[−0.03, +0.03\\] | ✅ PASS |" in text
    assert "- **FAIL** Slice on bad: label = 3: accuracy drop 2 pp" in text
    # What a program reads says the same.
    checks = json.loads(found.stdout)["candidates"]["bad"]["checks"]
    assert sum(c["status"] == "FAIL" for c in checks) == 1


def test_an_undecided_candidate_is_an_error(ours):
    baseline, folder = ours
    for name in ("teacher", "good"):
        lines = (folder / f"{name}.csv").read_text().splitlines()[:101]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    junit, page = folder / "j.xml", folder / "s.md"
    asked = ["--max-drop", 1.0, "--junit", junit, "--summary", page]
    found = gate(*baseline, "--candidate", folder / "good.csv", *asked)
    assert found.exit_code == 3
    assert cases(junit)["good", "accuracy on good"] == "Error"
    assert "good cannot be decided at a margin of 1 pp of accuracy." in page.read_text()
    assert "- **INCONCLUSIVE** Accuracy drop on good: " in page.read_text()


def test_a_summary_goes_behind_what_is_there(ours):
    baseline, folder = ours
    page = folder / "summary.md"
    page.write_text("another step")
    for _ in range(2):
        gate(*baseline, "--candidate", folder / "good.csv", "--max-drop", 1.0, "--summary", page)
    text = page.read_text()
    assert text.startswith("another step\n## edgekd: predictions: ✅ PASS\n")
    assert text.count("## edgekd") == 2 and "> Judgement of these samples: 1\n" in text


def test_a_report_is_judged_anew_for_both_files(make, tmp_path):
    run, junit, page = tmp_path / "run", tmp_path / "junit.xml", tmp_path / "summary.md"
    data = make("PASS", targets=("host", "x86-onnx", "android-cpu"))
    folders.fill(data, run, wrong={"x86-onnx": range(8)})  # 0.4 pp of 2,000
    written = cases(run / "report.junit.xml")
    assert len(written) == 3 * 7
    assert written["x86-onnx", "accuracy on x86-onnx"] == "passed"
    assert written["android-cpu", "latency on android-cpu"] == "Skipped"  # measured elsewhere, not required
    assert "Failure" not in written.values() and "Error" not in written.values()
    found = gate(run, "--max-drop", 0.2, "--junit", junit, "--summary", page)
    assert found.exit_code == 1
    assert [key for key, kind in cases(junit).items() if kind == "Failure"] == [
        ("x86-onnx", "accuracy on x86-onnx")
    ]
    assert cases(run / "report.junit.xml") == written  # the report itself stays as it was
    assert page.read_text().startswith("## edgekd: fashion-mnist: ❌ FAIL\n")
    assert "limit 0.20 pp" in page.read_text()


@pytest.mark.parametrize("option", ["--junit", "--summary"])
def test_a_file_that_cannot_be_written_is_told_in_one_line(ours, option):
    baseline, folder = ours
    asked = [*baseline, "--candidate", folder / "good.csv", "--max-drop", 1.0, option]
    pipe, link = folder / "pipe", folder / "link"
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    for path in (folder, folder / "absent" / "file", pipe, link):
        with pytest.raises(UsageError, match=f"{option} .*no file can be written there"):
            gate(*asked, path)
    assert stat.S_ISFIFO(pipe.stat().st_mode) and link.readlink() == Path("/dev/null")


def test_a_heading_names_no_level_where_each_candidate_has_its_own(ours):
    baseline, folder = ours
    both = [x for name in ("good", "bad") for x in ("--candidate", folder / f"{name}.csv")]
    for spend, said in (("false", "(90% interval)"), ("true", "(interval)")):
        junit, page, policy = (folder / f"{spend}.{end}" for end in ("xml", "md", "toml"))
        policy.write_text(f"[gate]\nmax_drop_pp = 1.0\nspend_alpha = {spend}\n")
        found = gate(*baseline, *both, "--policy", policy, "--junit", junit, "--summary", page)
        assert found.exit_code == 0
        head = next(line for line in page.read_text().splitlines() if line.startswith("| Candidate"))
        assert f"Drop, pp {said}" in head
        properties = {p.name: p.value for suite in JUnitXml.fromfile(str(junit)) for p in suite.properties()}
        assert (properties["alpha"], properties["spend_alpha"]) == ("0.05", spend.title())
    # The third and fourth judgement of these samples: 1 - 2 alpha / (k (k + 1)).
    assert "99.1667% interval" in junit.read_text() and "99.5% interval" in junit.read_text()
