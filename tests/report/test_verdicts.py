"""One verdict a target, and the matrix of files and devices."""

import itertools

import pytest

from edgekd.gate import conclude
from edgekd.report import words
from edgekd.report.markdown import markdown
from edgekd.report.schema import parse
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
