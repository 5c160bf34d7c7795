"""The example of two features: its data, its page, its benchmark, and the chain in a reduced form."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from sklearn.datasets import make_classification, make_moons

import edgekd

ROOT = Path(__file__).parents[2]
RECIPE = tomllib.loads((ROOT / "recipes/two-features.toml").read_text())


def module_of(path, name):
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    return module_of("examples/two_features/make_models.py", "make_models")


def test_the_page_shows_the_script():
    page = (ROOT / "docs/examples/two-features.md").read_text()
    (shown,) = re.findall(r'```python title="make_models.py"\n(.*?)```', page, re.DOTALL)
    assert shown == (ROOT / "examples/two_features/make_models.py").read_text()


def test_the_data_are_scikit_learns_in_turn(made):
    arrays = made.draw("make_moons", 5)
    x, y = make_moons(22_000, noise=0.3, random_state=5)
    assert {k: v.shape for k, v in arrays.items() if k.endswith("x")} == {
        "train_x": (1000, 2),
        "val_x": (1000, 2),
        "test_x": (20_000, 2),
    }
    np.testing.assert_array_equal(arrays["train_x"], x[:1000].astype(np.float32))
    np.testing.assert_array_equal(arrays["test_x"], x[2000:].astype(np.float32))
    np.testing.assert_array_equal(arrays["test_y"], y[2000:])
    x, y = make_classification(22_000, n_features=2, n_redundant=0, random_state=5)
    other = made.draw("make_classification", 5)
    np.testing.assert_array_equal(other["val_x"], x[1000:2000].astype(np.float32))
    np.testing.assert_array_equal(other["val_y"], y[1000:2000])
    with pytest.raises(SystemExit, match="neither make_moons nor make_classification"):
        made.draw("moons", 0)


def test_a_reduced_chain(made, monkeypatch, tmp_path):
    """Fewer samples: what comes out is small, in integers, and about as good."""
    monkeypatch.setattr(made, "SAMPLES", {"train": 600, "val": 100, "test": 2_000})
    made.make("make_moons", 1, tmp_path)
    recipe = json.loads(json.dumps(RECIPE))
    recipe["targets"] = ["host"]
    recipe["task"]["path"] = str(tmp_path / "two-features.npz")
    recipe["teacher"]["file"] = str(tmp_path / "teacher.keras")
    recipe["student"]["model"]["file"] = str(tmp_path / "student.keras")
    store = tmp_path / "store"
    report = edgekd.compress(recipe, workdir=tmp_path / "work", store=store)
    params = {stage.name: stage.params for stage in report.stages}
    # 2 x 100 with biases; 10 neurons; 8 of them.
    assert params["teacher"] == 2 * 100 + 100 + 100 * 100 + 100 + 100 * 2 + 2
    assert params["distill"] == 2 * 10 + 10 + 10 * 2 + 2
    assert params["prune"] == params["quantize"] == 2 * 8 + 8 + 8 * 2 + 2
    (pruned,) = store.glob("prune-*/model.safetensors")
    assert sorted(tuple(v.shape) for v in load_file(pruned).values()) == [(2,), (2, 8), (8,), (8, 2)]
    (file,) = [a for a in report.artifacts if a.role == "target"]
    assert file.inventory.int8_ops == 2 and file.inventory.float_ops == 0
    # Two moons with noise 0.3: nothing does better than 91.5%, a line 85%.
    assert 88 < report.teacher.metrics[0].value < 92.5
    assert file.metrics[0].drop < 2.0


def test_the_benchmark_tells_means_and_drops():
    benchmark = module_of("benchmarks/two_features.py", "two_features")
    runs = [
        {"data": name, "seed": seed, "accuracy": dict(zip(benchmark.STEPS, values, strict=True))}
        for name, seed, values in (
            ("make_moons", 0, (91.0, 91.0, 90.0, 90.5, 90.8)),
            ("make_moons", 1, (93.0, 92.0, 92.0, 92.5, 92.6)),
            ("make_classification", 0, (80.0, 80.5, 80.0, 80.0, 80.3)),
            ("make_classification", 1, (90.0, 89.0, 89.0, 89.0, 89.5)),
        )
    ]
    found = benchmark.summary(runs)
    # Drops: 0.2, 0.4, -0.3, 0.5.
    assert {name: row["drop_pp"] for name, row in found["rows"].items()} == {
        "make_moons": 0.3,
        "make_classification": 0.1,
        "both": 0.2,
    }
    assert found["drop_pp"] == 0.2 and found["rows"]["both"]["largest_pp"] == 0.5
    assert found["rows"]["make_moons"]["drop_std_pp"] == pytest.approx(0.1 * 2**0.5, abs=1e-3)
    assert found["rows"]["both"]["accuracy"]["int8 file"] == 88.3
    assert "| make_moons | 2 | 92.00 | 91.50 | 91.00 | 91.50 | 91.70 | +0.30 |" in benchmark.show(found)
