"""Outside of the repository everything comes from the wheel: the package, targets, recipes, templates."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOOK = """
import importlib, json, sys
from importlib import resources
from edgekd import config
found = {kind: sorted(config.available(kind)) for kind in ("target", "recipe", "calibration")}
names = ("edgekd", "edgekd.cli", "edgekd.snippets.render", "edgekd.stages.export")
files = [importlib.import_module(name).__file__ for name in names]
files += [str(resources.files("edgekd") / "starter_files" / "recipe.toml.txt")]
files += [str(resources.files("edgekd.snippets") / "templates" / "cpp.jinja")]
print(json.dumps({"found": found, "files": files, "path": sys.path}))
"""


def test_all_of_it_comes_from_the_wheel(installed, tmp_path):
    done = installed.run([installed.python, "-c", LOOK], tmp_path, tmp_path / "store")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    environment = installed.python.parents[1]
    assert all(Path(file).is_relative_to(environment) and Path(file).is_file() for file in seen["files"])
    assert not any(
        Path(entry).is_relative_to(ROOT) for entry in seen["path"] if entry and "venv" not in entry
    )
    shipped = {"target": "targets", "recipe": "recipes", "calibration": "calibration"}
    for kind, folder in shipped.items():
        assert seen["found"][kind] == sorted(path.stem for path in (ROOT / folder).glob("*.toml"))


def test_the_template_and_a_target_by_the_command(installed, tmp_path):
    store = tmp_path / "store"
    assert installed.run(["edgekd", "init", "project"], tmp_path, store).returncode == 0
    for name in ("recipe.toml", "my_project.py", "README.md"):
        wanted = ROOT / "edgekd/starter_files" / f"{name}.txt"
        assert (tmp_path / "project" / name).read_text() == wanted.read_text()
    shown = installed.run(["edgekd", "targets", "raspberry-pi-5"], tmp_path, store)
    assert shown.returncode == 0 and "raspberry-pi-5" in shown.stdout
