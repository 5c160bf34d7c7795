"""Each page of docs/examples: its commands run in smoke form from a wheel; its snippets are its files'."""

import copy
import json
import re
import shlex
from pathlib import Path

import pytest
from given import GIVEN

from docs import example_pages
from edgekd.report.schema import parse

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for p in (ROOT / "docs/examples").glob("*.md") if p.stem != "index")


def kept_beside(page):
    return json.loads(page.with_suffix(".json").read_text())


def report_of(artifact):
    """The committed report of the run that an artifact's path names, and the artifact's record in it."""
    name, file = artifact.split("/")[1], artifact.split("/", 2)[2]
    path = ROOT / "reports" / name / "report.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    (record,) = [a for a in found["artifacts"] if a["files"][0]["path"] == file]
    return found, record


def without_what_data_decides(facts):
    """Facts without the numbers that come from the samples: how many there are stays."""
    found = copy.deepcopy(facts)
    for key in ("mean", "std"):
        found["input"][key] = len(found["input"][key])
    for which in ("taken", "given"):
        found[which]["scale"] = bool(found[which]["scale"])
        del found[which]["zero_point"]
    return found


def test_every_page_is_listed():
    index = (ROOT / "docs/examples/index.md").read_text()
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", index)) == {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_snippets_are_what_the_command_makes_of_what_is_kept(page):
    text, kept = page.read_text(), kept_beside(page)
    found = example_pages.snippets(text)
    assert {language for _, language, _ in found} == {"kotlin", "cpp"}
    assert {artifact for artifact, _, _ in found} == kept.keys()
    for artifact, language, shown in found:
        assert shown == example_pages.text_of(kept[artifact], language)
        assert ("those of a smoke run" in shown) == kept[artifact]["smoke"]
    assert text.rstrip().endswith("<!-- end snippet -->")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_what_is_kept_is_of_the_committed_report(page):
    for artifact, kept in kept_beside(page).items():
        if (committed := report_of(artifact)) is None:
            assert kept["smoke"] or page.stem in GIVEN, f"reports/ has no report of {artifact}"
            continue
        report, record = committed
        facts = kept["facts"]
        assert tuple(facts["class_names"]) == tuple(report["class_names"])
        if kept["smoke"]:
            continue
        assert kept["sha256"] == record["files"][0]["sha256"]
        spec = record["input_spec"]
        assert facts["input"] == {key: spec[key] for key in facts["input"]}
        assert facts["scheme"] == record["scheme"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_commands_run_and_make_the_files_of_the_snippets(page, installed, tmp_path, request):
    text = page.read_text()
    if "EDGEKD_DATA" in text:
        request.getfixturevalue("data_root")
    if "EDGEKD_MINILM" in text:
        request.getfixturevalue("minilm")
    folder = tmp_path / "folder"
    folder.mkdir()
    if page.stem in GIVEN:
        GIVEN[page.stem](folder)
    script = [f"cd {shlex.quote(str(folder))}"]
    for number, block in enumerate(example_pages.blocks(text)):
        if block.title:
            written = tmp_path / f"block-{number}"
            written.write_text(block.text)
            script.append(f"cp {shlex.quote(str(written))} {shlex.quote(block.title)}")
        else:
            script.append(block.text)
    assert any(re.search(r"^edgekd run \S", part, re.MULTILINE) for part in script)
    (tmp_path / "page.sh").write_text(
        "\n".join([*script, f"pwd > {shlex.quote(str(tmp_path / 'ended'))}", ""])
    )
    done = installed.run(["bash", "-euo", "pipefail", tmp_path / "page.sh"], folder, tmp_path / "store")
    assert done.returncode == 0, done.stdout + done.stderr
    ended = Path((tmp_path / "ended").read_text().strip())
    for artifact, kept in kept_beside(page).items():
        now = example_pages.kept_of(ended, artifact)
        assert now["smoke"]
        assert without_what_data_decides(now["facts"]) == without_what_data_decides(kept["facts"])
    for path in ended.glob("runs/*/report.json"):
        report = parse(path)
        assert report.recipe.config["smoke"] and report.verdict.status in ("PASS", "FAIL", "INCONCLUSIVE")
        assert report.recipe.config["gate"]["metric"] in {check.name for check in report.verdict.checks}
        # The targets that the verdict covers have files, judged in their own runtime.
        files = {a.target for a in report.artifacts if a.role == "target" and a.metrics}
        assert files >= set(report.recipe.config["required_targets"])
