"""`edgekd compare`: two reports, figure by figure."""

import json
import re
import shutil
from pathlib import Path

import folders
import numpy as np
import pytest
from pages import open_details, overflows
from scipy.stats import ttest_ind
from statsmodels.stats.proportion import proportion_confint
from typer.testing import CliRunner

from edgekd import cli, comparing
from edgekd.comparing_timings import _beyond, _Ratio, ratio_of
from edgekd.errors import DataError, EdgeKDError, UsageError
from edgekd.measurements import Measurement, Protocol
from edgekd.report.compare import cell, headline, html
from edgekd.report.compared import Change
from edgekd.report.schema import parse
from edgekd.stored import read_measurement

TARGETS = ("host", "x86-onnx")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pair(make, tmp_path):
    """Writes an old and a new folder; `change` edits the new report's keys and values first."""

    def write(old=None, new=None, change=lambda data: None, targets=TARGETS, new_targets=None, other=True):
        first, second = make(targets=targets), make(targets=new_targets or targets)
        if other:  # the files that ship are not those of before
            for artifact in second["artifacts"]:
                if artifact["role"] == "target":
                    artifact["files"][0]["sha256"] = "a" * 64
        change(second)
        paths = tmp_path / "old", tmp_path / "new"
        for data, path, options in (
            (first, paths[0], old or {}),
            (second, paths[1], {"seed": 1, **(new or {})}),
        ):
            shutil.rmtree(path, ignore_errors=True)
            folders.fill(data, path, **options)
        return paths

    return write


def figures(found, target="host"):
    (one,) = [t for t in found.targets if t.target == target]
    return {change.figure: change for change in one.figures}


def test_accuracy_is_paired_new_against_old(pair):
    # 9 that only the old file has right, 3 that only the new one has, of 32: a published example of Tango's
    # interval at 90%.
    old, new = pair({"n": 32, "wrong": {"host": [0, 1, 2]}}, {"n": 32, "wrong": {"host": range(3, 12)}})
    found = figures(comparing.compare(old, new))["accuracy"]
    assert found.change == pytest.approx(-18.75)
    assert found.interval == pytest.approx((-35.744514, -1.019013), abs=1e-5)
    assert (found.old, found.new) == (pytest.approx(100 * 29 / 32), pytest.approx(100 * 23 / 32))
    assert found.word == "worse" and found.basis.startswith(
        "paired on the same 32 samples: 3 that only the new"
    )
    back = figures(comparing.compare(new, old))["accuracy"]
    assert back.interval == pytest.approx((1.019013, 35.744514), abs=1e-5) and back.word == "better"


def test_answers_that_are_the_same_or_too_close(pair):
    old, new = pair({"wrong": {"host": range(20)}}, {"wrong": {"host": range(5, 25)}})
    found = comparing.compare(old, new)
    assert figures(found)["accuracy"].word == "noise"
    assert figures(found, "x86-onnx")["accuracy"].word == "same"


def test_without_predictions_two_intervals_are_compared(pair):
    old, new = pair({"wrong": {"host": range(10)}}, {"wrong": {"host": range(10, 60)}})
    shutil.rmtree(old / "predictions")
    found = figures(comparing.compare(old, new))["accuracy"]
    assert found.word == "worse" and found.interval is None and found.change == pytest.approx(-2.0)
    assert found.basis == (
        "by two 90% intervals, of the drop against the same teacher, since "
        "the old folder holds no predictions"
    )
    drops = [parse(p / "report.json").artifacts[4].metrics[0].drop_interval for p in (old, new)]
    assert [found.old_interval, found.new_interval] == drops
    assert cell(found).note == "not paired: two intervals"
    assert "then" in cell(found).basis and "now" in cell(found).basis
    # Closer together they touch, where the paired interval would tell them apart.
    old, new = pair({"wrong": {"host": range(10)}}, {"wrong": {"host": range(16)}})
    assert figures(comparing.compare(old, new))["accuracy"].word == "worse"
    shutil.rmtree(new / "predictions")
    assert figures(comparing.compare(old, new))["accuracy"].word == "noise"


