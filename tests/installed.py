"""edgekd as a user has it: a wheel, installed in an environment of its own, run outside of the repository."""

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("edgekd", "targets", "calibration", "recipes", "pyproject.toml", "README.md", "LICENSE")

# `edgekd run` in smoke form: what follows finds its results where smoke runs leave them, and a verdict
# of a sliver of data, which means nothing, is no error.
SMOKING = """#!{python}
import pathlib, re, subprocess, sys
arguments = sys.argv[1:]
runs = arguments[:1] == ["run"] and "--dry-run" not in arguments
if runs and "smoke=true" not in arguments:
    arguments += ["--set", "smoke=true"]
def smoked(text):
    there = re.sub(r"^runs/([^/]+)", r"runs/\\1-smoke", text)
    return there if not pathlib.Path(text).exists() and pathlib.Path(there).exists() else text
done = subprocess.run([{edgekd!r}, *map(smoked, arguments)])
sys.exit(0 if runs and done.returncode in (1, 3) else done.returncode)
"""


@dataclass(frozen=True)
class Installed:
    """An environment whose `edgekd` comes from the wheel; `commands` has the one that runs in smoke form."""

    python: Path
    commands: Path

    def run(self, command, folder, store, limit_s=600):
        """A command in a folder, with no trace of the repository around it."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
        path = os.pathsep.join([str(self.commands), str(self.python.parent), kept["PATH"]])
        return subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env={**kept, "PATH": path, "EDGEKD_STORE": str(store), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )


def install(folder):
    """Builds the wheel and installs it; the other packages are those of this environment."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source])
    shutil.rmtree(source)  # nothing may be found there
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv/bin/python"
    told = _run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout
    # A folder named in a .pth file has its own .pth files left alone: no editable install gets in.
    there = dict.fromkeys(p for p in sys.path if Path(p).name in ("site-packages", "dist-packages"))
    (Path(told.strip()) / "others.pth").write_text("\n".join(there) + "\n")
    _run([*pip, "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel])
    commands = folder / "commands"
    commands.mkdir()
    smoking = commands / "edgekd"
    smoking.write_text(SMOKING.format(python=python, edgekd=str(python.with_name("edgekd"))))
    smoking.chmod(0o755)
    return Installed(python, commands)


def _run(command):
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=clean, check=False)
    assert done.returncode == 0, done.stderr
    return done
