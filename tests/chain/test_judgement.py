"""The gate believes nothing that changed since the report was written."""

import json
import shutil

import pytest
from runs import TINY, Commands

from edgekd.errors import DataError, UsageError
from edgekd.pipeline import judge_again


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
    import hashlib

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
    with pytest.raises(UsageError, match="the report has no target 'phone'"):
        judge_again(
            folder / "report.json",
            None,
            write_policy(tmp_path, 'max_drop_pp = 1.0\nrequired_targets = ["phone"]'),
        )


def test_other_metrics_are_judged_from_the_stored_scores(folder, tmp_path):
    path = write_policy(tmp_path, 'metric = "f1_macro"\nmax_drop = 0.9\n')
    verdict = judge_again(folder / "report.json", None, path).verdict
    assert {c.name for c in verdict.checks} & {"accuracy", "f1_macro"} == {"f1_macro"}


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (
            "max_drop_pp = 1.0\nexpected_discordance = 0.05\n[gate.slices.shop]\nmax_drop_pp = 2.0",
            "no column 'shop'",
        ),
        ('max_drop_pp = 1.0\ncluster = "user"', "no column 'user'"),
        ('max_drop = 1.0\nmetric = "rmse"', "networks tell classes"),
        ('max_drop = 0.1\nmetric = "auc"', "the task has 10"),
        (
            "max_drop_pp = 1.0\nexpected_discordance = 0.2\n[gate.slices.label]\nmax_drop_pp = 2.0",
            "mandatory slices with probability 0%",
        ),
    ],
)
def test_a_policy_that_a_chain_cannot_be_held_to_is_refused_before_training(tmp_path, policy, said):
    command = Commands(tmp_path, tmp_path / "store")
    start = TINY.index("[gate]")
    (tmp_path / "r.toml").write_text(TINY[:start] + f"[gate]\n{policy}\n")
    found = command("run", "r.toml")
    assert found.returncode == 2 and said in found.stderr
    assert [p.name.partition("-")[0] for p in (tmp_path / "store").glob("*-*")] == ["data"]
