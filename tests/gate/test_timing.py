from dataclasses import replace

import numpy as np
import pytest
from timed_runs import measured

from edgekd.gate import judge_int8_beats_float, judge_latency, judge_latency_ratio
from edgekd.gate.timing import noisy, quantile_interval, unsteady
from edgekd.measurements import Conditions, conditions_text
from edgekd.types import Status

QUIET = Conditions((0, 1), 0.0, 0, (), (2_400_000, 2_400_000), (50.0, 55.0))


def under(**changes):
    return measured(conditions=(QUIET, replace(QUIET, **changes), QUIET, QUIET))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"throttled_ms": 1234.4}, "a CPU quota of its cgroup held it for 1,234 ms"),
        ({"hot_events": 3}, "slowed itself for heat 3 times"),
        ({"firmware": ("undervoltage",)}, "firmware told of undervoltage"),
        ({"clock_khz": (2_400_000, 1_500_000)}, "its clock fell from 2,400 to 1,500 MHz"),
    ],
)
def test_a_device_that_was_throttled_decides_nothing(changes, words):
    found = under(**changes)
    assert words in unsteady(found)
    for limit in (0.5, 5.0):  # neither a pass nor a failure
        check = judge_latency(found, limit, "edge")
        assert check.status is Status.INCONCLUSIVE and words in check.detail
    twice = measured(2 * measured().latency_ms, conditions=measured().conditions)
    for pair in ((found, twice), (measured(), replace(twice, conditions=found.conditions))):
        check = judge_int8_beats_float(*pair, "edge")
        assert check.status is Status.INCONCLUSIVE and words in check.detail


def test_what_the_kernel_does_not_tell_is_no_obstacle():
    nothing = Conditions((0,), None, None, (), None, None)
    for conditions in ((), (QUIET,) * 4, (nothing,) * 4, (replace(QUIET, clock_khz=(1000, 901)),) * 4):
        assert judge_latency(measured(conditions=conditions), 5.0, "edge").status is Status.PASS


def test_a_95th_percentile_far_above_the_median_decides_nothing():
    runs = np.ones(200)
    runs[np.arange(200) % 20 == 7] = 1.5  # one in twenty
    runs[:2] = 1.6
    even = measured(runs)
    assert noisy(even) == "" and judge_latency(even, 5.0, "t").status is Status.PASS
    runs = np.where(np.arange(200) % 10 == 7, 1.52, 1.0)
    check = judge_latency(measured(runs), 5.0, "t")
    assert check.status is Status.INCONCLUSIVE
    assert "noisy: the 95th percentile is 1.52 times the median, more than 1.5" in check.detail


def test_files_timed_in_turns_are_compared_in_spite_of_noise():
    runs = np.where(np.arange(200) % 10 == 7, 3.0, 1.0)
    assert judge_int8_beats_float(measured(runs), measured(2 * runs), "t").status is Status.PASS


def test_the_interval_of_a_quantile_holds_it():
    found = measured(1 + np.random.default_rng(3).random(400))
    low, high = quantile_interval(found, 0.5)
    assert 1.3 < low < found.median_ms < high < 1.7


def test_other_cores_or_another_gpu_are_another_setting():
    found = measured(conditions=(QUIET,) * 4)
    others = replace(found, conditions=(replace(QUIET, cores=(7,)),) * 4), replace(found, gpu="another")
    assert judge_latency_ratio(found, found, 1.2, "t")[0].status is Status.PASS
    for other in others:
        check = judge_latency_ratio(found, other, 1.2, "t")[0]
        assert check.status is Status.INCONCLUSIVE and "not comparable" in check.detail


def test_conditions_in_words():
    nothing = Conditions((3,), None, None, (), None, None)
    assert conditions_text(()) == "" and conditions_text((nothing,)) == "core 3"
    fell = replace(QUIET, clock_khz=(2_400_000, 1_500_000), temperature_c=(61.4, 80.0), hot_events=2)
    told = conditions_text((QUIET, replace(fell, throttled_ms=12.3, firmware=("throttled",)), QUIET))
    assert told == (
        "cores 0, 1; held by quotas for 12 ms; slowed for heat 2 times; throttled; 50 to 80 °C; "
        "2,400 to 1,500 MHz"
    )
