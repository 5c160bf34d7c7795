import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgekd.report.axes import axis
from edgekd.report.scatter import front


def read(label):
    return float(label.replace(",", "").replace("−", "-"))


@pytest.mark.parametrize(
    ("values", "most", "labels"),
    [
        # By hand: 6 % of the span free at each end, the smallest of 1, 2, 2.5 and 5 that gives no more ticks.
        ([0, 10], 6, ["0", "2", "4", "6", "8", "10"]),
        ([-1, 1], 5, ["−1.0", "−0.5", "0.0", "0.5", "1.0"]),
        ([94.1, 94.9], 4, ["94.25", "94.50", "94.75"]),
        ([1000, 3000], 3, ["1,000", "2,000", "3,000"]),
        ([5, 5], 6, ["4.7", "4.8", "4.9", "5.0", "5.1", "5.2", "5.3"]),
    ],
)
def test_ticks_are_round(values, most, labels):
    found = axis(values, most=most)
    shown = [tick.label for tick in found.ticks]
    assert not found.log
    assert shown == labels


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.02, 0.7], ["0.02", "0.05", "0.1", "0.2", "0.5"]),
        ([200, 11_000], ["200", "500", "1,000", "2,000", "5,000", "10,000"]),
        ([196, 44_731], ["300", "1,000", "3,000", "10,000", "30,000"]),
        ([0.001, 1000], ["0.001", "0.1", "10", "1,000"]),
    ],
)
def test_widely_spread_values_go_by_factors(values, labels):
    found = axis(values, most=6, may_log=True)
    assert found.log and [tick.label for tick in found.ticks] == labels
    # Equal factors are equally long.
    low, high = values
    middle = math.sqrt(low * high)
    assert found.at(middle) - found.at(low) == pytest.approx(found.at(high) - found.at(middle), abs=0.01)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.integers(3, 8))
def test_every_value_lies_on_the_axis_and_every_label_says_its_place(values, most):
    assume(max(values) - min(values) > 1e-3 or (max(values) == min(values) and abs(values[0]) > 1e-3))
    found = axis(values, most=most, may_log=True)
    assert all(0 <= found.at(v) <= 100 for v in values)
    assert found.ticks and len(found.ticks) <= most + 1
    for tick in found.ticks:
        assert tick.at == pytest.approx(found.at(read(tick.label)), abs=0.5)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12), st.booleans())
def test_the_front_holds_one_of_each_that_nothing_beats(points, higher):
    costs, values = [float(c) for c, _ in points], [float(v) for _, v in points]
    better = (lambda a, b: a >= b) if higher else (lambda a, b: a <= b)
    unbeaten = {p for p in points if not any(q != p and q[0] <= p[0] and better(q[1], p[1]) for q in points)}
    found = [points[i] for i in front(costs, values, higher)]
    assert set(found) == unbeaten and len(found) == len(unbeaten)
    assert found == sorted(found)
