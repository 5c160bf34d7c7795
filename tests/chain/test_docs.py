"""README and the shipped configs are true: what they name exists, what they show is accepted."""

import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from edgekd import config
from edgekd.cli import app
from edgekd.report.schema import parse
from edgekd.tasks import READERS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_recipe_in_the_readme_is_a_recipe():
    block = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    recipe = config.build(config.Recipe, tomllib.loads(block[1]), "README.md")
    reader = importlib.import_module(READERS[recipe.task.kind])
    config.build(reader.Options, recipe.task.options, "README.md")
    for name in recipe.targets:
        config.load_target(name)


def test_the_commands_in_the_readme_exist():
    command = typer.main.get_command(app)
    named = set(re.findall(r"^\| `edgekd (\w+)", README, re.MULTILINE)) | {"recipes", "schema", "init"}
    assert len(named) >= 8
    assert named <= set(command.commands)


def test_the_options_in_the_readme_and_the_guide_exist():
    pages = [
        README,
        *(p.read_text() for f in ("guide", "examples") for p in (ROOT / "docs" / f).glob("*.md")),
    ]
    told = "\n".join(pages).replace("--nproc-per-node", "")
    lines = [line for line in told.splitlines() if "edgekd " in line]
    named = {option for line in lines for option in re.findall(r"(?<![\w-])--[\w-]+", line)}
    assert named >= {"--set", "--dry-run", "--targets", "--max-drop"}
    top = typer.main.get_command(app).commands.values()
    commands = [*top, *(below for c in top for below in getattr(c, "commands", {}).values())]
    assert named <= {"--help"} | {option for c in commands for p in c.params for option in p.opts}


@pytest.mark.parametrize("name", sorted(config.available("recipe")))
def test_every_shipped_recipe_makes_a_plan(name, edgekd, request):
    text = (ROOT / f"recipes/{name}.toml").read_text()
    if "$EDGEKD_DATA" in text:
        request.getfixturevalue("data_root")
    if "$EDGEKD_MINILM" in text:
        request.getfixturevalue("minilm")
    if (checkpoint := re.search(r'^checkpoint = "(.*?)"', text, re.MULTILINE)) is not None:
        edgekd.folder.joinpath(checkpoint[1]).write_bytes(b"made by the example's script")
    if name == "two-features":  # its data and Keras files are made beforehand
        script = ROOT / "examples/two_features/make_models.py"
        subprocess.run([sys.executable, script], cwd=edgekd.folder, check=True, capture_output=True)
    done = edgekd("run", name, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    recipe = tomllib.loads(text)
    planned = json.loads(done.stdout)
    assert {t for row in planned for t in row["targets"]} == set(recipe["targets"])


def test_every_config_can_be_shown_with_the_meaning_of_each_field(edgekd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    shown = edgekd("targets", "raspberry-pi-5").stdout
    assert "artifact.channel_multiple" in shown and "pruned widths are multiples" in shown
    shown = edgekd("recipes", "digits").stdout
    assert "distill.losses.1.temperature" in shown and "an option of this kd" in shown
    assert "distill.losses.0.weight" in shown and "schedule" in shown
    schema = json.loads(edgekd("schema", "target").stdout)
    assert schema["properties"]["budgets"] and schema["additionalProperties"] is False
    photos = json.loads(edgekd.light("schema", "image_folder").stdout)["properties"]
    assert {"train", "val_fraction", "size"} <= set(photos) and photos["size"]["description"]


def test_doctor_ran_the_runtimes(edgekd):
    found = {f["name"]: f for f in json.loads(edgekd("doctor", "--json").stdout)}
    assert found["runtime litert"]["ok"] and found["runtime onnxruntime"]["ok"]
    import onnxruntime

    assert onnxruntime.__version__ in found["runtime onnxruntime"]["detail"]


REPORTS = sorted((ROOT / "reports").glob("*/report.json"))


def test_the_wheel_holds_every_package():
    found = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    tree = {str(p.parent).replace("/", ".") for p in Path("edgekd").rglob("*.py")}
    assert {name for name in found if not name.startswith("edgekd.data.")} == tree | {"edgekd.starter_files"}


def test_there_are_reports():
    assert REPORTS


@pytest.mark.parametrize("path", REPORTS, ids=lambda p: p.parent.name)
def test_a_committed_report_is_one_of_a_release_that_passed(path):
    report = parse(path)
    assert report.verdict.status == "PASS" and report.verdict.exit_code == 0
    assert all((path.parent / name).stat().st_size > 1000 for name in ("report.md", "report.html"))
    assert max(p.stat().st_size for p in path.parent.rglob("*") if p.is_file()) < 1_000_000
    text = "".join(p.read_text() for p in path.parent.glob("report.*"))
    assert not re.search(r"/(work|root|home|tmp)/", text)
