"""What is said of an int8 file before anything is trained for it."""

from runs import TINY, Commands

NETS = """
from torch import nn
def smooth(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Mish(), nn.Linear(16, classes))
"""


def test_operators_without_kernels_are_named_before_the_teacher_is_trained(tmp_path):
    command = Commands(tmp_path, tmp_path / "store")
    (command.folder / "odd_nets.py").write_text(NETS)
    text = TINY.replace(
        '[student.model]\nkind = "mlp"\nhidden = [32, 32]\n', '[student.model]\nkind = "odd_nets:smooth"\n'
    )
    assert text != TINY
    (command.folder / "r.toml").write_text(text)
    found = command("run", "r.toml", "--until", "quantize")
    assert found.returncode == 0, found.stderr
    shown = found.stdout + found.stderr
    said = shown.index("student: no 8-bit kernels: mish (1)")
    assert said < shown.index("teacher")
    again = command("run", "r.toml", "--until", "quantize")
    assert "mish" not in again.stdout + again.stderr  # it stands in the report by now
