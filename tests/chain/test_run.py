"""A finished run: what it leaves, that it is found again, that it can be judged again."""

import hashlib
import json
import shutil

import jsonschema
import numpy as np
import pytest
from runs import TINY


def test_every_stage_is_there_and_hangs_under_the_one_before(finished):
    stages = {s["name"]: s for s in finished.report()["stages"]}
    assert set(stages) == {"teacher", "distill", "prune", "quantize"}
    assert stages["distill"]["parent_id"] == stages["teacher"]["id"]
    assert stages["prune"]["parent_id"] == stages["distill"]["id"]
    assert stages["quantize"]["parent_id"] == stages["prune"]["id"]
    # 64 inputs: 64*64 + 64*64 + 64*10 weights, 138 biases, counted by hand.
    assert stages["teacher"]["params"] == 64 * 64 + 64 * 64 + 64 * 10 + 64 + 64 + 10
    assert stages["prune"]["macs"] <= 0.7 * stages["distill"]["macs"]


def test_report_names_files_that_are_there_with_the_checksums_it_gives(finished):
    folder = finished.folder / "runs/tiny"
    report = finished.report()
    jsonschema.validate(report, json.loads(finished("schema", "report").stdout))
    for artifact in report["artifacts"]:
        for file in [*artifact["files"], artifact["predictions"]]:
            content = (folder / file["path"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert artifact["size_bytes"] == sum((folder / f["path"]).stat().st_size for f in artifact["files"])


def test_metrics_in_the_report_are_those_of_the_shipped_file_in_its_runtime(finished):
    import onnxruntime as ort
    from sklearn.datasets import load_digits

    report = finished.report()
    folder = finished.folder / "runs/tiny"
    artifact = next(a for a in report["artifacts"] if a["target"] == "x86-onnx")
    with np.load(folder / artifact["predictions"]["path"]) as stored:
        ids, labels, scores = stored["sample_ids"], stored["labels"], stored["scores"]
    spec = artifact["input_spec"]
    session = ort.InferenceSession(folder / artifact["files"][0]["path"])
    assert session.get_inputs()[0].name == spec["name"]
    # Fed from the data set itself, by what the artifact says of its input, not by our code.
    images = load_digits().images
    rows = np.array([int(i.removeprefix("digits/")) for i in ids])
    raw = images[rows][:, None].astype(np.float32)
    x = (raw / spec["scale"] - np.float32(spec["mean"][0])) / np.float32(spec["std"][0])
    again = session.run(None, {spec["name"]: x.astype(np.float32)})[0]
    assert (load_digits().target[rows] == labels).all()
    assert (again.argmax(1) == scores.argmax(1)).mean() > 0.99
    assert artifact["metrics"][0]["value"] == pytest.approx((scores.argmax(1) == labels).mean() * 100)


def test_a_finished_run_is_repeated_without_torch_and_says_the_same(finished):
    before = (finished.folder / "runs/tiny/report.json").read_bytes()
    again = finished.light("run", "recipe.toml")
    assert again.returncode == finished.report()["verdict"]["exit_code"], again.stderr
    assert (finished.folder / "runs/tiny/report.json").read_bytes() == before


def test_report_is_rebuilt_without_torch(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished.folder / "runs/tiny", workdir)
    before = (workdir / "report.json").read_bytes()
    for name in ("report.json", "report.md", "report.html"):
        (workdir / name).unlink()
    done = finished.light("report", workdir)
    assert "Traceback" not in done.stderr, done.stderr
    assert (workdir / "report.json").read_bytes() == before
    assert (workdir / "report.html").stat().st_size > 10_000


def test_gate_judges_again_from_the_folder_alone(finished, tmp_path):
    workdir = tmp_path / "moved"
    shutil.copytree(finished.folder / "runs/tiny", workdir)
    own = finished.light("gate", workdir / "report.json", "--json")
    assert json.loads(own.stdout) == finished.report()["verdict"]
    assert own.returncode == finished.report()["verdict"]["exit_code"]
    # By hand: with 192 samples no lossless file can be shown to be within 0.01 points.
    strict = finished.light("gate", workdir / "report.json", "--max-drop", "0.01", "--json")
    accuracy = [c for c in json.loads(strict.stdout)["checks"] if c["name"] == "accuracy"]
    assert strict.returncode in (1, 3)
    assert {c["status"] for c in accuracy} <= {"FAIL", "INCONCLUSIVE"}
    wide = finished.light("gate", workdir / "report.json", "--max-drop", "99", "--json")
    accuracy = [c for c in json.loads(wide.stdout)["checks"] if c["name"] == "accuracy"]
    assert {c["status"] for c in accuracy} == {"PASS"}


def test_gate_refuses_predictions_that_were_changed(finished, tmp_path):
    workdir = tmp_path / "changed"
    shutil.copytree(finished.folder / "runs/tiny", workdir)
    path = workdir / "predictions/files/x86-onnx.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    done = finished.light("gate", workdir / "report.json")
    assert done.returncode == 2
    assert "x86-onnx.npz" in done.stderr and "Traceback" not in done.stderr


def test_targets_of_one_convention_share_one_file(finished, edgekd):
    shutil.copytree(finished.store, edgekd.store)  # a copy: each run adds to the log of judgements
    edgekd("run", edgekd.write(TINY), "--targets", "x86-onnx,host,raspberry-pi-5,android-cpu")
    report = edgekd.report()
    files = {a["target"]: a["files"][0]["sha256"] for a in report["artifacts"] if a["target"]}
    assert files["host"] == files["raspberry-pi-5"] == files["android-cpu"]
    kinds = {(m["target"], m["kind"]) for m in report["measurements"]}
    assert ("host", "measured") in kinds and ("raspberry-pi-5", "host") in kinds
    latency = {c["target"]: c["status"] for c in report["verdict"]["checks"] if c["name"] == "latency"}
    assert latency["raspberry-pi-5"] == "INCONCLUSIVE"  # a budget, and no board to measure it on


def test_until_stops_there_and_dry_run_tells_what_is_cached(edgekd):
    recipe = edgekd.write(TINY)
    stopped = edgekd("run", recipe, "--until", "data")
    assert stopped.returncode == 0 and not (edgekd.folder / "runs/tiny/report.json").exists()
    rows = {r["id"]: r["cached"] for r in json.loads(edgekd("run", recipe, "--dry-run", "--json").stdout)}
    assert rows["data"] and not rows["teacher"]
    wrong = edgekd("run", recipe, "--until", "nonsense")
    assert wrong.returncode == 2 and "stages: data" in wrong.stderr
