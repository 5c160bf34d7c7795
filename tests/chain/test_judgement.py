"""The gate believes nothing that changed since the report was written."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from runs import TINY, Commands

from edgekd import tasks
from edgekd.config import TaskConfig
from edgekd.errors import DataError, UsageError
from edgekd.rejudge import judge_again


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of a finished run's folder, to spoil."""
    return shutil.copytree(finished.folder / "runs/tiny-smoke", tmp_path / "copy")


def edit(folder, change):
    path = folder / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def target(report):
    return next(a for a in report["artifacts"] if a["target"] == "x86-onnx")


def rehash(folder, record, path_key, sha_key):
    """Spoils a file and lets the report name its new checksum: what a reader of the file must notice."""
    path = folder / record[path_key]
    path.write_bytes(b"no archive")
    record[sha_key] = hashlib.sha256(b"no archive").hexdigest()


SPOILED = {
    "predictions changed": (
        lambda f, r: flip_a_bit(f / target(r)["predictions"]["path"]),
        r"x86-onnx\.npz: changed since the report was written",
    ),
    "the teacher's predictions changed": (
        lambda f, r: flip_a_bit(f / r["teacher"]["predictions"]["path"]),
        r"teacher\.npz: changed since the report was written",
    ),
    "timings changed": (
        lambda f, r: flip_a_bit(f / r["measurements"][0]["raw_path"]),
        r"measure-.*\.npz: changed since the report was written",
    ),
    "timings gone": (
        lambda f, r: (f / r["measurements"][0]["raw_path"]).unlink(),
        r"measure-.*\.npz: missing \(keep the report",
    ),
    "predictions that are no archive": (
        lambda f, r: rehash(f, target(r)["predictions"], "path", "sha256"),
        r"x86-onnx\.npz: not a file of predictions",
    ),
    "timings that are no archive": (
        lambda f, r: rehash(f, r["measurements"][0], "raw_path", "raw_sha256"),
        r"not a file of timings",
    ),
    "a path outside the folder": (
        lambda f, r: target(r)["predictions"].update(path="../x86-onnx.npz"),
        r"names a file outside its folder: '\.\./x86-onnx\.npz'",
    ),
    "no budgets": (lambda f, r: r["gate"].pop("budgets"), r"gate\.budgets has no entry for target"),
    "an operator without a type": (
        lambda f, r: target(r)["inventory"]["ops"].update(QLinearConv=1),
        r"inventory of x86-onnx: 'QLinearConv' is not of the form",
    ),
    "no predictions of the teacher": (
        lambda f, r: r["teacher"].update(predictions=None),
        r"the teacher has no stored predictions",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_folder_is_refused(folder, case):
    spoil, message = SPOILED[case]
    edit(folder, lambda report: spoil(folder, report))
    with pytest.raises(DataError, match=message):
        judge_again(folder / "report.json", None)


def test_the_command_says_so_in_one_line(folder, finished):
    flip_a_bit(folder / "predictions/files/x86-onnx.npz")
    done = finished.light("gate", folder / "report.json")
    assert done.returncode == 2
    assert "x86-onnx.npz: changed" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def write_policy(tmp_path, text):
    path = tmp_path / "policy.toml"
    path.write_text(f"[gate]\n{text}")
    return path


def test_a_report_may_claim_any_number_of_operators(folder):
    before = judge_again(folder).verdict
    edit(folder, lambda r: target(r)["inventory"]["ops"].update({"Add/int8": 10**15}))
    assert judge_again(folder).verdict == before


def test_classes_are_slices(folder):
    report = judge_again(folder / "report.json", None)
    (found,) = [a for a in report.artifacts if a.target == "x86-onnx"]
    assert [s.value for s in found.slices] == list(report.class_names)
    assert sum(s.n for s in found.slices) == report.data.splits.test.n
    (check,) = [c for c in report.verdict.checks if (c.name, c.target) == ("accuracy", "x86-onnx")]
    lost = sum(s.drop * s.n for s in found.slices) / report.data.splits.test.n
    assert lost == pytest.approx(check.observed, abs=1e-9)
    assert not any(s.mandatory for s in found.slices)
    assert all(a.slices == () for a in report.artifacts if a.role != "target")


def test_another_policy_judges_in_place_of_the_recipes(folder, tmp_path):
    path = write_policy(
        tmp_path,
        'max_drop_pp = 90.0\nrequired_targets = ["host"]\n[gate.budgets.host]\nsize_bytes = 1\n',
    )
    report = judge_again(folder / "report.json", None, path)
    assert [a.target for a in report.artifacts if a.required] == ["host"]
    assert {c.status for c in report.verdict.checks if (c.name, c.target) == ("size", "host")} == {"FAIL"}
    assert report.verdict.status == "FAIL"
    # Fewer samples of a class than asked for show nothing, however wide the margin.
    strict = write_policy(
        tmp_path,
        "max_drop_pp = 90.0\nexpected_discordance = 0.01\n"
        "[gate.slices.label]\nmax_drop_pp = 90.0\nmin_slice_n = 50\n",
    )
    verdict = judge_again(folder / "report.json", None, strict).verdict
    slices = [c for c in verdict.checks if c.name == "slice" and c.target == "x86-onnx"]
    assert len(slices) == 10 and {c.status for c in slices} == {"INCONCLUSIVE"}
    assert verdict.status == "INCONCLUSIVE"
    with pytest.raises(UsageError, match=r"the report has no target 'hosts' \(did you mean 'host'"):
        judge_again(
            folder / "report.json",
            None,
            write_policy(tmp_path, 'max_drop_pp = 1.0\nrequired_targets = ["hosts"]'),
        )


def test_what_a_target_asks_stands_in_place_of_the_recipes_gate(folder):
    def ask(report):
        report["gate"]["targets"]["x86-onnx"] = {"max_drop_pp": 77.0, "min_int8_share": 0.001}

    before = {(c.name, c.target): c.limit for c in judge_again(folder).verdict.checks}
    edit(folder, ask)
    found = {(c.name, c.target): c.limit for c in judge_again(folder).verdict.checks}
    changed = {("accuracy", "x86-onnx"): 77.0, ("int8_share", "x86-onnx"): 0.001}
    assert found == {**before, **changed} and before != found
    # Asked for by hand, a margin is that of all.
    by_hand = judge_again(folder, 66.0).verdict.checks
    assert {c.limit for c in by_hand if c.name == "accuracy"} == {66.0}
    assert {c.limit for c in by_hand if c.name == "int8_share" and c.target == "x86-onnx"} == {0.001}


def test_int8_may_be_as_slow_as_float_where_that_is_not_asked(folder):
    def ask(report):
        report["gate"]["targets"]["x86-onnx"] = {"int8_beats_float": False}

    def found():
        checks = judge_again(folder).verdict.checks
        return {c.target: c for c in checks if c.name == "int8_beats_float"}

    before = found()
    edit(folder, ask)
    after = found()
    assert after["host"] == before["host"]
    assert before["x86-onnx"].status != after["x86-onnx"].status == "NOT_APPLICABLE"
    assert after["x86-onnx"].observed == before["x86-onnx"].observed
    assert after["x86-onnx"].detail == f"not asked for by the policy; {before['x86-onnx'].detail}"


def test_a_targets_margin_must_be_one_of_the_recipes_metric(tmp_path):
    command = Commands(tmp_path, tmp_path / "store")
    targets = tmp_path / "targets"
    targets.mkdir()
    host = Path("targets/host.toml").read_text()
    (targets / "host.toml").write_text(f"{host}\n[gate]\nmax_drop = 0.01\n")
    (tmp_path / "r.toml").write_text(TINY)
    found = command("run", "r.toml", "--targets", "host")
    assert found.returncode == 2 and "target host: gate: " in found.stderr
    assert "the margin of accuracy is max_drop_pp" in found.stderr
    (targets / "host.toml").write_text(f"{host}\n[gate]\nmax_drop_pp = 3.5\n")
    found = command("run", "r.toml", "--targets", "host", "--dry-run")
    assert found.returncode == 0, found.stderr


def test_each_policy_is_a_judgement_of_its_own(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "elsewhere"))
    own = judge_again(folder)
    known = json.loads((folder / "judgements.json").read_text())["judgements"]
    assert own.judgements == len(known) and not (tmp_path / "elsewhere").exists()
    assert known[-1]["status"] is None  # the report itself says it
    first = judge_again(folder, 55.0)
    again = judge_again(folder, 55.0)
    other = judge_again(folder, 0.001)
    assert [r.judgements - own.judgements for r in (first, again, other)] == [1, 1, 2]
    assert other.verdict.status != "PASS"
    lost = [one for one in known[:-1] if one["status"] != "PASS"] + [own] * (own.verdict.status != "PASS")
    assert first.judgements_not_passed == len(lost)
    assert judge_again(folder, 44.0).judgements_not_passed == len(lost) + 1 + (first.verdict.status != "PASS")


def test_a_log_that_was_cut_is_told(folder):
    log = json.loads((folder / "judgements.json").read_text())
    (folder / "judgements.json").write_text(json.dumps({**log, "judgements": log["judgements"][1:]}))
    with pytest.raises(DataError, match=r"judgements.json: changed since"):
        judge_again(folder)


def test_a_log_that_is_no_text_is_told(folder):
    (folder / "judgements.json").write_bytes(b"\xff\xfe\xfd")
    digest = hashlib.sha256(b"\xff\xfe\xfd").hexdigest()
    edit(folder, lambda r: r["judgement_log"].update(sha256=digest))
    with pytest.raises(DataError, match=r"judgements.json: damaged"):
        judge_again(folder)


def test_a_file_beside_the_one_of_a_baseline_report(folder, tmp_path):
    base = shutil.copytree(folder, tmp_path / "base")
    asked = write_policy(tmp_path, "max_drop_pp = 90.0\nmax_size_ratio = 1.0\n")
    with pytest.raises(UsageError, match="of a smoke run"):
        judge_again(folder, None, asked, base)
    edit(base, lambda r: r["recipe"].update(smoke=False))
    policy = write_policy(tmp_path, "max_drop_pp = 90.0\nmax_size_ratio = 1.0\nmax_latency_ratio = 4.0\n")
    found = judge_again(folder, None, policy, base).verdict.checks
    of = {c.name: c for c in found if c.target == "host"}
    assert {of[n].status for n in ("same_teacher", "size_ratio")} == {"PASS"}
    # A smoke run times too little, or this machine is noisy: never a PASS without evidence.
    assert {of[f"latency_ratio_{q}"].status for q in ("median", "p90")} <= {"PASS", "INCONCLUSIVE"}
    edit(
        base, lambda r: [f.update(size_bytes=f["size_bytes"] - 9) for a in r["artifacts"] for f in a["files"]]
    )
    edit(base, lambda r: [a.update(size_bytes=a["size_bytes"] - 9) for a in r["artifacts"]])
    found = judge_again(folder, None, policy, base / "report.json").verdict
    assert {c.status for c in found.checks if c.name == "size_ratio"} == {"FAIL"} and found.status == "FAIL"
    edit(base, lambda r: r["data"]["splits"]["test"].update(sha256="0" * 64))
    found = judge_again(folder, None, policy, base).verdict.checks
    assert {c.status for c in found if c.name == "same_teacher"} == {"INCONCLUSIVE"}
    with pytest.raises(UsageError, match=r"gate.max_latency_ratio is a limit beside another report"):
        judge_again(folder, None, policy)
    with pytest.raises(UsageError, match=r"the policy has no limit beside it"):
        judge_again(folder, None, None, base)


def test_a_file_that_is_no_longer_the_one_judged_is_told(folder):
    shipped = folder / target(json.loads((folder / "report.json").read_text()))["files"][0]["path"]
    with shipped.open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"x86-onnx\.onnx: changed since"):
        judge_again(folder)
    shipped.unlink()  # a report alone may be judged: its predictions are there
    assert judge_again(folder).verdict.checks


