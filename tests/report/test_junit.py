"""JUnit XML, read back by two parsers that are not ours."""

import re
from xml.dom import minidom

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml, Skipped

from edgekd.report.junit import junit, junit_of
from edgekd.report.schema import parse
from edgekd.types import Check, Status


def read(text):
    """Suites by name, by junitparser."""
    return {suite.name: list(suite) for suite in JUnitXml.fromstring(text.encode())}


def outcomes(cases):
    return {c.name: type(c.result[0]).__name__ if c.result else "passed" for c in cases}


def test_a_case_for_each_check_and_target(make):
    report = parse(make("FAIL"))
    suites = read(junit(report))
    assert list(suites) == ["host", "x86-onnx", "android-cpu", "raspberry-pi-4"]
    assert outcomes(suites["x86-onnx"]) == {
        "accuracy on x86-onnx": "Failure",
        "size on x86-onnx": "passed",
        "latency on x86-onnx": "passed",
        "int8_beats_float on x86-onnx": "passed",
    }
    # Not required: its latency was measured elsewhere, which turns nothing red.
    assert outcomes(suites["android-cpu"])["latency on android-cpu"] == "Skipped"
    (case,) = [c for c in suites["android-cpu"] if c.name.startswith("latency")]
    assert case.result[0].message == (
        "not required: INCONCLUSIVE measured on this computer, which is not the device"
    )
    (case,) = [c for c in suites["x86-onnx"] if c.name.startswith("accuracy")]
    assert case.classname == "edgekd.fashion-mnist.x86-onnx"
    # By hand: 1.62 + 1.645 * sqrt(0.03 / 10000) * 100.
    assert case.result[0].message == "95% upper bound 1.90 pp on 10,000 samples, b 167, c 136"
    assert case.result[0].type == "FAIL"
    assert case.result[0].text.splitlines()[:3] == ["status: FAIL", "observed: 1.62 pp", "limit: 1 pp"]
    assert {type(r) for cases in suites.values() for c in cases for r in c.result} == {Failure, Skipped}


def test_undecided_is_an_error(make):
    suites = read(junit(parse(make("INCONCLUSIVE"))))
    (case,) = [c for c in suites["host"] if c.name.startswith("accuracy")]
    assert isinstance(case.result[0], Error) and case.result[0].type == "INCONCLUSIVE"
    assert "about 2,610 would decide" in case.result[0].message


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_red_exactly_where_the_gate_blocks(make, verdict):
    text = junit(parse(make(verdict)))
    root = minidom.parseString(text).documentElement
    red = int(root.getAttribute("failures")) + int(root.getAttribute("errors"))
    assert (red > 0) == (verdict != "PASS")
    # The counts are those of the elements, of the whole and of each suite.
    kinds = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
    for element in (root, *root.getElementsByTagName("testsuite")):
        for key, tag in kinds.items():
            if element.hasAttribute(key):
                assert int(element.getAttribute(key)) == len(element.getElementsByTagName(tag)), (key, tag)
    assert root.getAttribute("tests") == "16"


def test_a_target_that_fails_and_is_not_required_turns_nothing_red(make):
    data = make("FAIL")
    for artifact in data["artifacts"]:
        artifact["required"] = artifact["target"] == "host"
    data["verdict"].update(status="PASS", exit_code=0)
    root = minidom.parseString(junit(parse(data))).documentElement
    assert root.getAttribute("failures") == root.getAttribute("errors") == "0"
    said = [e.getAttribute("message") for e in root.getElementsByTagName("skipped")]
    assert any(m.startswith("not required: FAIL 95% upper bound 1.90 pp") for m in said)


def test_a_verdict_that_no_check_explains_is_red_all_the_same(make):
    data = make("PASS")
    data["verdict"].update(status="FAIL", exit_code=1)
    suites = read(junit(parse(data)))
    assert outcomes(suites["the run"]) == {"verdict": "Failure"}


