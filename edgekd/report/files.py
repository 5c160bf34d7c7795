"""Writing a report's three files."""

from __future__ import annotations

from pathlib import Path

from edgekd.report.html import html
from edgekd.report.markdown import markdown
from edgekd.report.schema import Report, dumps
from edgekd.store import write_atomic

REPORTS = ("report.json", "report.md", "report.html")


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
        write_atomic(folder / name, texts[name])
