"""README and the shipped configs are true: what they name exists, what they show is accepted."""

import importlib
import json
import re
import tomllib
from pathlib import Path

import pytest

from edgekd import config
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


def test_the_commands_in_the_readme_exist(edgekd):
    helped = edgekd("--help").stdout
    named = set(re.findall(r"^\| `edgekd (\w+)", README, re.MULTILINE)) | {"recipes", "schema", "init"}
    assert len(named) >= 8
    for name in named:
        assert re.search(rf"│ {name} ", helped), name
        assert edgekd(name, "--help").returncode == 0


@pytest.mark.parametrize("name", sorted(config.available("recipe")))
def test_every_shipped_recipe_makes_a_plan(name, edgekd, request):
    text = (ROOT / f"recipes/{name}.toml").read_text()
    if "$EDGEKD_DATA" in text:
        request.getfixturevalue("data_root")
    done = edgekd("run", name, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    recipe = tomllib.loads(text)
    planned = json.loads(done.stdout)
    assert {t for row in planned for t in row["targets"]} == set(recipe["targets"])


def test_every_config_can_be_shown_with_the_meaning_of_each_field(edgekd):
    shown = edgekd("targets", "raspberry-pi-5").stdout
    assert "artifact.channel_multiple" in shown and "pruned widths are multiples" in shown
    shown = edgekd("recipes", "digits").stdout
    assert "distill.temperature" in shown and "softens both" in shown
    schema = json.loads(edgekd("schema", "target").stdout)
    assert schema["properties"]["budgets"] and schema["additionalProperties"] is False


def test_doctor_ran_the_runtimes(edgekd):
    found = {f["name"]: f for f in json.loads(edgekd("doctor", "--json").stdout)}
    assert found["runtime litert"]["ok"] and found["runtime onnxruntime"]["ok"]
    import onnxruntime

    assert onnxruntime.__version__ in found["runtime onnxruntime"]["detail"]


def test_the_smoke_run_of_the_digits_recipe_goes_through_the_whole_chain(edgekd):
    done = edgekd("run", "digits", "--set", "smoke=true", "--targets", "host")
    assert done.returncode in (0, 1, 3), done.stderr
    report = edgekd.report("runs/digits")
    assert {s["name"] for s in report["stages"]} == {"teacher", "distill", "prune", "quantize"}
    share = {c["target"]: c["status"] for c in report["verdict"]["checks"] if c["name"] == "int8_share"}
    assert share == {"host": "PASS"}
