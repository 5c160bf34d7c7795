import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from edgekd import judgement_log
from edgekd.errors import DataError
from edgekd.judgement_log import Judgement, begun, count, enter, not_passed, parse, settle

SPLIT = "5" * 64
A, B, C = (Judgement(letter * 64, "0" * 64) for letter in "abc")


def test_each_judgement_has_its_place_whatever_comes_later(tmp_path):
    assert [len(enter(tmp_path, SPLIT, one)) for one in (A, A, B, C, B, A)] == [1, 1, 2, 3, 2, 1]
    assert enter(tmp_path, SPLIT, C) == (A, B, C)
    assert (count(tmp_path, SPLIT), count(tmp_path, "6" * 64)) == (3, 0)


def test_another_policy_is_another_judgement_of_the_same_files(tmp_path):
    enter(tmp_path, SPLIT, A)
    assert len(enter(tmp_path, SPLIT, replace(A, policy="1" * 64))) == 2


def test_what_became_of_each_is_known_to_the_next(tmp_path):
    for one, status in ((A, "PASS"), (B, "FAIL"), (C, None)):
        enter(tmp_path, SPLIT, one)
        if status:
            settle(tmp_path, SPLIT, replace(one, status=status))
    log = enter(tmp_path, SPLIT, Judgement("d" * 64, "0" * 64))
    assert [one.status for one in log] == ["PASS", "FAIL", None, None]
    assert not_passed(log) == 2  # one that was begun and never finished has not passed
    # Entered again, it keeps what became of it; the copy beside its report does not say it.
    again = enter(tmp_path, SPLIT, B)
    assert again[-1].status == "FAIL" and begun(again)[-1].status is None and begun(again)[0].status == "PASS"


def test_judgements_made_elsewhere_come_first(tmp_path):
    elsewhere = (replace(A, status="FAIL"), replace(B, status="PASS"))
    enter(tmp_path, SPLIT, B)
    assert enter(tmp_path, SPLIT, C, elsewhere) == (*elsewhere, C)
    assert count(tmp_path, SPLIT) == 3


def test_none_is_lost_when_many_enter_at_once(tmp_path):
    new = [Judgement(f"{i:064x}", "0" * 64) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda one: len(enter(tmp_path, SPLIT, one)), new))
    assert sorted(places) == list(range(1, 41)) and count(tmp_path, SPLIT) == 40


def good():
    return {"test_sha256": SPLIT, "judgements": [{"candidate": "a", "policy": "b", "status": None}]}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda d: "{", "damaged"),
        (lambda d: json.dumps([]), "damaged"),
        (lambda d: b"\xff\xfe\xfd", "damaged"),
        (lambda d: json.dumps({**d, "judgements": [{"candidate": "a"}]}), "damaged"),
        (lambda d: json.dumps({**d, "judgements": [{**d["judgements"][0], "more": 1}]}), "damaged"),
        (lambda d: json.dumps({**d, "judgements": [{**d["judgements"][0], "status": 1}]}), "damaged"),
        (lambda d: json.dumps({**d, "judgements": []}), "no judgement stands there"),
        (lambda d: "[" * 200_000, "damaged"),
        (lambda d: json.dumps({**d, "test_sha256": "6" * 64}), "of another test split, '666"),
    ],
)
def test_a_damaged_log_is_told(spoil, said):
    assert len(parse(json.dumps(good()), SPLIT, "log")) == 1
    with pytest.raises(DataError, match=f"log: .*{said}"):
        parse(spoil(good()), SPLIT, "log")


def test_a_reason_makes_no_other_policy():
    from edgekd.config import GateConfig, PolicyGate

    plain = judgement_log.policy_sha256(GateConfig(max_drop_pp=1.0))
    assert plain == judgement_log.policy_sha256(GateConfig(max_drop_pp=1.0, why="because"))
    assert plain == judgement_log.policy_sha256(PolicyGate(max_drop_pp=1.0))
    assert plain != judgement_log.policy_sha256(PolicyGate(max_drop_pp=1.0, required_targets=("host",)))
    assert plain != judgement_log.policy_sha256(PolicyGate(max_drop_pp=1.0, max_size_ratio=1.0))
    assert plain != judgement_log.policy_sha256(GateConfig(max_drop_pp=1.1))
    assert plain != judgement_log.policy_sha256(GateConfig(max_drop_pp=1.0, alpha=0.1))
    assert plain != judgement_log.policy_sha256(GateConfig(max_drop_pp=1.0), {"host": {"max_drop_pp": 2.0}})