def test_other_samples_have_each_an_interval_of_their_own(pair):
    def other(data):
        data["data"]["splits"]["test"]["sha256"] = "b" * 64

    old, new = pair({"wrong": {"host": range(10)}}, {"wrong": {"host": range(60)}, "n": 1000}, other)
    found = comparing.compare(old, new)
    change = figures(found)["accuracy"]
    assert change.basis.startswith(
        "by two 90% intervals, of each accuracy on its own samples, since the test"
    )
    for wrong, n, ends in ((10, 2000, change.old_interval), (60, 1000, change.new_interval)):
        exact = proportion_confint(n - wrong, n, alpha=0.1, method="beta")
        assert ends == pytest.approx([100 * e for e in exact], abs=1e-9)
    assert change.word == "worse"
    assert found.cautions[0].startswith("The test splits differ (2,000 samples then, 1,000 now")
    assert "cautions about test samples" in headline(found)


def test_predictions_that_do_not_pair_up_are_not_paired(pair):
    old, new = pair({}, {"shift": 5})  # other ids, though the splits are said to be the same
    found = figures(comparing.compare(old, new))["accuracy"]
    assert "since the predictions do not pair up (candidate lacks samples: 5, first test-00000" in found.basis
    assert found.interval is None


def test_the_ratio_of_latencies_by_brute_force(pair):
    old, new = pair({}, {"slower": {"host": 1.1}})
    records = [
        next(
            m for m in parse(p / "report.json").measurements if (m.artifact_id, m.target) == ("host", "host")
        )
        for p in (old, new)
    ]
    first, second = (read_measurement(m, p) for m, p in zip(records, (old, new), strict=True))
    rng = np.random.default_rng(5)

    def drawn(m, quantile):
        groups = [m.latency_ms[m.process == g] for g in rng.integers(0, 3, 3)]
        return np.quantile(rng.choice(np.concatenate(groups), len(m.latency_ms)), quantile)

    def of_processes(m, quantile):
        return np.log([np.quantile(m.latency_ms[m.process == p], quantile) for p in range(3)])

    for quantile in (0.5, 0.9):
        ratio, interval = ratio_of(first, second, quantile)
        assert ratio == np.quantile(second.latency_ms, quantile) / np.quantile(first.latency_ms, quantile)
        brute = [drawn(second, quantile) / drawn(first, quantile) for _ in range(3000)]
        bootstrap = np.quantile(brute, [0.05, 0.95])
        both = (of_processes(m, quantile) for m in (second, first))
        welch = np.exp(ttest_ind(*both, equal_var=False).confidence_interval(0.9))
        wider = min(bootstrap[0], welch[0]), max(bootstrap[1], welch[1])
        assert interval == pytest.approx(wider, abs=0.0015)
        assert np.ptp(interval) > np.ptp(bootstrap) + 0.003  # else it would be the bootstrap's
        assert interval[0] < 1.1 < interval[1]


def test_latency_is_worse_only_beyond_what_the_computer_itself_did(pair):
    everything = {a: 1.1 for a in ("host", "teacher-tflite-fp32", "student-tflite-fp32")}
    old, new = pair({}, {"slower": {"host": 1.1}})
    found = figures(comparing.compare(old, new))
    assert found["median"].change == pytest.approx(1.1, rel=0.01)
    assert (found["median"].word, found["p90"].word) == ("worse", "worse")
    old, new = pair({}, {"slower": everything})
    found = figures(comparing.compare(old, new))
    assert found["median"].change == pytest.approx(1.1, rel=0.01)
    assert (found["median"].word, found["p90"].word) == ("noise", "noise")
    said = re.search(r"the same in both took (\S+) times \[(\S+), (\S+)\]", found["median"].basis)
    assert float(said[2]) < 1.1 < float(said[3]) and float(said[1]) == pytest.approx(1.1, rel=0.01)

    def retrained(data):  # no file is the same in both: then nobody knows
        for i, artifact in enumerate(data["artifacts"]):
            artifact["files"][0]["sha256"] = f"{i:064x}"

    old, new = pair({}, {"slower": everything}, retrained)
    found = figures(comparing.compare(old, new))
    assert found["median"].word == "worse" and "no file that is the same in both" in found["median"].basis
    # The control is of the float file's own runtime: the other target's did not slow down.
    assert figures(comparing.compare(old, new), "x86-onnx")["median"].word == "noise"


