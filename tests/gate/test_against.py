"""Files beside those of a baseline report: bytes, median, p90, and the teacher's answers."""

from dataclasses import replace

import numpy as np
import pytest

from edgekd import gate
from edgekd.errors import DataError, UsageError
from edgekd.gate.against import ratio_interval
from edgekd.measurements import Measurement, Protocol
from edgekd.types import Predictions


def measured(latency_ms, **changes):
    values = np.asarray(latency_ms, np.float64)
    base = Measurement(
        artifact_id="a",
        device="board-7",
        runtime="litert",
        runtime_version="2.3",
        delegate="xnnpack",
        kind="measured",
        protocol=Protocol(10, 100, 1.0, 4, 1),
        latency_ms=values,
        process=np.arange(len(values)) % 4,
        first_ms=(3.0,),
        init_ms=(9.0,),
        peak_memory_bytes=5_000_000,
    )
    return replace(base, **changes)


BEFORE = 2 + 0.04 * np.random.default_rng(4).random(400)


@pytest.mark.parametrize(("limit", "status"), [(1.4, "PASS"), (1.3, "INCONCLUSIVE"), (1.2, "FAIL")])
def test_a_file_that_takes_1_3_times_as_long(limit, status):
    checks = gate.judge_latency_ratio(measured(1.3 * BEFORE), measured(BEFORE), limit, "host")
    assert [c.name for c in checks] == ["latency_ratio_median", "latency_ratio_p90"]
    assert {c.status for c in checks} == {status}
    assert [c.observed for c in checks] == pytest.approx([1.3, 1.3])


def test_a_longer_tail_is_seen_in_the_p90_alone():
    slow = np.where(np.arange(400) % 20 < 4, 2 * BEFORE, BEFORE)  # a fifth of the runs, in every process
    median, p90 = gate.judge_latency_ratio(measured(slow), measured(BEFORE), 1.2, "host")
    assert (median.status, p90.status) == ("PASS", "FAIL")
    assert p90.observed == pytest.approx(np.quantile(slow, 0.9) / np.quantile(BEFORE, 0.9))


@pytest.mark.parametrize(
    ("new", "old", "said"),
    [
        (None, measured(BEFORE), "this report: not measured"),
        (measured(BEFORE), None, "the baseline report: not measured"),
        (measured(BEFORE, kind="host"), measured(BEFORE, kind="host"), "kind host"),
        (measured(BEFORE), measured(BEFORE, device="board-8"), "here on board-7, .*report on board-8"),
        (measured(BEFORE), measured(BEFORE, runtime_version="2.2"), "litert 2.2"),
        (measured(BEFORE), measured(BEFORE, protocol=Protocol(10, 100, 1.0, 4, 2)), "2 threads"),
        (measured(BEFORE[:60]), measured(BEFORE), "only 60 timed runs"),
        (measured(BEFORE * (1 + np.arange(400) % 4)), measured(BEFORE), "unstable: medians"),
        (measured([np.nan] * 400), measured(BEFORE), "not finite"),
    ],
)
def test_what_cannot_be_compared_is_undecided(new, old, said):
    import re

    for check in gate.judge_latency_ratio(new, old, 100.0, "host"):
        assert check.status == "INCONCLUSIVE" and check.observed is None
        assert re.search(said, check.detail)


def test_sizes_by_hand():
    assert gate.judge_size_ratio(1050, 1000, 1.05, "host").status == "PASS"
    assert gate.judge_size_ratio(1051, 1000, 1.05, "host").status == "FAIL"
    assert gate.judge_size_ratio(1051, 1000, 1.05, "host").observed == pytest.approx(1.051)
    assert gate.judge_size_ratio(1051, None, 1.05, "host").status == "INCONCLUSIVE"


def test_no_limit_is_no_number():
    with pytest.raises(UsageError, match="nan of target host"):
        gate.judge_latency_ratio(measured(BEFORE), measured(BEFORE), float("nan"), "host")


def predictions(answers):
    ids = np.array([f"s{i}" for i in range(len(answers))])
    return Predictions(ids, np.zeros(len(answers), np.int64), np.eye(3, dtype=np.float32)[list(answers)])


def test_another_teacher_is_told_by_its_answers():
    same = gate.judge_same_teacher(gate.pair(predictions([0, 1, 2, 1]), predictions([0, 1, 2, 1])), "host")
    assert same.status == "PASS" and same.observed == 0
    other = gate.judge_same_teacher(gate.pair(predictions([0, 1, 2, 1]), predictions([0, 2, 1, 1])), "host")
    assert other.status == "INCONCLUSIVE" and "other answers on 2 of 4" in other.detail


def test_another_computer_is_no_baseline():
    found = gate.judge_latency_ratio(measured(BEFORE), measured(BEFORE), 2.0, "host", other_host="cores")
    assert {c.status for c in found} == {"INCONCLUSIVE"} and "another computer (cores)" in found[0].detail
    few = measured(BEFORE, protocol=Protocol(0, 100, 1.0, 4, 1))
    found = gate.judge_latency_ratio(measured(BEFORE), few, 2.0, "host")
    assert {c.status for c in found} == {"INCONCLUSIVE"} and "0 warm-up runs" in found[0].detail


def test_at_the_limit_one_in_twenty_passes():
    """Three processes a side whose levels differ by 1%, a file that takes exactly 1.1 times as long."""
    rng, passed = np.random.default_rng(1), 0

    def three(level):
        levels = level * np.exp(rng.normal(0, 0.01, 3))
        runs = np.concatenate([each * (1 + 0.02 * np.abs(rng.standard_normal(40))) for each in levels])
        return measured(runs, process=np.repeat(np.arange(3), 40), protocol=Protocol(10, 100, 1.0, 3, 1))

    for _ in range(400):
        passed += gate.judge_latency_ratio(three(1.1), three(1.0), 1.1, "host")[0].status == "PASS"
    assert passed <= 28  # 20 at the nominal level; the bootstrap alone passes 46


def test_an_interval_where_there_is_one_process_and_where_there_is_none():
    alone = measured(BEFORE, process=np.zeros(400, np.int64))
    low, high = ratio_interval(measured(1.3 * BEFORE), alone, 0.5)
    assert 1.29 < low < 1.3 < high < 1.31
    nothing = measured(np.where(np.arange(400) == 7, 0.0, BEFORE))
    for new, old in ((nothing, alone), (alone, nothing)):
        with pytest.raises(DataError, match="latencies of 'a' are not positive"):
            ratio_interval(new, old, 0.5)
