import hashlib
import json
import re

import pytest

from edgekd import probes
from edgekd.config import PeakConfig, load_target
from edgekd.errors import UsageError
from edgekd.layers import Layer
from edgekd.report.bounds import bound_table, bound_tables, bounds_notes
from edgekd.report.html import html
from edgekd.report.markdown import markdown
from edgekd.report.schema import dumps, parse
from edgekd.rooflines import with_rooflines

# 16x16x8 -> 16x16x8 by 3x3: 256 x 8 x 72 multiply-accumulates; then a mean and 8 -> 4.
LAYERS = (
    Layer("conv", 16, 16, 8, 8, kernel=3, padding=1),
    Layer("global_pool", 16, 16, 8, 8),
    Layer("linear", 1, 1, 8, 4),
)
OPERATIONS = 2 * 16 * 16 * 8 * 72 + 8 + 2 * 8 * 4


@pytest.fixture
def found(make, tmp_path):
    """A report whose files are there, its bounds worked out; raspberry-pi-5 timed on itself at 0.05 ms."""

    def found(median_ms=0.05, kind="measured", edit=lambda target: target):
        data = make("PASS", ("host", "x86-onnx", "android-cpu", "raspberry-pi-4", "raspberry-pi-5"))
        for artifact in data["artifacts"]:
            if artifact["target"] is None:
                continue
            (file,) = artifact["files"]
            content = probes.build(
                LAYERS, format=artifact["format"], scheme="static_wi8_ai8", activations="signed"
            )
            path = tmp_path / file["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            file |= {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
            artifact["size_bytes"] = len(content)
        for m in data["measurements"]:
            if m["artifact_id"] == m["target"] == "raspberry-pi-5":
                m |= {"kind": kind, "median_ms": median_ms}
        targets = [edit(load_target(name)) for name in data["recipe"]["targets"]]
        return with_rooflines(parse(data), tmp_path, targets)

    return found


def bounds_of(report):
    return {a.target: a.roofline for a in report.artifacts if a.target}


def test_bounds_by_hand(found):
    report = found()
    bounds = bounds_of(report)
    # 28.8, 153.6 and 153.6 GOP/s in int8: all of it fits into the caches.
    assert bounds["raspberry-pi-4"].bound_ms == pytest.approx(OPERATIONS / 28.8e6)
    assert bounds["raspberry-pi-5"].bound_ms == pytest.approx(OPERATIONS / 153.6e6)
    assert bounds["android-cpu"].bound_ms == pytest.approx(OPERATIONS / 153.6e6)
    pi = bounds["raspberry-pi-5"]
    assert pi.compute_ms == pytest.approx(pi.bound_ms) and pi.moved_bytes == 0
    assert pi.macs == 16 * 16 * 8 * 72 + 32
    assert pi.operators[0].op_type == "CONV_2D" and pi.operators[0].dtype == "int8"
    # Only what ran on the target itself says what share was reached.
    assert pi.reached == pytest.approx(OPERATIONS / 153.6e6 / 0.05)
    assert bounds["raspberry-pi-4"].reached is None and bounds["android-cpu"].reached is None


def test_what_stands_for_no_processor_has_no_bound_and_the_report_says_why(found):
    report = found()
    bounds = bounds_of(report)
    assert bounds["host"] is None and bounds["x86-onnx"] is None
    for text in (html(report), markdown(report)):
        assert "No bound for host and x86-onnx: no [peak] in the profile." in text.replace(chr(92), "")
    assert {row[0] for row in bound_table(report).rows} == {"android-cpu", "raspberry-pi-4", "raspberry-pi-5"}
    references = [a for a in report.artifacts if a.target is None]
    assert all(a.roofline is None and a.roofline_absent == "" for a in references)


@pytest.mark.parametrize("kind", ["host", "emulated"])
def test_times_from_elsewhere_reach_no_share(found, kind):
    report = found(kind=kind)
    assert bounds_of(report)["raspberry-pi-5"].reached is None
    assert bound_table(report).head[-1] == "Cores"  # no median, no share


def test_the_table_says_what_was_reached(found):
    (row,) = (r for r in bound_table(found()).rows if r[0] == "raspberry-pi-5")
    # 294,984 operations at 153.6 GOP/s are 1.920 µs, of 50 µs 3.8%.
    assert OPERATIONS == 294_984
    assert row == ("raspberry-pi-5", "0.00192", "100", "0", "147 k", "1", "0.050", "3.8")
    (other,) = (r for r in bound_table(found()).rows if r[0] == "raspberry-pi-4")
    assert other[6:] == ("–", "–")


def test_a_device_that_is_faster_than_its_profile_is_told_of(found):
    report = found(median_ms=0.001)
    (row,) = (r for r in bound_table(report).rows if r[0] == "raspberry-pi-5")
    assert row[7] == "192.0"
    assert "Faster than the bound: raspberry-pi-5." in bounds_notes(report)


def test_what_the_memory_limits(found):
    def slow(target):
        peak = PeakConfig(fp32_gflops=1, int8_gops=1e6, memory_gb_per_s=1, cache_mb=0, source="by hand")
        return target.model_copy(update={"peak": peak})

    report = found(edit=slow)
    pi = bounds_of(report)["raspberry-pi-5"]
    assert pi.compute_ms == 0 and pi.bound_ms == pytest.approx(pi.moved_bytes / 1e6)
    (row,) = (r for r in bound_table(report).rows if r[0] == "raspberry-pi-5")
    assert row[2:4] == ("0", "100")
    operators, peaks = bound_tables(report)
    assert {r[7] for r in operators.rows if r[6].strip("0.")} == {"memory"}
    assert peaks.rows[-1][1:] == ("1", "–", "1,000,000", "1", "0", "by hand")


def test_threads_share_the_operations(found):
    def two(target):
        return target.model_copy(update={"runtime": target.runtime.model_copy(update={"num_threads": 2})})

    pi = bounds_of(found(edit=two))["raspberry-pi-5"]
    assert pi.num_threads == 2 and pi.bound_ms == pytest.approx(OPERATIONS / 153.6e6 / 2)


def test_an_unreadable_file_has_a_reason_and_loses_no_run(found, tmp_path):
    report = found()
    path = next(a.files[0].path for a in report.artifacts if a.target == "raspberry-pi-4")
    (tmp_path / path).write_bytes(b"no model at all")
    targets = [load_target(a.target) for a in report.artifacts if a.target]
    again = next(
        a for a in with_rooflines(report, tmp_path, targets).artifacts if a.target == "raspberry-pi-4"
    )
    assert again.roofline is None
    assert "operators cannot be read as tflite" in again.roofline_absent


def test_bounds_go_through_the_schema_and_into_both_pages(found):
    report = found()
    assert parse(json.loads(dumps(report))) == report
    page, text = html(report), markdown(report)
    for part in (page, text):
        assert "a bound, not a prediction" in part
        assert "Peak rates of one core" in part
    assert re.search(r'id="bounds".*raspberry-pi-5.*0\.00192.*id="details"', page, re.S)
    assert 'href="#bounds"' in page


def test_reports_without_bounds_have_no_such_part(sample):
    page = html(parse(sample))
    assert 'id="bounds"' not in page and "Peak rates" not in page
    assert bound_table(parse(sample)) is None and bound_tables(parse(sample)) == ()


def test_parts_that_do_not_add_up_are_refused(found):
    data = json.loads(dumps(found()))
    roofline = next(a["roofline"] for a in data["artifacts"] if a["target"] == "raspberry-pi-5")
    roofline["other_ms"] += 1.0
    with pytest.raises(UsageError, match="do not add up"):
        parse(data)