def simulated(rng, level=1.0):
    """Three processes that differ by half a percent, as `folders.timings`, but by chance."""
    medians = level * (1 + 0.005 * rng.standard_normal(3))
    noise = 1 + 0.02 * np.abs(rng.standard_normal((3, folders.RUNS)))
    values = (medians[:, None] * noise).reshape(-1)
    process = np.repeat(np.arange(3), folders.RUNS)
    protocol = Protocol(1, 1, 0.0, 3, 1)
    return Measurement("a", "d", "r", "1", "cpu", "host", protocol, values, process, (1.0,), (1.0,), 1)


def told(rng, change, drift):
    """The word for a file that truly takes `change` times as long, on a computer that takes `drift` times."""

    def ratio(factor):
        timed = simulated(rng), simulated(rng, factor)
        value, interval = ratio_of(*timed, 0.5)
        return _Ratio(timed, interval, Change("median", "ms", 1.0, 1.0, value, interval, "noise", ""))

    return _beyond(ratio(change * drift), ratio(drift))[0]


def test_an_interval_of_the_same_file_seldom_leaves_out_1():
    """One in ten at most; of three processes that are only resampled nearly one in four would."""
    rng = np.random.default_rng(4)
    found = [ratio_of(simulated(rng), simulated(rng), 0.5)[1] for _ in range(200)]
    assert sum(not low <= 1 <= high for low, high in found) <= 30


@pytest.mark.parametrize("drift", [1.0, 1.07])
def test_the_same_file_is_seldom_told_apart_and_a_slower_one_is(drift):
    rng = np.random.default_rng(3)
    same = [told(rng, 1.0, drift) for _ in range(100)]
    # About 1% are told apart; 5 of 100 would be as unlikely as 1 in 250 then.
    assert same.count("noise") >= 96
    slower = [told(rng, 1.05, drift) for _ in range(40)]
    faster = [told(rng, 0.95, drift) for _ in range(40)]
    expected = ("worse", "better") if drift == 1.0 else ("worse", "noise")
    assert slower.count(expected[0]) >= 36
    # On a computer that became slower a file that is 5% faster took 1.7% longer: not shown to be better.
    assert faster.count(expected[1]) >= 36


def test_what_is_the_same_is_said_to_be(pair):
    old, new = pair(other=False)
    found = figures(comparing.compare(old, new))
    assert found["size"].word == "same" and found["size"].basis == "the same file"
    assert (found["median"].word, found["median"].basis) == (
        "same",
        "the same file: a difference is the computer's",
    )
    assert found["memory"].word == "same"
    again = figures(comparing.compare(old, old))["median"]
    assert (again.change, again.interval, again.basis) == (
        1,
        None,
        "the same timings: nothing was timed anew",
    )
    assert headline(comparing.compare(old, old)) == "Nothing that could be compared changed beyond noise."


def on(key, value):
    """Edits every measurement."""

    def change(data):
        for m in data["measurements"]:
            m[key] = value

    return change


