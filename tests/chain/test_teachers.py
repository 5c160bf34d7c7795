"""Every kind of teacher distils the digits student, in its own runtime."""

import pytest
from runs import TINY

NETWORK = '[teacher.model]\nkind = "mlp"\nhidden = [64, 64]\n[teacher.train]\nepochs = 4\nbatch_size = 16\n'
FUNCTION = """
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

model = LogisticRegression(C=0.1, max_iter=500)
digits = load_digits()
chosen = np.random.default_rng(0).permutation(len(digits.data))[:400]
model.fit(digits.data[chosen] / 16, digits.target[chosen])

def outputs(x, scale=1.0):
    # Inputs come as the student gets them: centred by the task, so only their order is used here.
    flat = x.reshape(len(x), -1)
    raw = (flat - flat.min(axis=1, keepdims=True)) / np.ptp(flat, axis=1, keepdims=True)
    return scale * model.decision_function(raw)
"""


def student_of(copied, teacher, targets='["x86-onnx"]'):
    """Report of the tiny chain with another teacher."""
    assert NETWORK in TINY
    text = TINY.replace(NETWORK, teacher).replace('"tiny"', '"taught"')
    done = copied("run", copied.write(text.replace('["x86-onnx", "host"]', targets)))
    assert done.returncode in (0, 1, 3), done.stderr
    return copied.report("runs/taught-smoke")


def float_teacher(finished, format):
    """The teacher's own float file of the tiny run."""
    found = finished.report()["artifacts"]
    (artifact,) = [a for a in found if a["role"] == "teacher_float" and a["format"] == format]
    return finished.folder / "runs/tiny-smoke" / artifact["files"][0]["path"], artifact


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_a_file(finished, tmp_path, format):
    path, artifact = float_teacher(finished, format)
    report = student_of(finished.copy(tmp_path), f'[teacher]\nfile = "{path}"\n', '["x86-onnx", "host"]')
    assert [s["name"] for s in report["stages"]] == ["teacher", "distill", "prune", "quantize"]
    teacher = report["teacher"]
    assert teacher["metrics"][0]["value"] == pytest.approx(artifact["metrics"][0]["value"])
    by_target = {a["target"]: a for a in report["artifacts"] if a["role"] == "target"}
    # Side by side in its own format only; in the other one the report says why not.
    assert (by_target["x86-onnx"]["speedup_over_teacher"] is not None) == (format == "onnx")
    assert by_target["host"]["speedup_over_teacher"] is None
    assert "a teacher that is no network is not written as" in teacher["not_exported"]
    assert teacher["size_bytes"] == pytest.approx(artifact["size_bytes"], rel=0.1)
    # The same outputs as the network's own: the student comes out much the same.
    students = [
        next(s for s in r["stages"] if s["name"] == "distill")["metrics"][0]["value"]
        for r in (report, finished.report())
    ]
    assert students[0] == pytest.approx(students[1], abs=3)


def test_a_function(finished, tmp_path):
    copied = finished.copy(tmp_path)
    (copied.folder / "regression.py").write_text(FUNCTION)
    report = student_of(copied, '[teacher.function]\nkind = "regression:outputs"\nscale = 2.0\n')
    assert report["teacher"]["metrics"][0]["value"] > 80
    distilled = next(s for s in report["stages"] if s["name"] == "distill")
    assert distilled["metrics"][0]["value"] > 25  # a sliver of data, four epochs
    assert report["teacher"]["not_exported"]


def test_a_file_that_guesses_or_has_no_layers_is_refused(finished, tmp_path):
    copied = finished.copy(tmp_path)
    path, _ = float_teacher(finished, "onnx")
    hint = 'losses = [{ kind = "hint", student_layer = "body.0", teacher_layer = "body.0" }]'
    text = TINY.replace(NETWORK, f'[teacher]\nfile = "{path}"\n').replace("[distill]", f"[distill]\n{hint}")
    done = copied("run", copied.write(text))
    assert done.returncode == 2 and "names layers of the teacher, which is no network" in done.stderr
    (copied.folder / "constant.py").write_text(
        "import numpy as np\ndef outputs(x): return np.tile(5 * np.eye(10)[3], (len(x), 1))\n"
    )
    text = TINY.replace(NETWORK, '[teacher.function]\nkind = "constant:outputs"\n')
    done = copied("run", copied.write(text))
    assert done.returncode == 2 and "by chance" in done.stderr and "Traceback" not in done.stderr
    done = copied("run", copied.write(TINY.replace(NETWORK, '[teacher]\nfile = "nowhere.onnx"\n')))
    assert done.returncode == 2 and "teacher.file = 'nowhere.onnx': no such file" in done.stderr
