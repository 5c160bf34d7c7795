"""A finished run: what it leaves, that it is found again, that it can be judged again."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from runs import TINY

from edgekd.rejudge import judge_again
from edgekd.report.schema import json_schema


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
    folder = finished.folder / "runs/tiny-smoke"
    report = finished.report()
    jsonschema.validate(report, json_schema())
    for artifact in report["artifacts"]:
        for file in [*artifact["files"], artifact["predictions"]]:
            content = (folder / file["path"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert artifact["size_bytes"] == sum((folder / f["path"]).stat().st_size for f in artifact["files"])


def test_metrics_in_the_report_are_those_of_the_shipped_file_in_its_runtime(finished):
    import onnxruntime as ort
    from sklearn.datasets import load_digits

    report = finished.report()
    folder = finished.folder / "runs/tiny-smoke"
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


def test_the_shipped_files_say_what_to_feed_them_and_where_they_come_from(finished):
    import onnxruntime as ort
    from ai_edge_litert.interpreter import Interpreter

    report = finished.report()
    lineage = ["distill", "prune", "quantize"]
    for artifact in (a for a in report["artifacts"] if a["role"] == "target"):
        path = finished.folder / "runs/tiny-smoke" / artifact["files"][0]["path"]
        spec = artifact["input_spec"]
        if artifact["format"] == "onnx":
            session = ort.InferenceSession(path)
            inside = session.get_modelmeta().custom_metadata_map
            name, shape = session.get_inputs()[0].name, session.get_inputs()[0].shape[1:]
        else:
            interpreter = Interpreter(model_path=str(path))
            detail = interpreter.get_input_details()[0]
            name, shape = detail["name"], list(detail["shape"][1:])
            inside = embedded(path)
        # What the report says of the input is what the runtime itself says.
        assert (spec["name"], spec["shape"]) == (name, shape)
        assert spec["layout"] == {"onnx": "NCHW", "tflite": "NHWC"}[artifact["format"]]
        assert json.loads(inside["edgekd.input"]) == spec
        assert json.loads(inside["edgekd.class_names"]) == report["class_names"]
        assert [step["stage"] for step in json.loads(inside["edgekd.lineage"])] == lineage


def embedded(path):
    """The metadata buffer of a TFLite file, through the flatbuffer's own accessors."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    (entry,) = [e for e in entries if e.Name() == b"edgekd"]
    return json.loads(bytes(model.Buffers(entry.Buffer()).DataAsNumpy()))


def test_parity_was_proven_on_enough_samples(finished):
    for artifact in finished.report()["artifacts"]:
        assert artifact["parity"]["num_samples"] >= 256
        # ONNX files take any batch; in TFLite files the batch is written into the graph.
        assert artifact["parity"]["batch_sizes"] == ([256, 3] if artifact["format"] == "onnx" else [1])


def test_what_a_smoke_run_leaves_open_is_latency_alone(finished):
    """Its one process a measurement is too few to judge by; all else is decided, and nothing fails."""
    verdict = finished.report()["verdict"]
    assert (verdict["status"], verdict["exit_code"]) == ("INCONCLUSIVE", 3)
    by_status = {}
    for check in verdict["checks"]:
        by_status.setdefault(check["status"], set()).add(check["name"])
    assert by_status["INCONCLUSIVE"] == {"int8_beats_float"}
    assert "FAIL" not in by_status and by_status["PASS"] >= {"accuracy", "int8_share"}


def test_what_is_printed_is_what_the_report_says(finished):
    printed, report = (finished.folder / "done").read_text(), finished.report()
    for stage in report["stages"]:
        assert re.search(rf"{stage['id']} .*{stage['metrics'][0]['value']:.2f}", printed)
    for artifact in (a for a in report["artifacts"] if a["target"]):
        assert re.search(rf"{artifact['target']} .*{artifact['metrics'][0]['value']:.2f}", printed)
    assert "INCONCLUSIVE at a margin of 20 pp of accuracy on 192 test samples" in printed
    assert "runs/tiny-smoke/report.html" in printed