def test_a_budget_that_a_policy_does_not_name_stays(folder, tmp_path):
    edit(folder, lambda r: r["gate"]["budgets"]["host"].update(latency_ms_p90=1e-9, size_bytes=1))
    asked = 'max_drop_pp = 90.0\nrequired_targets = ["host"]\n[gate.budgets.host]\nsize_bytes = 1000000\n'
    found = judge_again(folder, None, write_policy(tmp_path, asked)).verdict.checks
    limits = {c.name: c.limit for c in found if c.target == "host"}
    assert (limits["size"], limits["latency"]) == (1_000_000, 1e-9)


def test_what_requires_less_is_another_judgement(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    one = judge_again(folder, None, write_policy(tmp_path, "max_drop_pp = 0.01\n"))
    other = judge_again(
        folder, None, write_policy(tmp_path, 'max_drop_pp = 0.01\nrequired_targets = ["host"]\n')
    )
    assert other.judgements == one.judgements + 1
    assert other.judgements_not_passed == one.judgements_not_passed + 1


def test_margins_and_intervals_shown_are_those_judged_by(folder, tmp_path):
    own = next(a for a in judge_again(folder).artifacts if a.target == "host").metrics[0]
    wide = next(a for a in judge_again(folder, 55.0).artifacts if a.target == "host").metrics[0]
    assert (own.margin, wide.margin) == (20.0, 55.0) and own.drop_interval == wide.drop_interval
    strict = judge_again(folder, None, write_policy(tmp_path, "max_drop_pp = 1.0\nalpha = 0.001\n"))
    for one, other in ((own, next(a for a in strict.artifacts if a.target == "host").metrics[0]),):
        assert other.drop_interval[0] < one.drop_interval[0] and other.drop_interval[1] > one.drop_interval[1]
    (check,) = [c for c in strict.verdict.checks if (c.name, c.target) == ("accuracy", "host")]
    assert f"99.8% interval {other.drop_interval[0]:.2f} to {other.drop_interval[1]:.2f}" in check.detail
    macro = judge_again(folder, None, write_policy(tmp_path, 'metric = "f1_macro"\nmax_drop = 0.9\n'))
    assert {a.metrics[0].margin for a in macro.artifacts} == {None}


@pytest.mark.parametrize(
    "arrays",
    [
        {"scores": np.full((597, 10), "1")},
        {"scores": np.zeros((597, 10), complex)},
        {"sample_ids": np.array([["a", "b"]])},
        {"labels": np.zeros(597)},
        b"PK\x03\x04",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }".ljust(
            128
        ),
    ],
)
def test_predictions_of_another_kind_are_told(folder, arrays):
    def spoil(report):
        record = target(report)["predictions"]
        path = folder / record["path"]
        if isinstance(arrays, bytes):
            path.write_bytes(arrays)
        else:
            with np.load(path) as found:
                np.savez(path, **{**{n: found[n] for n in found.files}, **arrays})
        record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()

    edit(folder, spoil)
    with pytest.raises(DataError, match=r"x86-onnx\.npz: "):
        judge_again(folder)


