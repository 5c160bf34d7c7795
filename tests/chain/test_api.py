"""`edgekd.compress` with a user's own objects, and recipes that use only part of the chain."""

import json
import subprocess
import sys

import pytest
from runs import TINY


def run_python(edgekd, code):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=edgekd.folder,
        env=edgekd.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


OBJECTS = """
import json
import numpy as np
import torch
from torch import nn
import edgekd

def split(name, n, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    return edgekd.Split(name, np.array([f"{name}-{i}" for i in range(n)]), x, (x[:, 0] > 0).astype(np.int64))

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))
    def forward(self, x):
        return self.body(x)

class Teacher(Net):  # with an operator that ONNX does not have
    def forward(self, x):
        return self.body(x) + 0 * torch.linalg.svdvals(x[:, None, :])

spec = edgekd.InputSpec("row", (6,), "NC", "float32", (-9.0, 9.0), 1.0, (0.0,) * 6, (1.0,) * 6)
splits = {"train": split("train", 400, 0), "val": split("val", 100, 1), "test": split("test", 400, 2)}
task = edgekd.Task("sign", splits, (edgekd.ACCURACY,), spec, ("minus", "plus"))
torch.manual_seed(0)
teacher = Teacher(16)
with torch.no_grad():  # a teacher that is right by construction: its second logit is ten times x0
    teacher.body[0].weight.zero_(); teacher.body[0].bias.zero_(); teacher.body[2].weight.zero_()
    teacher.body[2].bias.zero_()
    teacher.body[0].weight[0, 0] = 1; teacher.body[0].weight[1, 0] = -1
    teacher.body[2].weight[1, 0] = 10; teacher.body[2].weight[0, 1] = 10
before = {k: v.clone() for k, v in teacher.state_dict().items()}
recipe = {
    "name": "objects", "targets": ["x86-onnx"], "required_targets": ["x86-onnx"],
    "calibration": "per-class-32",
    "distill": {"epochs": 6, "lr": 0.05, "batch_size": 32},
    "quantize": {"method": "ptq"},
    "gate": {"max_drop_pp": 10.0},
}
report = edgekd.compress(recipe, teacher=teacher, student=Net(8), task=task)
same = all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
print(json.dumps({
    "teacher": report.teacher.metrics[0].value,
    "file": report.artifacts[0].metrics[0].value,
    "accuracy": [c.status for c in report.verdict.checks if c.name == "accuracy"],
    "not_exported": report.teacher.not_exported,
    "files": [a.role for a in report.artifacts],
    "over_teacher": report.artifacts[0].speedup_over_teacher,
    "over_float": report.artifacts[0].speedup_over_float.value,
    "untouched": same, "recipe_untouched": sorted(recipe),
}))
"""


def test_objects_from_python_take_the_place_of_recipe_sections(edgekd):
    found = run_python(edgekd, OBJECTS)
    assert found["teacher"] == 100.0  # by construction
    assert found["file"] > 90.0
    assert found["accuracy"] == ["PASS"]
    assert found["untouched"]
    # The teacher is judged against all the same; it only has no file to stand beside.
    assert "svd" in found["not_exported"]
    assert found["files"] == ["target", "student_float"]
    assert found["over_teacher"] is None and found["over_float"] > 0
    assert found["recipe_untouched"] == [
        *("calibration", "distill", "gate", "name", "quantize", "required_targets", "targets")
    ]


def test_importing_the_package_imports_nothing_heavy(edgekd):
    code = (
        "import json, sys, edgekd; names = sorted(edgekd.__all__);"
        "print(json.dumps([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules]))"
    )
    assert run_python(edgekd, code) == []


def test_the_public_surface_is_pinned():
    import edgekd as package

    assert sorted(package.__all__) == [
        *("ACCURACY", "CalibrationPolicy", "EdgeKDError", "InputSpec", "Recipe"),
        *("Report", "Split", "Target", "Task", "compress", "prepare_row", "read_preparation"),
    ]
    for name in package.__all__:
        assert getattr(package, name).__module__.startswith("edgekd") or name == "ACCURACY"


