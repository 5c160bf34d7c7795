"""The benchmark that compares single techniques with the chain, at a size where its figures say nothing."""

import importlib
import json
import os
import subprocess
import sys

import pytest
from runs import ROOT, TINY

from edgekd.report.schema import parse

SCRIPT = ROOT / "benchmarks/techniques.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One study of the tiny chain."""
    folder = tmp_path_factory.mktemp("techniques")
    recipe = TINY.replace('targets = ["x86-onnx", "host"]', 'targets = ["host"]')
    recipe = recipe.replace('required_targets = ["x86-onnx"]', 'required_targets = ["host"]')
    (folder / "tiny.toml").write_text(recipe)
    done = study(folder)
    (folder / "told.txt").write_text(done.stdout)
    return folder


def study(folder):
    command = [SCRIPT, folder / "tiny.toml", "--work", folder / "work", "--output", folder / "out"]
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "EDGEKD_STORE": str(folder / "store"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=400,
    )


@pytest.mark.timeout(500)
def test_each_file_is_its_own_run_s(folder):
    result = json.loads((folder / "out/tiny.json").read_text())
    rows = {row["technique"]: row for row in result["rows"]}
    assert list(rows) == ["none (teacher)", "distillation", "pruning", "quantization", "all"]
    schemes = {name: row["scheme"] for name, row in rows.items()}
    assert schemes == {
        "none (teacher)": "fp32",
        "distillation": "fp32",
        "pruning": "fp32",
        "quantization": "static_wi8_ai8",
        "all": "static_wi8_ai8",
    }
    stages = {}
    for name in ("distillation", "pruning", "quantization", "all"):
        report = parse(folder / "work" / name / "report.json")
        stages[name] = {stage.name for stage in report.stages} & {"distill", "prune", "quantize"}
        (file,) = [a for a in report.artifacts if a.role == "target"]
        path = folder / "work" / name / file.files[0].path
        assert rows[name]["size_bytes"] == path.stat().st_size
        assert rows[name]["value"] == file.metrics[0].value
        # One teacher, on the same samples.
        assert rows[name]["value"] + rows[name]["drop"] == pytest.approx(rows["none (teacher)"]["value"])
        assert rows[name]["times_smaller"] == rows["none (teacher)"]["size_bytes"] / path.stat().st_size
    assert stages == {
        "distillation": {"distill"},
        "pruning": {"prune"},
        "quantization": {"quantize"},
        "all": {"distill", "prune", "quantize"},
    }
    assert all(row["latency_ms"] > 0 for row in rows.values())


@pytest.mark.timeout(500)
def test_it_is_told_as_a_table_and_a_line_of_json(folder):
    result = json.loads((folder / "out/tiny.json").read_text())
    *table, line = (folder / "told.txt").read_text().strip().splitlines()[-8:]
    assert json.loads(line) == result
    page = (folder / "out/tiny.md").read_text()
    assert "\n".join(table[-7:]) in page and "say nothing" in page
    row = next(row for row in result["rows"] if row["technique"] == "all")
    told = f"| host | all | {row['value']:.2f} | {row['drop']:.2f} | {row['drop_interval'][0]:.2f} to"
    assert told in page


@pytest.mark.timeout(500)
def test_a_second_study_takes_what_is_there(folder):
    files = {path: path.read_bytes() for path in folder.glob("work/*/artifacts/*")}
    before = sorted(path.name for path in (folder / "store").rglob("model.safetensors"))
    study(folder)
    assert files == {path: path.read_bytes() for path in folder.glob("work/*/artifacts/*")}
    assert sorted(path.name for path in (folder / "store").rglob("model.safetensors")) == before
    assert len(before) == 6  # teacher, student; pruned and quantized, each of the student and of the teacher


def test_what_recovers_alone_learns_from_labels_and_names_no_layers_of_the_student(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    techniques = importlib.import_module("techniques")
    recipe = {
        "name": "r",
        "teacher": {"model": {"kind": "mlp"}},
        "student": {"model": {"kind": "resnet"}},
        "distill": {"epochs": 3},
        "prune": {"goal": "macs", "keep": 0.5, "ignored_layers": ["stem"], "losses": [{"kind": "kd"}]},
        "quantize": {"method": "qat", "float_layers": ["stem"]},
    }
    assert techniques.alone(recipe, "pruning") == {
        "name": "r-pruning",
        "teacher": {"model": {"kind": "mlp"}},
        "prune": {"goal": "macs", "keep": 0.5, "losses": [{"kind": "cross_entropy"}]},
    }
    assert techniques.alone(recipe, "pruning", ["conv1"])["prune"]["ignored_layers"] == ["conv1"]
    assert techniques.alone(recipe, "quantization", ["conv1"])["quantize"] == {
        "method": "qat",
        "losses": [{"kind": "cross_entropy"}],
    }
    assert techniques.alone(recipe, "all") == {**recipe, "name": "r-all"}
    del recipe["prune"]
    with pytest.raises(SystemExit, match=r"r: has no \[prune\]"):
        techniques.alone(recipe, "all")
