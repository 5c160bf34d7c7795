"""The gate believes nothing that changed since the report was written."""

import json
import shutil

import pytest

from edgekd.errors import DataError
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