def test_timings_of_another_kind_are_told(folder):
    report = json.loads((folder / "report.json").read_text())
    record = report["measurements"][0]
    for latency, process in (
        (np.ones((5, 2)), np.ones((5, 2), int)),
        (np.array(["1"]), np.array([0])),
        (np.ones(3, complex), np.zeros(3, int)),
        (np.ones(3), np.zeros(4, int)),
        (np.float64(1), np.int64(1)),
    ):
        np.savez(folder / record["raw_path"], latency_ms=latency, process=process)
        record["raw_sha256"] = hashlib.sha256((folder / record["raw_path"]).read_bytes()).hexdigest()
        (folder / "report.json").write_text(json.dumps(report))
        with pytest.raises(DataError, match=r"timings of "):
            judge_again(folder)


def test_other_metrics_are_judged_from_the_stored_scores(folder, tmp_path):
    path = write_policy(tmp_path, 'metric = "f1_macro"\nmax_drop = 0.9\n')
    verdict = judge_again(folder / "report.json", None, path).verdict
    assert {c.name for c in verdict.checks} & {"accuracy", "f1_macro"} == {"f1_macro"}


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (
            "max_drop_pp = 1.0\nexpected_discordance = 0.05\n[gate.slices.shop]\nmax_drop_pp = 2.0",
            "the task names no column 'shop'",
        ),
        ('max_drop_pp = 1.0\ncluster = "user"', "the task names no column 'user'"),
        ('max_drop = 1.0\nmetric = "rmse"', "networks tell classes"),
        ('max_drop = 0.1\nmetric = "auc"', "the task has 10"),
        (
            "max_drop_pp = 1.0\nexpected_discordance = 0.2\n[gate.slices.label]\nmax_drop_pp = 2.0",
            "mandatory slices with probability 0%",
        ),
    ],
)
def test_a_policy_that_a_chain_cannot_be_held_to_is_refused_before_training(tmp_path, policy, said):
    refused(tmp_path, policy, said)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ('max_drop_pp = 1.0\ncluster = "shop"\n', "10 clusters: with fewer than 30"),
        (
            "max_drop_pp = 1.0\nexpected_discordance = 0.05\n[gate.slices.shop]\nmax_drop_pp = 20.0\n"
            'values = ["11"]',
            "no sample is '11'",
        ),
        (
            "max_drop_pp = 1.0\nexpected_discordance = 0.2\n[gate.slices.shop]\nmax_drop_pp = 2.0",
            "mandatory slices with probability 0%",
        ),
    ],
)
def test_columns_by_which_nothing_could_pass_are_refused_before_training(tmp_path, policy, said):
    ids = tasks.read(TaskConfig(kind="digits"), 0).splits["test"].ids
    rows = "".join(f"{name},{i % 10}\n" for i, name in enumerate(ids))
    (tmp_path / "meta.csv").write_text(f"sample_id,shop\n{rows}")
    refused(tmp_path, policy, said, '[task.columns]\nfile = "meta.csv"\n')


def refused(tmp_path, policy, said, task=""):
    command = Commands(tmp_path, tmp_path / "store")
    start = TINY.replace("smoke = true\n", "").replace("[teacher.model]", f"{task}[teacher.model]")
    (tmp_path / "r.toml").write_text(start[: start.index("[gate]")] + f"[gate]\n{policy}\n")
    found = command("run", "r.toml")
    assert found.returncode == 2 and said in " ".join(found.stderr.split()), found.stderr
    stages = {p.name.partition("-")[0] for p in (tmp_path / "store").glob("*-*")}
    assert stages == ({"data", "columns"} if task else {"data"})
