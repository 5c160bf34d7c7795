"""Folders of reports with predictions and timings, as a run leaves them, in a hundredth of a second."""

import hashlib

import numpy as np

from edgekd.config import PolicyGate, build
from edgekd.gate import tango_interval
from edgekd.judgement import judged
from edgekd.report.files import write as write_report
from edgekd.report.schema import parse
from edgekd.types import Status

CLASSES = 5
RUNS = 120  # of each of three processes


def scores_of(answers):
    """(N, classes) whose best class is the answer."""
    found = np.zeros((len(answers), CLASSES), np.float32)
    found[np.arange(len(answers)), answers] = 4.0
    return found


def answers_of(labels, wrong):
    """The labels, but another class at these places."""
    found = labels.copy()
    found[wrong] = (found[wrong] + 1) % CLASSES
    return found


def timings(median_ms, seed, spread=0.02):
    """Runs of three processes whose medians differ by about one percent."""
    rng = np.random.default_rng(seed)
    levels = median_ms * np.array([0.995, 1.0, 1.005])
    return np.concatenate([level * (1 + spread * np.abs(rng.standard_normal(RUNS))) for level in levels])


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fill(data, folder, *, n=2000, teacher_wrong=(), wrong=None, slower=None, seed=0, shift=0):
    """Writes what a report names into its folder, judges it, and writes its files; returns the report.

    Args:
        data: keys and values of a report.
        folder: where to.
        n: test samples.
        teacher_wrong: places where the teacher errs.
        wrong: target -> places where its file errs; the teacher's where left out.
        slower: artifact id -> factor on the median that the report names.
        seed: of the timings.
        shift: added to the numbers in the sample ids.
    """
    labels = np.arange(n) % CLASSES
    ids = np.array([f"test-{i + shift:05d}" for i in range(n)])
    said = {"teacher": answers_of(labels, list(teacher_wrong))}
    for artifact in data["artifacts"]:
        if artifact["role"] == "target":
            places = (wrong or {}).get(artifact["target"], teacher_wrong)
            said[artifact["id"]] = answers_of(labels, list(places))
    owners = {"teacher": data["teacher"], **{a["id"]: a for a in data["artifacts"]}}
    data["data"]["splits"]["test"]["n"] = n
    data["judgement_log"] = None  # never judged before
    for name, answers in said.items():
        path = folder / "predictions" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, sample_ids=ids, labels=labels, scores=scores_of(answers))
        owners[name]["predictions"] = {"path": f"predictions/{name}.npz", "sha256": sha256(path)}
        right, first = answers == labels, said["teacher"] == labels
        b, c = int(np.sum(first & ~right)), int(np.sum(~first & right))
        metric = owners[name]["metrics"][0]
        metric["value"] = 100 * float(right.mean())
        if name != "teacher":
            low, high = tango_interval(b, c, n, 0.9)
            metric.update(drop=100 * (b - c) / n, drop_interval=[100 * low, 100 * high])
    _write_timings(data, folder, slower or {}, seed)
    report = parse(data)
    report = judged(report, folder, build(PolicyGate, report.gate["policy"], "test"))
    write_report(report, folder)
    return report


def _write_timings(data, folder, slower, seed):
    (folder / "measurements").mkdir(parents=True, exist_ok=True)
    for i, m in enumerate(data["measurements"]):
        values = timings(m["median_ms"] * slower.get(m["artifact_id"], 1.0), [seed, i])
        process = np.repeat(np.arange(3), RUNS)
        path = folder / m["raw_path"]
        np.savez(path, latency_ms=values, process=process)
        m.update(
            raw_sha256=sha256(path),
            num_runs=len(values),
            median_ms=float(np.median(values)),
            p90_ms=float(np.percentile(values, 90)),
            p99_ms=None,
            process_medians_ms=[float(np.median(values[process == p])) for p in range(3)],
        )


def statuses(report):
    """(target, check) -> status, of checks that say something."""
    return {
        (c.target, c.name): str(c.status)
        for c in report.verdict.checks
        if c.status is not Status.NOT_APPLICABLE
    }