def test_slices_have_cases_and_alarms_are_shown(sample):
    check = dict(sample["verdict"]["checks"][0], name="slice", slice=["label", "Coat"], detail="label = Coat")
    sample["verdict"]["checks"].append(check)
    quiet = {
        "column": "region",
        "value": "north",
        "n": 900,
        "drop": 0.1,
        "interval": [0.0, 0.2],
        "margin": 1.0,
        "mandatory": False,
        "status": "NOT_APPLICABLE",
        "alarm": False,
        "reason": "",
    }
    loud = dict(quiet, value="south", drop=4.0, interval=[3.0, 5.0], alarm=True)
    sample["artifacts"][4]["slices"] = [quiet, loud]
    suites = read(junit(parse(sample)))
    found = outcomes(suites["host"])
    assert found["slice label = Coat on host"] == "passed"
    assert found["slice region = south on host"] == "Skipped" and len(found) == 6
    (case,) = [c for c in suites["host"] if "south" in c.name]
    assert case.result[0].message == "not mandatory: ALARM: drop 4, margin 1, 900 samples"


def test_properties_tell_what_judged(sample):
    root = minidom.parseString(junit(parse(sample))).documentElement
    suite = root.getElementsByTagName("testsuite")[0]
    found = {p.getAttribute("name"): p.getAttribute("value") for p in suite.getElementsByTagName("property")}
    assert found == {
        "verdict": "PASS",
        "exit_code": "0",
        "metric": "accuracy",
        "max_drop_pp": "1.0",
        "alpha": "0.05",
        "judgements": "3",
        "test_samples": "10000",
        "edgekd": "0.1.0",
        "judgements_not_passed": "1",
        "test_sha256": sample["data"]["splits"]["test"]["sha256"],
    }


def test_a_margin_of_a_targets_own_stands_at_its_suite(sample):
    sample["gate"]["targets"] = {"x86-onnx": {"max_relative_drop": 0.02}, "host": {"min_int8_share": 0.5}}
    found = {}
    for suite in minidom.parseString(junit(parse(sample))).documentElement.getElementsByTagName("testsuite"):
        given = {
            p.getAttribute("name"): p.getAttribute("value") for p in suite.getElementsByTagName("property")
        }
        found[suite.getAttribute("name")] = given.get("max_drop_pp"), given.get("max_relative_drop")
    assert found["host"] == found["android-cpu"] == ("1.0", None)
    assert found["x86-onnx"] == (None, "0.02")


def test_the_same_report_gives_the_same_bytes(make):
    first, second = (junit(parse(make("FAIL"))) for _ in range(2))
    assert first == second
    assert not re.search(r"time|20\d\d-", first)


def one(name="size", target="host", detail="", of=None, status=Status.FAIL):
    return Check(name, target, 1.0, 2.0, "", status, detail, of)


@given(st.text(), st.text(), st.text())
def test_any_text_makes_a_document_that_can_be_read(detail, target, recipe):
    # Hypothesis leaves halves of pairs out of its text; they are put in.
    detail = detail + "\x00\x1b\ud800\ufffe]]><&\"'"
    text = junit_of(
        recipe, [one(target=target, detail=detail, of=("a\x07", target))], {target}, [], {}, "FAIL"
    )
    root = minidom.parseString(text.encode()).documentElement
    (failure,) = root.getElementsByTagName("failure")
    allowed = re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", detail)
    unified = re.sub("\r\n?", "\n", allowed)
    assert failure.firstChild.data.endswith(unified)
    assert failure.getAttribute("message") == unified
    assert len(list(JUnitXml.fromstring(text.encode()))) == 1


def test_two_cases_never_have_one_name():
    checks = [one(), one(status=Status.PASS), one(target="")]
    text = junit_of("r", checks, {"host", ""}, [], {}, Status.FAIL)
    suites = read(text)
    assert outcomes(suites["host"]) == {"size on host": "Failure", "size on host (2)": "passed"}
    assert outcomes(suites["the run"]) == {"size": "Failure"}


def test_dots_do_not_split_a_class():
    (case,) = read(junit_of("v1.2", [one(target="pi.4")], {"pi.4"}, [], {}, Status.FAIL))["pi.4"]
    assert (case.classname, case.name) == ("edgekd.v1_2.pi_4", "size on pi.4")
