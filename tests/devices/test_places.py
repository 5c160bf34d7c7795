"""Devices in a run's plan."""

import sys

import pytest

from edgekd.config import load_target
from edgekd.devices import known, places
from edgekd.devices.known import Device
from edgekd.errors import MeasurementError, UsageError


@pytest.fixture(autouse=True)
def own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path / "devices.json"))
    known.add("here", Device(via="local", python=sys.executable))


def asked():
    return places.ask({"host": "here"}, [load_target("host")], print)["host"]


def test_a_device_as_it_was_is_opened(tmp_path):
    place = asked()
    assert places.kind_of(place, load_target("host")) == "measured"  # any processor stands for it
    assert places.kind_of(place, load_target("android-gpu")) == "host"
    assert places.kind_of({**place, "emulated": True}, load_target("host")) == "emulated"
    with places.opened(place, print) as run:
        assert run({"mode": "machine", "runtimes": []})[-1]["event"] == "done"


@pytest.mark.parametrize("key", ["python", "cpu", "runtimes", "all_features", "board"])
def test_another_machine_under_the_same_name_is_refused(key):
    place = asked()
    was = {**place, "machine": {**place["machine"], key: "another"}}
    with (
        pytest.raises(MeasurementError, match=rf"what it was when this run began: other {key} .run"),
        places.opened(was, print),
    ):
        pass


@pytest.mark.parametrize(
    ("key", "value"), [("python", "python3"), ("packages", "/opt"), ("environment", {"A": "1"})]
)
def test_other_settings_under_the_same_name_are_refused(key, value):
    place = asked()
    with (
        pytest.raises(MeasurementError, match=rf"began: other setting {key} .run"),
        places.opened({**place, key: value}, print),
    ):
        pass


def test_options_of_the_command_line():
    assert places.parse(["a=b", "c=d"]) == {"a": "b", "c": "d"}
    for texts, words in ((["a"], "not TARGET=NAME"), (["=b"], "not TARGET"), (["a=b", "a=c"], "two devices")):
        with pytest.raises(UsageError, match=words):
            places.parse(texts)
    with pytest.raises(UsageError, match=r"for 'hots', but .* no such target .did you mean 'host'"):
        places.ask({"hots": "here"}, [load_target("host")], print)
