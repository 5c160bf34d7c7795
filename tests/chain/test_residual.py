"""The chains of docs/examples/cifar10.md in seconds: bottlenecks teach, a student with pads is pruned."""

import re

import pytest

RECIPE = """
name = "tiny"
targets = ["host", "x86-onnx"]
required_targets = ["host"]
smoke = true
[task]
kind = "digits"
[teacher.model]
kind = "resnet"
block = "bottleneck"
blocks = [1, 1]
width = 8
[teacher.train]
epochs = 4
batch_size = 16
[student.model]
kind = "resnet"
shortcut = "pad"
blocks = [1, 2]
width = 16
[distill]
epochs = 4
batch_size = 16
[prune]
goal = "macs"
keep = 0.7
epochs = 2
batch_size = 16
ignored_layers = ["stem"]
[quantize]
method = "qat"
epochs = 1
[gate]
max_drop_pp = 20.0
"""


@pytest.mark.timeout(400)
def test_bottlenecks_to_a_student_with_pads(edgekd):
    done = edgekd("run", edgekd.write(RECIPE), limit_s=380)
    assert done.returncode == 3, done.stderr + done.stdout  # one process is too few for its times
    assert "INCONCLUSIVE" in done.stdout
    report = edgekd.report()
    stages = {stage["name"]: stage for stage in report["stages"]}
    # By hand, on images of 8 x 8: stem, block, and in the second stage two blocks on 4 x 4.
    first, second = 64 * 9 * (1 * 16 + 2 * 16 * 16), 16 * 9 * (16 * 32 + 3 * 32 * 32)
    assert stages["distill"]["macs"] == first + second + 32 * 10
    assert 0.5 < stages["prune"]["macs"] / stages["distill"]["macs"] <= 0.7
    files = {a["target"]: a for a in report["artifacts"] if a["role"] == "target"}
    # The sum behind the pad is float in ONNX.
    floats = {name: file["inventory"]["float_ops"] for name, file in files.items()}
    assert floats == {"host": 0, "x86-onnx": 1}
    assert all(file["parity"]["argmax_agreement"] >= 0.99 for file in files.values())
    right = {name: file["metrics"][0]["value"] for name, file in files.items()}
    assert min(right.values()) > 60  # of ten digits


def test_pads_are_refused_before_anything_is_trained(edgekd):
    recipe = RECIPE.replace('ignored_layers = ["stem"]\n', "")
    done = edgekd("run", edgekd.write(recipe))
    assert done.returncode == 2, done.stdout
    told = re.sub(r"\s+", " ", done.stderr)
    assert "channels of stem to blocks.1.conv2: they are 16 of its 32" in told
    assert "name stem in prune.ignored_layers" in told
    assert "teacher" not in done.stdout
