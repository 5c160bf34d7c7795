"""Which clock a target is pruned by, and which tables are refused for it."""

import platform
from pathlib import Path

import pytest
from runs import TINY

from edgekd.config import PruneConfig, load_target
from edgekd.devices.machine import host_info
from edgekd.errors import UsageError
from edgekd.latency import given
from edgekd.latency.profile import clock_here
from edgekd.latency.table import Table
from edgekd.store import Store, hash_of

HOST = load_target("host")
PI_4, PI_5 = (load_target(f"raspberry-pi-{n}") for n in (4, 5))
THERE = {"cpu": "Raspberry Pi 4 Model B Rev 1.4", "isa": "aarch64", "features": ("asimd",)}
pytestmark = pytest.mark.skipif(platform.machine() == "aarch64", reason="boards that this computer is not")


@pytest.fixture
def files(tmp_path):
    """Writes tables of clocks that differ from that of a Raspberry Pi 4 in these fields."""

    def write(**fields):
        clock = clock_here(PI_4, THERE).model_copy(update=fields)
        path = tmp_path / f"{hash_of(clock.model_dump())}.json"
        Table(clock, fastest_ms=0.5).save(path)
        return str(path)

    return write


@pytest.fixture
def choose(tmp_path):
    def call(targets, *tables, **options):
        config = PruneConfig(goal="latency_ms", keep=0.5, epochs=1, latency_tables=tables, **options)
        return given.clocks(config, targets, Store(tmp_path / "store"), host_info())

    return call


def test_a_target_takes_the_table_that_was_measured_on_it(choose, files, tmp_path):
    path = files()
    found = choose([HOST, PI_4], path)
    assert found["host"] == given.Whose(clock_here(HOST))
    assert found["raspberry-pi-4"].clock == clock_here(PI_4, THERE)
    sha256 = found["raspberry-pi-4"].table_sha256
    config = PruneConfig(goal="latency_ms", keep=0.5, epochs=1, latency_tables=[files(num_threads=3), path])
    assert given.table_of(sha256, config, Store(tmp_path / "store")).fastest_ms == 0.5


def test_a_table_that_was_changed_meanwhile_is_told(choose, files, tmp_path):
    path = files()
    sha256 = choose([PI_4], path)["raspberry-pi-4"].table_sha256
    Table(clock_here(PI_4, THERE), fastest_ms=0.7).save(Path(path))
    config = PruneConfig(goal="latency_ms", keep=0.5, epochs=1, latency_tables=[path])
    with pytest.raises(UsageError, match="changed while this run was under way"):
        given.table_of(sha256, config, Store(tmp_path / "store"))


def test_this_computer_stands_in_only_where_it_may(choose):
    with pytest.raises(UsageError, match=r"'raspberry-pi-4' has another clock than this .*BCM2711") as caught:
        choose([HOST, PI_4])
    assert "edgekd profile --target raspberry-pi-4" in caught.value.hint
    assert "prune.stand_in = true" in caught.value.hint
    assert choose([HOST, PI_4], stand_in=True)["raspberry-pi-4"] == given.Whose(clock_here(HOST))


def test_nobody_is_sent_to_a_phone_with_python(choose):
    with pytest.raises(UsageError, match="'android-cpu' has another clock") as caught:
        choose([load_target("android-cpu")])
    assert caught.value.hint == "let this computer stand in: prune.stand_in = true"


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"runtime_version": "1.2.3"}, "runtime_version = '1.2.3', not '"),
        ({"num_threads": 7}, "num_threads = 7, not 1"),
        ({"scheme": "fp32"}, "scheme = 'fp32', not 'static_wi8_ai8'"),
        ({"delegate": "cpu"}, "delegate = 'cpu', not 'xnnpack'"),
        ({"cpu": "Raspberry Pi 3"}, "cpu = 'Raspberry Pi 3', not 'Raspberry Pi 4'"),
        ({"isa": "x86_64"}, "isa = 'x86_64', not 'aarch64'"),
        ({"features": ()}, "features lack 'asimd'"),
    ],
)
def test_a_table_of_another_clock_is_refused(choose, files, fields, shown):
    path = files(**fields)
    with pytest.raises(UsageError) as caught:
        choose([PI_4], path, stand_in=True)
    assert str(caught.value).startswith(f"prune.latency_tables: {path} tells none of the targets' clocks: ")
    assert f"for raspberry-pi-4 {shown}" in str(caught.value)


def test_a_table_of_another_processor_is_refused_for_this_computer(choose, tmp_path):
    path = tmp_path / "elsewhere.json"
    Table(clock_here(HOST).model_copy(update={"cpu": "another"}), fastest_ms=0.5).save(path)
    with pytest.raises(UsageError, match=r"for host cpu = 'another', not '"):
        choose([HOST], str(path))
    Table(clock_here(HOST), fastest_ms=0.5).save(path)
    assert choose([HOST], str(path))["host"].table_sha256 is not None


def test_two_tables_of_one_clock_are_one_too_many(choose, files, tmp_path):
    path = files()
    other = tmp_path / "again.json"
    Table(clock_here(PI_4, THERE), fastest_ms=0.6).save(other)
    with pytest.raises(UsageError, match=r"both tell the clock of 'raspberry-pi-4'"):
        choose([PI_4], path, str(other))


def test_boards_have_their_own(choose, files):
    cpu = {"cpu": "Raspberry Pi 5 Model B", "features": ("asimd", "asimdhp", "asimddp")}
    found = choose([PI_4, PI_5], files(), files(**cpu))
    assert [found[t.name].clock.cpu[:14] for t in (PI_4, PI_5)] == ["Raspberry Pi 4", "Raspberry Pi 5"]


def test_a_file_that_is_no_table_is_told(choose, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(TINY)
    with pytest.raises(UsageError, match=r"recipe\.toml: not a latency table") as caught:
        choose([PI_4], str(path))
    assert "delete" not in str(caught.value) and "--output FILE makes one" in caught.value.hint
    with pytest.raises(UsageError, match=r"prune\.latency_tables = .*missing.json': no such file"):
        choose([PI_4], str(tmp_path / "missing.json"))


@pytest.mark.parametrize("key", ["latency_tables", "stand_in", "remove_blocks"])
def test_they_go_with_latency_alone(key):
    value = ("t.json",) if key == "latency_tables" else True
    with pytest.raises(ValueError, match=rf'prune\.{key} goes with goal = "latency_ms", not'):
        PruneConfig(goal="macs", keep=0.5, epochs=1, **{key: value})