def host(key, value):
    return lambda data: data["host"].update({key: value})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (on("kind", "host"), "kind: measured then, host now"),
        (on("device", "another"), "device: local then, another now"),
        (on("runtime", "other"), "runtime: litert 2.3.0, xnnpack then, other 2.3.0, xnnpack now"),
        (on("runtime_version", "9"), "runtime: litert 2.3.0, xnnpack then, litert 9, xnnpack now"),
        (on("delegate", "gpu"), "runtime: litert 2.3.0, xnnpack then, litert 2.3.0, gpu now"),
        (on("num_threads", 4), "threads: 1 then, 4 now"),
        (on("warmup_runs", 3), "warm-up runs: 10 then, 3 now"),
        (host("cpu", "a board"), "cpu: an x86-64 processor then, a board now"),
        (host("cores", 8), "cores: 2 then, 8 now"),
        (host("features", []), "features: avx2 then, none now"),
        (host("memory_bytes", 4_294_967_296), "memory in bytes: 8589934592 then, 4294967296 now"),
    ],
)
def test_what_was_timed_otherwise_is_never_compared(pair, change, reason):
    old, new = pair({}, {"slower": {"host": 2.0}}, change)
    found = figures(comparing.compare(old, new))
    for name in ("median", "p90", "memory"):
        one = found[name]
        assert (one.word, one.change, one.interval) == ("not comparable", None, None), name
        assert one.basis == reason
        assert cell(one).change == "–" and cell(one).note == f"other {reason.partition(':')[0]}"
    (said,) = comparing.compare(old, new).cautions or ("",)
    of_host = reason.partition(":")[0] in ("cpu", "cores", "features", "memory in bytes")
    assert said == (f"The hosts differ ({reason}): latency and memory are not compared." if of_host else "")
    assert found["accuracy"].word == "same"  # what samples say does not depend on where


def test_a_little_less_memory_is_the_same_computer(pair):
    old, new = pair({}, {}, host("memory_bytes", int(8_589_934_592 * 0.99)))
    assert figures(comparing.compare(old, new))["median"].word == "noise"


@pytest.mark.parametrize("which", ["old", "new"])
def test_figures_that_are_not_there(pair, which):
    old, new = pair()
    shutil.rmtree((old if which == "old" else new) / "measurements")
    found = figures(comparing.compare(old, new))
    assert found["median"].basis == f"the {which} folder holds no raw timings"
    assert found["median"].change is None

    def untimed(data):
        data["measurements"] = [m for m in data["measurements"] if m["artifact_id"] != "host"]

    old, new = pair({}, {}, untimed)
    assert figures(comparing.compare(old, new))["median"].basis == "not timed in the new report"


def test_a_metric_that_is_not_there(pair):
    old, new = pair()
    data = json.loads((new / "report.json").read_text())
    for artifact in data["artifacts"]:
        artifact["metrics"] = []
    (new / "report.json").write_text(json.dumps(data))
    found = figures(comparing.compare(old, new))["accuracy"]
    assert (found.word, found.change, found.basis) == (
        "not comparable",
        None,
        "no accuracy in one of them",
    )
    assert found.old == 100 and found.new is None


def edited_timings(folder, edit):
    """The host's own timings, edited, with the checksum of the report mended."""
    data = json.loads((folder / "report.json").read_text())
    (record,) = [m for m in data["measurements"] if (m["artifact_id"], m["target"]) == ("host", "host")]
    path = folder / record["raw_path"]
    with np.load(path) as raw:
        values, process = edit(raw["latency_ms"], raw["process"])
    np.savez(path, latency_ms=values, process=process)
    record["raw_sha256"] = folders.sha256(path)
    (folder / "report.json").write_text(json.dumps(data))


