"""Pages of examples: the commands and files on them, and the snippets at their end.

    python docs/example_pages.py docs/examples/fashion-mnist.md --root FOLDER

writes the snippets of a page anew, from the files that its commands left under FOLDER/runs. How a page is
written: blocks of `bash` are run by a test, in their order, in one shell and in smoke form; a block with a
`title="NAME"` is a file, written where it stands; what is in blocks of `console` is not run. Each snippet
stands between `<!-- snippet: runs/NAME/artifacts/FILE LANGUAGE -->` and `<!-- end snippet -->`. Beside a page
lies what its snippets were made from, in NAME.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.runtimes import TensorInfo
from edgekd.snippets.facts import Facts, Input, facts_of
from edgekd.snippets.render import render

_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?[^\n]*\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_SNIPPET = re.compile(
    r"<!-- snippet: (runs/(\S+)/artifacts/\S+) (\w+) -->\n(.*?)<!-- end snippet -->", re.DOTALL
)
_SMOKE = "The constants are those of a smoke run; your own run has others.\n\n"


@dataclass(frozen=True)
class Block:
    """A fenced block: a file where it has a title, else commands."""

    language: str
    title: str | None
    text: str


def blocks(page: str) -> Iterator[Block]:
    """Files and commands of a page, in their order."""
    for language, title, text in _BLOCK.findall(page):
        if title or language == "bash":
            yield Block(language, title or None, text)


def snippets(page: str) -> list[tuple[str, str, str]]:
    """(artifact, language, what stands between the markers) of each."""
    return [(artifact, language, text) for artifact, _, language, text in _SNIPPET.findall(page)]


def text_of(kept: Mapping[str, Any], language: str) -> str:
    """What stands between the markers of one snippet.

    Args:
        kept: an artifact's entry in the file beside the page.
        language: of the snippet.
    """
    name = {"cpp": "C++", "kotlin": "Kotlin"}[language]
    facts = facts_from(kept["facts"])
    note = _SMOKE if kept["smoke"] else ""
    return f"\n### {name}, for `{facts.file}`\n\n{note}```{language}\n{render(facts, language)}```\n\n"


def facts_from(kept: Mapping[str, Any]) -> Facts:
    """Facts as they were before they were written down."""
    return Facts(
        **{
            **kept,
            "input": Input(**kept["input"]),
            "class_names": tuple(kept["class_names"]),
            "heads": {name: tuple(names) for name, names in kept["heads"].items()},
            **{
                which: TensorInfo(**{**kept[which], "shape": tuple(kept[which]["shape"])})
                for which in ("taken", "given")
            },
        }
    )


def kept_of(root: Path, artifact: str) -> dict[str, Any]:
    """What is kept of an artifact that a page's commands left, whole or in smoke form."""
    path, smoke = where(root, artifact)
    facts = facts_of(path)
    given = {
        **asdict(facts),
        "input": facts.input.model_dump(),
        "taken": facts.taken._asdict(),
        "given": facts.given._asdict(),
    }
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    found: dict[str, Any] = json.loads(json.dumps({"smoke": smoke, "sha256": sha256, "facts": given}))
    return found


def where(root: Path, artifact: str) -> tuple[Path, bool]:
    """An artifact's path under the folder of a run, and whether that was a smoke run."""
    whole = root / artifact
    smoked = root / re.sub(r"^runs/([^/]+)/", r"runs/\1-smoke/", artifact)
    if not whole.exists() and not smoked.exists():
        raise SystemExit(f"{whole}: no such file; run the page's commands in {root} first")
    return (whole, False) if whole.exists() else (smoked, True)


def refreshed(page: str, kept: Mapping[str, Any]) -> str:
    """A page with its snippets made anew."""

    def anew(found: re.Match[str]) -> str:
        head = found[0].split("\n", 1)[0]
        return f"{head}\n{text_of(kept[found[1]], found[3])}<!-- end snippet -->"

    return _SNIPPET.sub(anew, page)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--root", type=Path, default=Path(), help="where the page's commands were run")
    given = parser.parse_args()
    page = given.page.read_text(encoding="utf-8")
    kept = {artifact: kept_of(given.root, artifact) for artifact, _, _ in snippets(page)}
    if not kept:
        raise SystemExit(f"{given.page}: no snippet is marked")
    beside = given.page.with_suffix(".json")
    beside.write_text(json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    given.page.write_text(refreshed(page, kept), encoding="utf-8")


if __name__ == "__main__":
    main()
