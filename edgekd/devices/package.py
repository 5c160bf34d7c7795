"""The agent as one file: what a board needs besides Python, numpy and a runtime."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import edgekd

_ROOT = Path(edgekd.__file__).parent
# All of it the standard library and numpy, nothing newer than Python 3.10.
FILES = (
    "errors.py",
    "devices/agent.py",
    "devices/conditions.py",
    "devices/machine.py",
    "devices/turns.py",
    *sorted(f"runtimes/{path.name}" for path in (_ROOT / "runtimes").glob("*.py")),
)
_EMPTY = ("__init__.py", "devices/__init__.py")
_MAIN = "from edgekd.devices.agent import run\n\nrun()\n"


def archive() -> bytes:
    """A zip that Python runs: `python3 agent.pyz JOB.json`; the same bytes every time."""
    contents = {f"edgekd/{name}": (_ROOT / name).read_bytes() for name in FILES}
    contents |= {f"edgekd/{name}": b"" for name in _EMPTY}
    contents["__main__.py"] = _MAIN.encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as found:
        for name in sorted(contents):
            found.writestr(zipfile.ZipInfo(name), contents[name])  # dated 1980, as every time
    return file.getvalue()