def test_the_page_of_a_real_run_in_chromium(finished, browser):
    report = finished.report()
    page = browser.new_page()
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto((finished.folder / "runs/tiny-smoke/report.html").as_uri())
    text = page.inner_text("body")
    for name in ("teacher", "distill", "prune", "quantize", "x86-onnx", "host", "INCONCLUSIVE"):
        assert name.lower() in text.lower()
    for artifact in report["artifacts"]:
        assert f"{artifact['metrics'][0]['value']:.2f}" in text
    assert page.locator("svg").count() >= 1 and page.locator("table").count() >= 3
    assert len(asked) == 1 and not said, "one file, no network, no complaint"
    page.close()


def test_the_figures_are_of_the_stored_predictions_timings_and_files(finished):
    report, workdir = finished.report(), finished.folder / "runs/tiny-smoke"

    def stored(record):
        with np.load(workdir / record["path"]) as file:
            return file["labels"], file["scores"].argmax(axis=1)

    labels, teacher = stored(report["teacher"]["predictions"])
    shipped = [a for a in report["artifacts"] if a["role"] == "target"]
    assert len(shipped) == 2
    for artifact in shipped:
        _, file = stored(artifact["predictions"])
        assert artifact["flips"]["n"] == int((file != teacher).sum())
        drops = artifact["class_drops"]["worst"]
        assert {d["class_index"] for d in drops} == set(labels.tolist())
        for d in drops:
            own = labels == d["class_index"]
            assert d["n"] == int(own.sum()) and d["file_right"] == int((file == labels)[own].sum())
        # All classes together lose what the file loses.
        lost = sum(d["lost"] - d["won"] for d in drops)
        assert 100 * lost / len(labels) == pytest.approx(artifact["metrics"][0]["drop"])
    for artifact in report["artifacts"]:
        found = artifact["contents"]
        assert sum(found["by_dtype"].values()) + found["graph_bytes"] == artifact["size_bytes"]
    for measurement in report["measurements"]:
        with np.load(workdir / measurement["raw_path"]) as file:
            assert measurement["distribution"]["quantiles_ms"][5] == pytest.approx(
                np.median(file["latency_ms"])
            )
    assert report["gallery"] is None and report["recipe"]["report"] == {"gallery": 0}


def test_a_gallery_is_added_without_a_stage_run_again(finished, tmp_path):
    again = finished.copy(tmp_path)
    done = again.without_torch("run", "recipe.toml", "--set", "report.gallery=3")
    assert done.returncode == finished.report()["verdict"]["exit_code"], done.stderr
    report = again.report()
    assert report["gallery"]["flipped"] >= len(report["gallery"]["samples"]) > 0
    assert [
        s["key"] for s in json.loads((again.folder / "runs/tiny-smoke/run.json").read_text())["nodes"]
    ] == [s["key"] for s in json.loads((finished.folder / "runs/tiny-smoke/run.json").read_text())["nodes"]]
    for sample in report["gallery"]["samples"]:
        assert all(answer != sample["teacher_class"] for answer in sample["answers"].values())
    page = (again.folder / "runs/tiny-smoke/report.html").read_text()
    assert page.count("data:image/png;base64,") == len(report["gallery"]["samples"])


def test_a_finished_run_is_repeated_without_torch_and_says_the_same(finished, tmp_path):
    again = finished.copy(tmp_path)
    before = (again.folder / "runs/tiny-smoke/report.json").read_bytes()
    done = again.without_torch("run", "recipe.toml")
    assert done.returncode == finished.report()["verdict"]["exit_code"], done.stderr
    assert (again.folder / "runs/tiny-smoke/report.json").read_bytes() == before


def test_report_is_rebuilt_without_torch(finished, tmp_path):
    again = finished.copy(tmp_path)
    workdir = again.folder / "runs/tiny-smoke"
    before = (workdir / "report.json").read_bytes()
    for name in ("report.json", "report.md", "report.html"):
        (workdir / name).unlink()
    done = again.light("report", workdir)
    assert "Traceback" not in done.stderr, done.stderr
    assert (workdir / "report.json").read_bytes() == before
    assert (workdir / "report.html").stat().st_size > 10_000


def test_a_rebuilt_report_keeps_the_versions_of_its_run(finished, tmp_path):
    again = finished.copy(tmp_path)
    path = again.folder / "runs/tiny-smoke/run.json"
    record = json.loads(path.read_text())
    assert record["versions"] == again.report()["versions"]
    record["versions"]["torch"] = "9.9"
    path.write_text(json.dumps(record))
    again.light("report", "runs/tiny-smoke")
    assert again.report()["versions"] == {**finished.report()["versions"], "torch": "9.9"}


