"""Whole runs, each in processes of its own: the command line is what users and pipelines see."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

# The smallest chain that goes through every stage: seconds, not minutes.
TINY = """
name = "tiny"
targets = ["x86-onnx", "host"]
required_targets = ["x86-onnx"]
smoke = true
[task]
kind = "digits"
[teacher.model]
kind = "mlp"
hidden = [64, 64]
[teacher.train]
epochs = 4
batch_size = 16
[student.model]
kind = "mlp"
hidden = [32, 32]
[distill]
epochs = 4
batch_size = 16
[prune]
goal = "macs"
keep = 0.7
epochs = 2
batch_size = 16
[quantize]
method = "qat"
epochs = 1
[gate]
max_drop_pp = 20.0
"""


TRAINING = ("torch", "nncf", "onnx", "litert_torch", "torch_pruning", "lightning_fabric")
READERS = ("sklearn", "PIL")  # of digits and of images: in the same extra
WITHOUT = """
import sys
for name in {names!r}:
    sys.modules[name] = None  # an import of it raises
from edgekd.cli import main
main()
"""


@dataclass
class Commands:
    """Runs `edgekd` as a user does, with a store of its own."""

    folder: Path
    store: Path

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "EDGEKD_STORE": str(self.store),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    def __call__(
        self, *arguments: object, python: Sequence[str] = ("-m", "edgekd"), limit_s: float = 200
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *python, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def light(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """The same where nothing can be imported that the light install does not have."""
        return self(*arguments, python=["-c", WITHOUT.format(names=(*TRAINING, *READERS))])

    def without_torch(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """The same where no library that trains can be imported, with those that read data."""
        return self(*arguments, python=["-c", WITHOUT.format(names=TRAINING)])

    def start(self, *arguments: object) -> subprocess.Popen[bytes]:
        """Starts it in the background, as the leader of a group that can be killed whole."""
        return subprocess.Popen(
            [sys.executable, "-m", "edgekd", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def copy(self, folder: Path) -> "Commands":
        """The same folder and store elsewhere, to change there; without the locks of runs that look at it."""
        passing = shutil.ignore_patterns(".runs", ".making", ".tmp", "*.lock", ".lock")
        shutil.copytree(self.folder, folder, ignore=passing, dirs_exist_ok=True)
        return Commands(folder, folder / "store")

    def write(self, text: str, name: str = "recipe.toml") -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def report(self, workdir: str = "runs/tiny-smoke") -> dict:
        return json.loads((self.folder / workdir / "report.json").read_text())


def outcome(report: dict) -> dict:
    """What must be the same whenever the same chain runs: networks' metrics and artifacts' bytes."""
    return {
        "stages": {s["id"]: s["metrics"] for s in report["stages"]},
        "files": {a["id"]: a["files"][0]["sha256"] for a in report["artifacts"]},
        "metrics": {a["id"]: a["metrics"] for a in report["artifacts"]},
        "data": report["data"],
    }