def test_quantize_only_compresses_a_teacher_that_was_trained_elsewhere(finished, tmp_path):
    edgekd = finished.copy(tmp_path)
    (checkpoint,) = edgekd.store.glob("network-*/model.safetensors")  # the one network that was trained alone
    text = TINY[: TINY.index("[student.model]")].replace(
        "[teacher.model]", f'[teacher]\ncheckpoint = "{checkpoint}"\n[teacher.model]'
    )
    text = text.replace("[teacher.train]\nepochs = 4\nbatch_size = 16\n", "").replace(
        '"x86-onnx", "host"]', '"x86-onnx"]'
    )
    text += '[quantize]\nmethod = "ptq"\n[gate]\nmax_drop_pp = 20.0\n'
    edgekd("run", edgekd.write(text.replace('"tiny"', '"only"')))
    report = edgekd.report("runs/only-smoke")
    assert report["teacher"]["metrics"][0]["value"] == finished.report()["teacher"]["metrics"][0]["value"]
    assert [s["name"] for s in report["stages"]] == ["teacher", "quantize"]
    artifact = report["artifacts"][0]
    assert [a["role"] for a in report["artifacts"]] == ["target", "teacher_float"]
    # The network in float is the teacher's own file: int8 is compared with that.
    assert artifact["speedup_over_float"]["value"] == artifact["speedup_over_teacher"]["value"]
    (compared,) = [c for c in report["verdict"]["checks"] if c["name"] == "int8_beats_float"]
    assert "not measured" not in compared["detail"] and "processes" in compared["detail"]


def test_an_onnx_file_is_quantized_measured_and_judged(finished, tmp_path):
    edgekd = finished.copy(tmp_path)
    source = finished.report()
    float_file = next(
        a for a in source["artifacts"] if a["role"] == "student_float" and a["format"] == "onnx"
    )
    path = finished.folder / "runs/tiny-smoke" / float_file["files"][0]["path"]
    start = TINY.index("[teacher.model]")
    text = (
        TINY[:start].replace('"x86-onnx", "host"]', '"x86-onnx"]')
        + f'[student]\nonnx = "{path}"\n[quantize]\nmethod = "ptq"\n[gate]\nmax_drop_pp = 20.0\n'
    )
    edgekd("run", edgekd.write(text.replace('"tiny"', '"onnx"')))
    report = edgekd.report("runs/onnx-smoke")
    # The baseline is the user's own file: run by us on the same samples it has the same accuracy as before.
    assert report["teacher"]["metrics"][0]["value"] == pytest.approx(float_file["metrics"][0]["value"])
    artifact = report["artifacts"][0]
    assert artifact["scheme"] == "static_wi8_ai8" and artifact["inventory"]["int8_ops"] >= 3
    assert artifact["size_bytes"] < float_file["size_bytes"]
    # No parameters are counted in a file that was brought: the baseline's size is the file's.
    assert report["teacher"]["size_bytes"] == path.stat().st_size > 10_000
    refused = edgekd("run", edgekd.write(text), "--targets", "host")
    assert refused.returncode == 2 and "ONNX file can only be emitted as ONNX" in refused.stderr


def test_init_makes_a_project_that_runs(edgekd):
    assert edgekd("init", "mine").returncode == 0
    assert edgekd("init", "mine").returncode == 2  # it is not empty any more
    edgekd.folder = edgekd.folder / "mine"
    # As the installed command does it: Python puts the script's folder on its path, not the current one.
    script = edgekd.folder.parent / "bin" / "edgekd"
    script.parent.mkdir()
    script.write_text("from edgekd.cli import main\nmain()\n")
    done = edgekd("run", "recipe.toml", "--set", "smoke=true", "--targets", "x86-onnx", python=[script])
    assert done.returncode in (1, 3), done.stderr  # so few samples pass nothing
    report = edgekd.report("runs/my-project-smoke")
    assert report["class_names"] == ["bar", "cross", "disc"]
    assert [s["name"] for s in report["stages"]] == ["teacher", "distill", "prune", "quantize"]
    assert report["teacher"]["metrics"][0]["value"] > 60  # a third of the samples by chance
    share = [c["status"] for c in report["verdict"]["checks"] if c["name"] == "int8_share"]
    assert share == ["PASS"]
