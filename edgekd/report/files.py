"""Writing a report's four files."""

from __future__ import annotations

from pathlib import Path

from edgekd.report.html import html
from edgekd.report.junit import junit
from edgekd.report.markdown import markdown
from edgekd.report.schema import Report, dumps
from edgekd.store import write_atomic

REPORTS = ("report.json", "report.md", "report.html", "report.junit.xml")


def write(report: Report, folder: Path) -> None:
    """Writes report.json, .md, .html and .junit.xml to the folder, each whole or not at all.

    All are made before the first is written, and report.json comes last: where it is
    new, the others are too.

    Raises:
        StoreError: where a file cannot be written.
        UsageError: where a value is NaN or infinite.
    """
    for name, text in texts(report).items():
        write_atomic(folder / name, text)


def texts(report: Report) -> dict[str, str]:
    """File -> content, report.json last.

    Raises:
        UsageError: where a value is NaN or infinite.
    """
    return {
        "report.html": html(report),
        "report.md": markdown(report),
        "report.junit.xml": junit(report),
        "report.json": dumps(report),
    }
