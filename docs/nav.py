"""The order of the site: a page that is added to a folder needs no line anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

GUIDE = ("verdict", "teaching", "compressing", "devices", "report", "apps")


def on_config(config: Any) -> Any:
    """Fills mkdocs' `nav` from the folders of docs/."""
    docs = Path(config["docs_dir"])
    known = {path.stem for path in (docs / "guide").glob("*.md")}
    config["nav"] = [
        {"Start": ["index.md", "concepts.md", "projects.md"]},
        {"Guide": [f"guide/{name}.md" for name in (*GUIDE, *sorted(known.difference(GUIDE)))]},
        {"Examples": ["examples/index.md", *_pages(docs, "examples")]},
        {"Release pipelines": ["ci/README.md"]},
        "speed.md",
        {"Decisions": _pages(docs, "decisions")},
    ]
    return config


def _pages(docs: Path, folder: str) -> list[str]:
    found = sorted(path.relative_to(docs).as_posix() for path in (docs / folder).glob("*.md"))
    return [path for path in found if not path.endswith("/index.md")]