def test_unsteady_or_few_processes_show_nothing(pair):
    old, new = pair({}, {"slower": {"host": 3.0}})
    edited_timings(new, lambda values, process: (np.where(process == 1, 1.3 * values, values), process))
    found = figures(comparing.compare(old, new))["median"]
    assert found.word == "noise" and re.match(
        r"new: unstable, its processes differ by (29|30|31)%", found.basis
    )
    old, new = pair({}, {"slower": {"host": 3.0}})
    edited_timings(old, lambda values, process: (values, process // 2))
    found = figures(comparing.compare(old, new))["median"]
    assert found.word == "unjudged" and found.basis.startswith("old: only 2 of the 3 processes")


def test_changed_files_are_refused(pair):
    for name in ("predictions/host.npz", "measurements/host--host.npz"):
        old, new = pair()
        with (new / name).open("ab") as file:
            file.write(b"x")
        with pytest.raises(DataError, match="changed since the report was written"):
            comparing.compare(old, new)
    with pytest.raises(UsageError, match="no such file"):
        comparing.compare(old, old / "absent.json")


def test_sizes_verdicts_and_targets(pair):
    def smaller(data):
        for artifact in data["artifacts"]:
            if artifact["target"] == "host":
                artifact["size_bytes"] = artifact["files"][0]["size_bytes"] = 98_304

    targets = ("host", "x86-onnx", "android-cpu")
    old, new = pair(
        {"wrong": {"x86-onnx": range(60)}},
        {"wrong": {"host": range(60)}},
        smaller,
        targets,
        (*TARGETS, "edge-npu"),
    )
    found = comparing.compare(old, new)
    assert (found.only_old, found.only_new) == (("android-cpu",), ("edge-npu",))
    size = figures(found)["size"]
    assert (size.old, size.new, size.change, size.word) == (196_608, 98_304, 0.5, "better")
    first, second = found.targets
    assert (first.old_verdict, first.new_verdict, first.verdict) == ("PASS", "FAIL", "worse")
    assert (second.old_verdict, second.new_verdict, second.verdict) == ("FAIL", "PASS", "better")
    assert headline(found) == (
        "Worse: verdict and accuracy on host. Better: size on host; verdict and accuracy on x86-onnx."
    )


def test_what_else_differs_is_said_first(pair):
    def other(data):
        data["teacher"]["artifact_ids"] = []
        data["recipe"].update(name="another", smoke=True)
        data["gate"]["policy"].update(max_drop_pp=2.0, why="other words")
        data["gate"]["budgets"]["host"]["size_bytes"] = 1
        data["gate"]["targets"] = {"x86-onnx": {"min_int8_share": 0.5}, "host": {}}
        data["host"]["kernel"] = "6.2"

    old, new = pair({}, {"teacher_wrong": [3]}, other)
    said = comparing.compare(old, new).cautions
    assert said == (
        "The teachers differ, or are not known to be the same: so do the drops against them.",
        "The recipes differ: fashion-mnist then, another now.",
        "The gate's policies differ, so verdicts do not say the same (max_drop_pp: 1.0 then, 2.0 now).",
        "The budgets of host differ, so verdicts do not say the same.",
        "The targets' own policies of x86-onnx differ, so verdicts do not say the same.",
        "A smoke run on a sliver of data: the new report.",
        "The hosts have other systems (kernel: not known then, 6.2 now).",
    )
    assert headline(comparing.compare(old, new)).endswith(
        " Read it with the cautions about teacher, recipe, policy, budgets, targets' own policies, "
        "a smoke run and system."
    )
    old, new = pair()
    assert comparing.compare(old, new).cautions == ()


def compare(*arguments):
    found = CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])
    if isinstance(found.exception, EdgeKDError):
        raise found.exception
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def test_the_command_informs_and_does_not_gate(pair, tmp_path):
    old, new = pair({"wrong": {"host": [0]}}, {"wrong": {"host": range(60)}, "slower": {"host": 1.5}})
    page = tmp_path / "page.html"
    shown = compare(old, new / "report.json", "--html", page)
    assert shown.exit_code == 0
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert "host verdict PASS FAIL worse" in lines
    assert any(
        re.match(r"accuracy 99.95% 97.00% −2.95 pp \[−3.\d\d, −2.\d\d\] worse", line) for line in lines
    )
    assert any(line.startswith("Accuracy of host: paired on the same 2,000 samples") for line in lines)
    assert lines[-1].startswith("Worse: verdict, accuracy, median latency and p90 latency on host.")
    assert page.read_text().startswith("<!doctype html>")
    told = json.loads(compare(old, new, "--json").stdout)
    (accuracy,) = [f for f in told["targets"][0]["figures"] if f["figure"] == "accuracy"]
    assert accuracy["change"] == pytest.approx(-2.95) and accuracy["word"] == "worse"
    assert told["confidence"] == pytest.approx(0.9) and told["targets"][0]["new_verdict"] == "FAIL"
    with pytest.raises(UsageError, match="its folder must exist"):
        compare(old, new, "--html", tmp_path / "absent" / "page.html")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "reports").glob("*/report.json")), ids=lambda p: p.parent.name
)
def test_committed_reports_can_be_compared(path, sample, tmp_path):
    found = comparing.compare(path, path)
    assert found.targets and not found.cautions
    assert {change.word for t in found.targets for change in t.figures} <= {"same", "noise", "not comparable"}
    folders.fill(sample, tmp_path)
    assert comparing.compare(tmp_path, path).cautions


