"""Writing a report's three files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from edgekd.errors import StoreError
from edgekd.report.html import html
from edgekd.report.markdown import markdown
from edgekd.report.schema import Report, dumps


def write(report: Report, folder: Path) -> None:
    """Writes report.json, report.md and report.html to the folder, each whole or not at all.

    All three are made before the first is written, and report.json comes last: where it is
    new, the others are too.

    Raises:
        StoreError: where a file cannot be written.
        UsageError: where a value is NaN or infinite.
    """
    texts = {"report.json": dumps(report), "report.md": markdown(report), "report.html": html(report)}
    for name in ("report.html", "report.md", "report.json"):
        _write(folder / name, texts[name])


def _write(path: Path, text: str) -> None:
    """To a temporary name, synced, renamed; nothing is left behind where it fails."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
