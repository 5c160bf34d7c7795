"""Goals that are counted, at once and in rounds."""

import json
import tomllib

import numpy as np
import pytest
from runs import TINY
from safetensors.torch import load_file

import edgekd
from edgekd.config import PruneConfig
from edgekd.errors import UsageError
from edgekd.prune import structured
from edgekd.stages import distill
from edgekd.stages import prune as stage

WHOLE = 64 * 32 + 32 * 32 + 32 * 10  # multiply-accumulates of TINY's student


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The student is made once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def pruned(store, tmp_path):
    def until_pruned(store=store, **changes):
        recipe = tomllib.loads(TINY) | {"targets": ["x86-onnx"]}
        recipe["prune"] = {"goal": "macs", "epochs": 3, "batch_size": 16, **changes}
        before = set(store.glob("prune-*"))
        edgekd.compress(recipe, until="prune", store=store, workdir=tmp_path / "work")
        (made,) = set(store.glob("prune-*")) - before
        return made, json.loads((made / "result.json").read_text())["result"]

    return until_pruned


@pytest.mark.parametrize("goal", [{"keep": 1.0}, {"limit": WHOLE}, {"limit": 1e9}])
def test_a_goal_that_is_met_already(pruned, goal):
    with pytest.raises(UsageError, match=r"macs is not below the student's own 3,392"):
        pruned(**goal)


def test_each_round_takes_the_same_share_of_what_is_left(pruned, tmp_path):
    _, found = pruned(keep=0.5, rounds=3)
    costs = [r["cost"] for r in found["rounds"]]
    limits = [WHOLE * 0.5 ** (i / 3) for i in (1, 2)] + [WHOLE // 2]
    # Widths are multiples of 8: a round may go further, but one step of 8 channels wider is too wide.
    widest = 8 * (64 + 32 + 10)
    for cost, limit in zip(costs, limits, strict=True):
        assert limit - widest < cost <= limit
    assert costs == sorted(costs, reverse=True) and found["macs"] == costs[-1]
    assert [epoch["epoch"] for epoch in found["history"]] == [1, 2, 3]
    rows = (tmp_path / "work/logs/prune-8.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3"]


def test_rounds_are_of_one_training(pruned, monkeypatch):
    """Equal factors; what may go is a share of the first widths; order and views go on; no longer warm-up."""
    asked, trained, cut, fit = [], [], structured.prune, distill.fit

    def cuts(*arguments, **named):
        asked.append((named["limit"], named["first"]))
        return cut(*arguments, **named)

    def fits(module, data, objective, config, **named):
        trained.append((data.epochs_before, config.epochs, config.warmup_epochs))
        return fit(module, data, objective, config, **named)

    monkeypatch.setattr(structured, "prune", cuts)
    monkeypatch.setattr(distill, "fit", fits)
    pruned(keep=0.49, rounds=2)
    whole = {"body.0": 32, "body.2": 32, "head": 10}
    limits = int(0.49 * WHOLE), int(0.7 * WHOLE)  # 0.7 times 0.7
    assert asked == [(limits[0], None), (limits[1], whole), (limits[0], whole)]
    assert trained == [(0, 1, 0.0), (1, 2, 0.0)]
    config = PruneConfig(goal="macs", keep=0.5, epochs=5, rounds=2, warmup_epochs=1.0)
    shares = [stage._share(config, turn) for turn in (1, 2)]
    assert [(c.epochs, c.warmup_epochs) for c in shares] == [(2, 0.4), (3, pytest.approx(0.6))]


def test_a_run_that_was_killed_between_rounds_goes_on(pruned, tmp_path, monkeypatch):
    settings = {"keep": 0.5, "rounds": 2}
    undisturbed, expected = pruned(**settings)
    other, learn, calls = tmp_path / "other", stage.learn, []

    def dies(*arguments, **named):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return learn(*arguments, **named)

    monkeypatch.setattr(stage, "learn", dies)
    with pytest.raises(KeyboardInterrupt):
        pruned(other, **settings)
    monkeypatch.undo()
    again, found = pruned(other, **settings)
    assert found == expected
    weights = [load_file(folder / "model.safetensors") for folder in (undisturbed, again)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][name])


def test_what_cannot_be_is_told_before_the_first_round_trains(pruned, monkeypatch):
    monkeypatch.setattr(stage, "learn", None)
    with pytest.raises(UsageError, match="out of reach: the smallest network has"):
        pruned(keep=0.05, rounds=3)


def test_more_rounds_than_epochs_are_refused(pruned):
    with pytest.raises(UsageError, match=r"prune.rounds = 5 are more than prune.epochs = 3"):
        pruned(keep=0.5, rounds=5)


def test_channels_are_made_small_before_they_are_cut(pruned):
    """An epoch of it beside those of the recovery, which has no penalty."""
    sizes = {}
    for strength in (1e-6, 5.0):
        made, found = pruned(keep=0.5, lr=0.01, sparse={"epochs": 1, "strength": strength})
        assert [epoch["epoch"] for epoch in found["history"]] == [1, 2, 3, 4]
        first, *later = (
            epoch["loss"] - 0.1 * epoch["cross_entropy"] - 0.9 * epoch["kd"] for epoch in found["history"]
        )
        assert first > (0.5 if strength > 1e-3 else 0.0) and max(map(abs, later)) < 1e-4
        weights = load_file(made / "model.safetensors")
        sizes[strength] = sum(float(w.norm()) for name, w in weights.items() if name.endswith("weight"))
    assert sizes[5.0] < 0.9 * sizes[1e-6]


def test_a_goal_out_of_reach_is_told_before_channels_are_made_small(pruned, monkeypatch):
    pruned(keep=0.6, epochs=1)  # so that there is a student
    monkeypatch.setattr(distill, "fit", lambda *_, **named: pytest.fail("trained"))
    with pytest.raises(UsageError, match="is out of reach"):
        pruned(limit=10, sparse={"epochs": 1})
