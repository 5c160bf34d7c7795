"""Teachers that are trained here."""

from edgekd.stages.network import _views_seed


def test_a_teacher_trains_on_other_views_than_it_is_asked_about():
    """Student and cache have those of the recipe's seed; members of an ensemble each have their own."""
    seeds = {_views_seed(seed, own) for seed in (0, 1) for own in (None, 0, 1)}
    assert len(seeds) == 6 and seeds.isdisjoint({0, 1})
    assert _views_seed(1, 0) == _views_seed(1, 0)
