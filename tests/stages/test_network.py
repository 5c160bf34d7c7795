import numpy as np
import pytest
from scipy import stats

from edgekd.errors import UsageError
from edgekd.stages.network import refuse_guessing


@pytest.mark.parametrize("counts", [[50, 50], [70, 20, 10], [10] * 10])
def test_a_network_that_guesses_is_refused(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    n, most = len(labels), max(counts)
    for right in range(n + 1):
        p = stats.binomtest(right, n, most / n, alternative="greater").pvalue
        accuracy = 100 * right / n
        if p > 0.05:
            with pytest.raises(
                UsageError, match=r"^teacher: .*% right on validation, .*commonest class gives"
            ):
                refuse_guessing("teacher", accuracy, labels)
        else:
            refuse_guessing("teacher", accuracy, labels)


def test_the_refusal_names_both_figures():
    with pytest.raises(UsageError, match=r"12\.00% right.* gives 10\.00%.*scale, mean, std"):
        refuse_guessing("teacher", 12.0, np.arange(100) % 10)