@pytest.fixture
def found(pair):
    old, new = pair(
        {"wrong": {"host": range(40)}, "teacher_wrong": range(30)},
        {
            "wrong": {"host": range(80), "x86-onnx": range(10)},
            "slower": {"x86-onnx": 0.8},
            "teacher_wrong": range(30),
        },
        targets=("host", "x86-onnx", "android-cpu"),
    )
    return comparing.compare(old, new)


@pytest.mark.parametrize("width", [360, 700, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_asks_for_nothing(show, found, width, scheme):
    page = show(found, width, color_scheme=scheme)
    open_details(page)
    page.wait_for_load_state("networkidle")
    assert overflows(page) <= 0
    assert len(page.asked) == 1 and page.errors == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert dark == (scheme == "dark")
    assert not re.search(r"<script|<link|<img|@import|url\(|https?://", html(found))
    clipped = page.evaluate(
        """[...document.querySelectorAll('.changes td, .plot .n, .headline, .how td')]
           .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"""
    )
    assert clipped == []


def test_the_page_says_what_the_comparison_says(show, found):
    page = show(found, 1400)
    assert page.locator(".verdict .word").inner_text() == "Better and worse"
    assert page.locator(".headline").inner_text() == headline(found)
    rows = [re.split(r"\s*[\n\t]+\s*", row) for row in page.locator(".changes tbody tr").all_inner_texts()]
    assert rows[0][:2] == ["host required", "PASS → FAIL"] and rows[0][2] == "−2.00 pp"
    assert rows[0][4:6] == ["worse", "paired"]
    assert page.locator("#how details").count() == 3
    # Where whiskers stand: on one scale, which the labels at both ends tell.
    spans = {t.target: figures(found, t.target)["accuracy"] for t in found.targets}
    far = float(re.search(r"\+([\d.]+)", page.locator(".ends .axis").first.inner_text())[1])
    for target, change in spans.items():
        plot = page.locator(f"#intervals li[data-target='{target}']").first
        box = plot.locator(".whisker").evaluate("e => { const b = e.getBBox(); return [b.x, b.width]; }")
        ends = [500 * (1 + end / far) for end in change.interval]
        assert box == pytest.approx([ends[0], ends[1] - ends[0]], abs=3)
        (dot,) = plot.locator(".dot").evaluate("e => [e.getBBox().x]")
        assert dot == pytest.approx(500 * (1 + change.change / far), abs=3)


def test_hostile_names_are_shown_as_text(show, pair):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"

    def change(data):
        data["recipe"]["name"] = evil
        data["host"]["cpu"] = evil + "y" * 300

    page = show(comparing.compare(*pair({}, {}, change)), 360)
    assert page.locator("script, img").count() == 0 and page.errors == page.dialogs == []
    assert evil in page.locator("h1").inner_text()
    assert overflows(page) <= 0


def test_nothing_in_common_is_said(show, pair):
    old, new = pair(targets=("host",), new_targets=("x86-onnx",))
    found = comparing.compare(old, new)
    page = show(found, 360)
    assert "no target in common" in page.locator(".headline").inner_text()
    assert "Only in the old one: host." in page.locator("#alone").inner_text()
