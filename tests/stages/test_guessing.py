import numpy as np
import pytest
from scipy import stats

from edgekd.errors import UsageError
from edgekd.stages.guessing import refuse_guessing, refuse_no_order


def labels_of(counts):
    return np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize("counts", [[50, 50], [70, 20, 10], [10] * 10, [900, 100]])
def test_one_who_always_says_the_same_is_refused(counts):
    labels = labels_of(counts)
    for always in range(len(counts)):
        with pytest.raises(UsageError, match=r"^teacher: .*% right on validation, .*by chance"):
            refuse_guessing("teacher", np.full(len(labels), always), labels)


@pytest.mark.parametrize("counts", [[50, 50], [70, 20, 10], [10] * 10, [900, 100]])
def test_guesses_are_refused_as_often_as_the_level_says(counts):
    labels, draw = labels_of(counts), np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        try:
            refuse_guessing("teacher", draw.permutation(labels), labels)
        except UsageError:
            refused += 1
    assert refused >= 400 * 0.92  # at least 95%, less four standard errors


@pytest.mark.parametrize("counts", [[50, 50], [10] * 10, [99, 1], [190, 2], [3], [2, 1], [2, 2], [1, 1, 1]])
def test_a_perfect_network_is_never_refused(counts):
    refuse_guessing("teacher", labels_of(counts), labels_of(counts))


def test_one_trained_to_find_a_rare_class_is_not_refused():
    # 96% are of class 0. It names class 1 far too often and finds nearly all of them: 93% right,
    # less than always naming class 0 would be.
    labels = labels_of([480, 20])
    predicted = labels.copy()
    predicted[:34], predicted[480] = 1, 0
    assert (predicted == labels).mean() == 0.93
    refuse_guessing("teacher", predicted, labels)


def test_the_figures_in_words():
    labels = np.arange(100) % 10
    predicted = np.where(np.arange(100) < 12, labels, (labels + 1) % 10)
    assert stats.binomtest(12, 100, 0.1, alternative="greater").pvalue > 0.05
    with pytest.raises(UsageError, match=r"12\.00% right.* in 10\.00% by chance.*scale, mean, std"):
        refuse_guessing("teacher", predicted, labels)


def test_an_order_that_says_something_passes_though_it_never_says_class_1():
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.05).astype(np.int64)
    ahead = labels + rng.normal(size=400) - 10
    refuse_no_order("teacher", np.stack([np.zeros(400), ahead], axis=1), labels)


def test_an_order_by_chance_or_upside_down_is_refused():
    rng = np.random.default_rng(1)
    labels = (rng.random(400) < 0.3).astype(np.int64)
    upside_down = np.stack([labels + rng.normal(size=400), np.zeros(400)], axis=1)
    for scores in (np.zeros((400, 2)), upside_down):
        with pytest.raises(UsageError, match=r"teacher: AUC 0\.\d+ on validation, no more than by chance"):
            refuse_no_order("teacher", scores, labels)


def test_orders_of_too_few_samples_or_of_one_class_are_let_through():
    for labels in ([0, 1], [0, 0, 0], [1, 1]):
        refuse_no_order("teacher", np.zeros((len(labels), 2)), np.array(labels))