def test_a_kill_while_the_folder_is_written_leaves_no_verdict_beside_other_files(finished, tmp_path):
    again = finished.copy(tmp_path)
    workdir = again.folder / "runs/tiny-smoke"
    before = (workdir / "report.json").read_bytes()
    killed = again("report", workdir, python=["-c", DIES_WHILE_WRITING])
    assert killed.returncode == 9
    assert not (workdir / "report.json").exists()
    assert again.light("report", workdir).returncode == 3
    assert (workdir / "report.json").read_bytes() == before
    assert not list(workdir.glob(".assembling*"))


DIES_WHILE_WRITING = """
import os
from pathlib import Path
rename, count = Path.rename, []
def dies(self, target):
    count.append(target)
    if len(count) == 2:
        os._exit(9)
    return rename(self, target)
Path.rename = dies
from edgekd.cli import main
main()
"""


def test_gate_judges_again_from_the_folder_alone(finished, tmp_path):
    workdir = tmp_path / "moved"
    shutil.copytree(finished.folder / "runs/tiny-smoke", workdir)
    own = finished.light("gate", workdir / "report.json", "--json")
    assert json.loads(own.stdout) == finished.report()["verdict"]
    assert own.returncode == finished.report()["verdict"]["exit_code"]
    report = json.loads((workdir / "report.json").read_text())
    report["gate"]["policy"]["why"] = "so few digits"
    (workdir / "report.json").write_text(json.dumps(report))
    told = finished.light("gate", workdir).stdout  # the folder will do as well
    assert "so few digits" in told and "smoke run" in told
    other = finished.light("gate", workdir, "--max-drop", "30").stdout
    assert "30 pp of accuracy on 192 test samples" in other and "so few digits" not in other

    def accuracy(margin):
        verdict = judge_again(workdir / "report.json", margin).verdict
        return [c.status for c in verdict.checks if c.name == "accuracy"]

    # By hand: with 192 samples no lossless file can be shown to be within 0.01 points.
    strict = accuracy(0.01)
    assert len(strict) == 2 and set(strict) <= {"FAIL", "INCONCLUSIVE"}
    assert accuracy(99) == ["PASS", "PASS"]


def test_targets_of_one_convention_share_one_file(finished, tmp_path):
    edgekd = finished.copy(tmp_path)
    # And one that ships what is the others' reference, the pruned network in float.
    text = (Path(__file__).parents[2] / "targets/host.toml").read_text()
    (edgekd.folder / "targets").mkdir()
    (edgekd.folder / "targets/float.toml").write_text(
        text.replace('"static_wi8_ai8"', '"fp32"').replace('name = "host"', 'name = "float"')
    )
    names = ["x86-onnx", "host", "raspberry-pi-5", "android-cpu", "float"]
    edgekd("run", edgekd.write(TINY), "--targets", ",".join(names))
    report = edgekd.report()
    assert [a["id"] for a in report["artifacts"] if a["role"] == "target"] == names
    assert {m["target"] for m in report["measurements"] if m["artifact_id"] == m["target"]} == set(names)
    files = {a["target"]: a["files"][0]["sha256"] for a in report["artifacts"] if a["target"]}
    assert files["host"] == files["raspberry-pi-5"] == files["android-cpu"]
    kinds = {(m["target"], m["kind"]) for m in report["measurements"]}
    assert ("host", "measured") in kinds and ("raspberry-pi-5", "host") in kinds
    latency = {c["target"]: c["status"] for c in report["verdict"]["checks"] if c["name"] == "latency"}
    assert latency["raspberry-pi-5"] == "INCONCLUSIVE"  # a budget, and no board to measure it on


def test_until_stops_there_and_dry_run_tells_what_is_cached(edgekd):
    recipe = edgekd.write(TINY)
    stopped = edgekd("run", recipe, "--until", "data")
    assert stopped.returncode == 0 and not (edgekd.folder / "runs/tiny-smoke/report.json").exists()
    rows = {r["id"]: r["cached"] for r in json.loads(edgekd("run", recipe, "--dry-run", "--json").stdout)}
    assert rows["data"] and not rows["teacher"]
    wrong = edgekd("run", recipe, "--until", "nonsense")
    assert wrong.returncode == 2 and "stages: data" in wrong.stderr
