"""Teachers that are trained here."""

import tomllib

from runs import TINY

import edgekd
from edgekd.stages import network
from edgekd.stages.network import _views_seed


def test_a_teacher_trains_on_other_views_than_it_is_asked_about():
    """Student and cache have those of the recipe's seed; members of an ensemble each have their own."""
    seeds = {_views_seed(seed, own) for seed in (0, 1) for own in (None, 0, 1)}
    assert len(seeds) == 6 and seeds.isdisjoint({0, 1})
    assert _views_seed(1, 0) == _views_seed(1, 0)


def test_those_views_are_what_it_is_trained_on(tmp_path, monkeypatch):
    from edgekd.batches import TrainingSet

    seen = []

    def keep(*arguments, **named):
        seen.append(arguments[4])
        return TrainingSet(*arguments, **named)

    monkeypatch.setattr(network, "TrainingSet", keep)
    recipe = tomllib.loads(TINY)
    recipe["teacher"]["train"]["seed"] = 7
    edgekd.compress(recipe, until="teacher", store=tmp_path / "store", workdir=tmp_path / "work")
    assert seen == [_views_seed(0, 7)]
