"""`edgekd init`: a project of the user's own that runs as it stands and is meant to be changed."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from edgekd.errors import UsageError

FILES = ("recipe.toml", "my_project.py", "README.md")


def create(folder: Path) -> list[Path]:
    """Writes the starter files into a new or empty folder; returns their paths.

    Raises:
        UsageError: the folder holds something already, or cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists and is not an empty folder", hint="choose another name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made: {error.strerror}") from error
    templates = resources.files("edgekd") / "starter_files"
    made = []
    for name in FILES:
        path = folder / name
        # Stored with a further suffix, so that no tool takes the templates for code of the package.
        path.write_text((templates / f"{name}.txt").read_text(encoding="utf-8"), encoding="utf-8")
        made.append(path)
    return made
