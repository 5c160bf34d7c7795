"""One verdict a target, and the matrix of files and devices."""

import itertools

import folders
import pytest
from typer.testing import CliRunner

from edgekd import cli
from edgekd.gate import conclude
from edgekd.report import words
from edgekd.report.junit import junit
from edgekd.report.markdown import markdown
from edgekd.report.schema import parse
from edgekd.report.summary import summary
from edgekd.report.verdicts import matrix, verdict_of, worst
from edgekd.types import Check, Status

KEYS = ("name", "target", "observed", "limit", "unit", "status", "detail", "slice")


def with_statuses(data, target, statuses):
    """The sample with these checks of one target, the first of which is of accuracy."""
    names = ["accuracy", "size", "latency"]
    data["verdict"]["checks"] = [
        dict(zip(KEYS, (n, target, 1.0, 2.0, "", s, "", None), strict=True))
        for n, s in zip(names, statuses, strict=True)
    ]
    return parse(data)


@pytest.mark.parametrize("statuses", [*itertools.product(Status, repeat=3)])
def test_a_targets_verdict_is_the_gates(sample, statuses):
    report = with_statuses(sample, "host", [str(s) for s in statuses])
    checks = [Check(**{k: getattr(c, k) for k in KEYS}) for c in report.verdict.checks]
    assert verdict_of(report, "host") == conclude(checks, ["host"]).status
    # By hand, for those where accuracy was judged.
    if statuses[0] != Status.NOT_APPLICABLE:
        expected = "FAIL" if "FAIL" in statuses else "INCONCLUSIVE" if "INCONCLUSIVE" in statuses else "PASS"
        assert verdict_of(report, "host") == expected


def test_what_was_not_judged_never_passes(sample):
    report = with_statuses(sample, "host", ["PASS", "PASS", "PASS"])
    assert verdict_of(report, "x86-onnx") == verdict_of(report, "no such target") == "INCONCLUSIVE"
    assert worst([]) == "PASS"


def shipped_together(sample, groups):
    """The sample where the targets of a group have one and the same file."""
    for artifact in sample["artifacts"]:
        for i, group in enumerate(groups):
            if artifact["target"] in group:
                artifact["files"][0]["sha256"] = f"{i:064x}"
    return parse(sample)


def test_the_matrix_has_a_column_for_each_different_file(sample):
    report = shipped_together(sample, [("host", "android-cpu"), ("x86-onnx",), ("raspberry-pi-4",)])
    found = matrix(report)
    assert found.devices == ("host", "x86-onnx", "android-cpu", "raspberry-pi-4")
    assert found.required == (True, True, False, False)
    assert found.files == ("tflite int8 of host", "onnx int8", "tflite int8 of raspberry-pi-4")
    # Those of devices that were not at hand are not decided: their latency was not measured there.
    assert found.statuses == (
        ("PASS", None, None),
        (None, "PASS", None),
        ("INCONCLUSIVE", None, None),
        (None, None, "INCONCLUSIVE"),
    )
    text = markdown(report)
    assert "Overall, over host and x86-onnx: **PASS**." in text
    assert "| Device | tflite int8 of host | onnx int8 | tflite int8 of raspberry-pi-4 |" in text
    assert "| x86-onnx (required) | – | PASS | – |" in text
    assert "| android-cpu | INCONCLUSIVE | – | – |" in text


def test_many_files_are_named_in_lines(many):
    head, rows = matrix(many).lines(words.ABSENT)
    assert head == ("Device", "File", "Verdict") and len(rows) == 8
    assert rows[0] == ("host (required)", "tflite int8 of host", "PASS")
    assert rows[-2] == ("android-gpu", "tflite fp16", "INCONCLUSIVE")


def test_one_device_needs_no_matrix(make):
    assert "## Devices" not in markdown(parse(make(targets=("host",))))


def test_the_terminal_shows_the_matrix(make, tmp_path):
    data = make("PASS", targets=("host", "x86-onnx", "android-cpu"))
    for artifact in data["artifacts"]:
        if artifact["target"] in ("host", "android-cpu"):
            artifact["files"][0]["sha256"] = "a" * 64
    folders.fill(data, tmp_path, wrong={"x86-onnx": range(60)})
    shown = CliRunner().invoke(cli.app, ["gate", str(tmp_path)])
    assert shown.exit_code == 1
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    at = lines.index("verdict by device and file")
    assert lines[at + 2] == "device tflite int8 onnx int8"
    assert lines[at + 4 : at + 7] == [
        "host (required) PASS",
        "x86-onnx (required) FAIL",
        "android-cpu INCONCLUSIVE",
    ]
    # FAIL stands in the second column, the others in the first.
    rows = shown.stdout.splitlines()[at + 4 : at + 7]
    places = [row.index(word) for row, word in zip(rows, ("PASS", "FAIL", "INCONCLUSIVE"), strict=True)]
    assert places[0] == places[2] < places[1]


def test_a_bare_report_has_all_of_it(sample):
    bare = [a for a in sample["artifacts"] if a["role"] == "target"]
    for artifact in bare:
        artifact.update(parity=None, inventory=None, speedup_over_teacher=None, speedup_over_float=None)
        artifact.update(agreement=None, negative_flip_rate=None, size_ratio_to_teacher=None, metrics=[])
    sample.update(artifacts=bare, measurements=[], class_names=[])
    sample["teacher"].update(artifact_ids=[], params=None, macs=None)
    assert "| host (required) | – | – | 196.6 | – | ✅ PASS |" in summary(parse(sample))
    sample["verdict"]["checks"] = []
    report = parse({**sample, "artifacts": []})
    assert matrix(report).devices == ()
    assert summary(report).startswith("## edgekd: fashion-mnist: ✅ PASS\n")
    assert 'tests="0"' in junit(report)
