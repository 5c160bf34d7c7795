"""Devices by name: where they are, and what no device can be."""

import json
import zipfile

import pytest

from edgekd.config import build
from edgekd.devices import known, package
from edgekd.devices.known import Device
from edgekd.errors import UsageError


@pytest.fixture(autouse=True)
def own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path / "some" / "devices.json"))
    return tmp_path / "some" / "devices.json"


def test_what_was_added_is_there_until_it_is_removed(own_file):
    pi, phone = Device(via="ssh://pi@10.0.0.7:2222", folder="/var/tmp"), Device(via="adb://R58M12ABCDE")
    known.add("pi", pi)
    known.add("phone", phone)
    known.add("pi", pi)
    assert known.devices() == {"phone": phone, "pi": pi}
    assert json.loads(own_file.read_text())["pi"] == {"via": "ssh://pi@10.0.0.7:2222", "folder": "/var/tmp"}
    with pytest.raises(UsageError, match=r"no device 'phon' \(did you mean 'phone'\?\)"):
        known.device("phon")
    known.remove("pi")
    assert known.devices() == {"phone": phone}
    assert known.device("local").via == "local"


@pytest.mark.parametrize(
    ("via", "message"),
    [
        ("ssh://pi:secret@10.0.0.7", "via: no password stands there"),
        ("ssh://", "its host or user is no name"),
        ("ssh://-oProxyCommand=x", "its host or user is no name"),
        ("ssh://-l@host", "its host or user is no name"),
        ("ssh://host:99999", "its port is no number"),
        ("ssh://host/path", "give ssh://"),
        ("http://host", "give ssh://"),
        ("adb://me@host:5555", "ADB has no users"),
        ("adb://--help", "its host or user is no name"),
        ("host", "give ssh://"),
    ],
)
def test_ways_that_lead_nowhere(via, message):
    with pytest.raises(UsageError, match=message) as told:
        build(Device, {"via": via}, "device pi")
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("name", ["", "Pi", "a b", "../x", "-x"])
def test_names_that_are_none(name):
    with pytest.raises(UsageError, match="is no name for a device"):
        known.add(name, Device(via="local"))


@pytest.mark.parametrize("text", ["[]", "{", '{"pi": 3}', '{"pi": {"vi": "local"}}', "[" * 100_000])
def test_a_damaged_file(own_file, text):
    own_file.parent.mkdir()
    own_file.write_text(text)
    with pytest.raises(UsageError, match=r"devices\.json"):
        known.devices()


def test_the_agent_is_one_file(tmp_path):
    assert package.archive() == package.archive()
    (tmp_path / "agent.pyz").write_bytes(package.archive())
    with zipfile.ZipFile(tmp_path / "agent.pyz") as found:
        texts = {name: found.read(name).decode() for name in found.namelist()}
    assert {"__main__.py", "edgekd/devices/agent.py", "edgekd/runtimes/litert.py"} <= texts.keys()
    for name, text in texts.items():
        compile(text, name, "exec")


def test_a_folder_is_named_from_the_root():
    with pytest.raises(UsageError, match="a path from the root"):
        build(Device, {"via": "local", "folder": "~/edge"}, "device pi")


def test_variables_of_the_agent(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path / "devices.json"))
    assert known.variables(["A=1", "B=x=y"]) == {"A": "1", "B": "x=y"}
    with pytest.raises(UsageError, match="--env A: not NAME=VALUE"):
        known.variables(["A"])
    with pytest.raises(UsageError, match="'-i' is no name of a variable"):
        build(Device, {"via": "local", "environment": {"-i": "x"}}, "device")
