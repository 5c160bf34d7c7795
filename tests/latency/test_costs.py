"""Tables filled by a clock that is made up here, so that every cost is known."""

import dataclasses
import json
import math

import pytest

from edgekd.config import load_target
from edgekd.errors import MeasurementError, UsageError
from edgekd.latency.costs import Costs, before
from edgekd.latency.network import predict
from edgekd.latency.profiler import coarse_widths, fill
from edgekd.latency.table import VERSION, Ratio, Table, clock_of, load
from edgekd.layers import ONE_WIDTH, Layer

HOST = {"cpu": "a processor", "isa": "x86_64", "features": ["avx2"], "cores": 2}
FIXED, PER_ELEMENT = 0.3, 2e-6


def clock(**changes):
    found = clock_of(load_target("host"), "1.2.3", HOST)
    return found.model_copy(update=changes)


def stairs(layer):
    """Kernels that work through 16 output channels at a time and 4 input channels."""
    # So that each costs enough for its steps to matter.
    pixels = 200 if layer.kind in ("linear", "global_pool") else layer.out_height * layer.out_width
    if layer.kind in ONE_WIDTH:
        return 1e-3 * pixels * math.ceil(layer.in_channels / 8)
    tiles = math.ceil(layer.out_channels / 16) * math.ceil(layer.in_channels / 4)
    return 2e-4 * pixels * layer.kernel**2 * tiles


class Clock:
    """Times a chain as its overhead and the sum of its layers; counts what it was asked."""

    def __init__(self, table, cost=stairs, most=math.inf, error=1e-9):
        self.table, self.cost, self.asked, self.most, self.error = table, cost, [], most, error

    def __call__(self, chains, what):
        for chain in chains:
            if len(self.asked) >= self.most:
                raise KeyboardInterrupt
            self.asked.append(chain)
            overhead = FIXED + PER_ELEMENT * (chain[0].in_elements + chain[-1].out_elements)
            self.table.fastest_ms = 0.1
            self.table.add({chain: Ratio(overhead + sum(map(self.cost, chain)), self.error, 0.1)}, 1.08)


CONV = Layer("conv", 14, 14, 64, 48, 3, 1, 1)
DEPTHWISE = Layer("depthwise", 14, 14, 64, 64, 3, 1, 1)
HEAD = Layer("linear", 1, 1, 64, 10)
STEM = Layer("conv", 28, 28, 3, 32, 3, 1, 1)
ALL = (CONV, DEPTHWISE, HEAD, STEM, Layer("add", 14, 14, 48, 48), Layer("global_pool", 14, 14, 48, 48))


@pytest.fixture(scope="module")
def table():
    table = Table(clock())
    fill(ALL, table, Clock(table))
    return table


def test_the_overhead_is_found_by_repeating_layers(table):
    overhead = Costs(table).overhead
    assert overhead.fixed == pytest.approx(FIXED, abs=1e-6)
    assert overhead.per_element == pytest.approx(PER_ELEMENT, rel=1e-6)


@pytest.mark.parametrize("layer", ALL, ids=str)
def test_every_width_costs_what_the_clock_says(table, layer):
    costs = Costs(table)
    for inner in range(4, layer.in_channels + 1) if layer.in_channels > 3 else [1, 2, 3]:
        for outer in range(4, layer.out_channels + 1) if layer.kind not in ONE_WIDTH else [inner]:
            wanted = stairs(layer.at(inner, outer))
            found = costs.of(layer.at(inner, outer))
            # Stairs of 4 lie finer than the 6% that count as straight where they are many.
            assert found.value == pytest.approx(wanted, rel=0.12), (inner, outer)
            assert not found.outside


def test_the_edges_of_a_large_step_are_found_to_the_channel(table):
    costs = Costs(table)
    for edge in (16, 32):
        below, above = (costs.of(CONV.at(64, w)).value for w in (edge, edge + 1))
        assert (below, above) == pytest.approx((stairs(CONV.at(64, edge)), stairs(CONV.at(64, edge + 1))))
    assert {17, 33} <= set(table.grids[CONV.shape].fine_out)


def test_where_the_clock_is_straight_no_more_is_timed():
    straight = Table(clock())
    ask = Clock(straight, cost=lambda layer: 1e-6 * layer.in_elements * layer.out_channels)
    fill([CONV], straight, ask)
    grid = straight.grids[CONV.shape]
    # The next width up and the middle of each gap (4 to 8: 5 and 6), and no middle of a half.
    assert grid.fine_out == (5, 6, 9, 12, 17, 20, 25, 28, 33, 40)
    assert grid.fine_in == (5, 6, 9, 12, 17, 20, 25, 28, 33, 40, 49, 56)


def test_steps_that_are_no_larger_than_the_noise_are_not_looked_for():
    noisy, exact = Table(clock()), Table(clock())
    fill([CONV], noisy, Clock(noisy, error=10.0))
    fill([CONV], exact, Clock(exact))
    # The next width up and the middle of each gap are always tried.
    assert len(noisy.grids[CONV.shape].fine_out) == 2 * 5
    assert len(exact.grids[CONV.shape].fine_out) > 2 * 5


def test_steps_of_layers_that_cost_next_to_nothing_are_not_looked_for():
    cheap = Table(clock())
    fill([CONV], cheap, Clock(cheap, cost=lambda layer: stairs(layer) / 1000))
    assert len(cheap.grids[CONV.shape].fine_out) == 2 * 5


def test_times_that_turn_out_to_have_been_disturbed_are_measured_again():
    table, exact = Table(clock()), Table(clock())
    fill(ALL, exact, Clock(exact))
    asked = []

    def shared(chains, what):
        for chain in chains:
            asked.append(chain)
            # At first something else runs here, and every layer is slowed down by another factor.
            ratio = Ratio(2.0, 1e-9, 0.12) if len(asked) < 60 else exact.ratios[chain]
            table.fastest_ms = min(table.fastest_ms or 1.0, ratio.reference_ms)
            table.add({chain: ratio}, 1.08)

    fill(ALL, table, shared)
    assert table.ratios == exact.ratios
    assert len(asked) == len(exact.ratios) + 59


def test_below_the_narrowest_nothing_gets_cheaper(table):
    costs = Costs(table)
    assert costs.of(CONV.at(2, 8)) == costs.of(CONV.at(4, 8))
    assert costs.of(DEPTHWISE.at(1, 1)) == costs.of(DEPTHWISE.at(4, 4))


def test_a_second_filling_times_only_what_is_new(table):
    ask = Clock(table)
    fill(ALL, table, ask)
    assert ask.asked == []
    wider = dataclasses.replace(CONV, in_channels=96)
    fill([wider], table, ask)
    assert ask.asked
    assert all(len(chain) == 1 and chain[0].in_channels > 64 for chain in ask.asked)
    assert Costs(table).of(wider.at(80, 40)).value == pytest.approx(stairs(wider.at(80, 40)), rel=0.12)


def test_a_filling_that_was_killed_goes_on(tmp_path):
    whole, killed = Table(clock()), Table(clock())
    count = Clock(whole)
    fill(ALL, whole, count)
    with pytest.raises(KeyboardInterrupt):
        fill(ALL, killed, Clock(killed, most=40))
    with pytest.raises(MeasurementError, match="not finished"):
        Costs(Table(clock()))
    killed.save(tmp_path / "t.json")
    again = load(tmp_path / "t.json")
    rest = Clock(again)
    fill(ALL, again, rest)
    assert len(rest.asked) == len(count.asked) - 40
    assert (again.ratios, again.grids) == (whole.ratios, whole.grids)


def test_a_network_is_its_layers_and_one_overhead(table):
    # The sum follows its own convolution, so that the chain before it is not part of it.
    layers = (CONV.at(16, 16), Layer("add", 14, 14, 16, 16), CONV.at(16, 48))
    found = predict(layers, Costs(table))
    ends = layers[0].in_elements + layers[-1].out_elements
    assert found.ratio == pytest.approx(FIXED + PER_ELEMENT * ends + sum(map(stairs, layers)), rel=1e-3)
    assert [layer for layer, _ in found.parts] == list(layers)
    assert found.outside == ()


def test_beyond_the_widest_the_last_two_are_drawn_on_and_it_is_said():
    table = Table(clock())
    fill([CONV], table, Clock(table, cost=lambda layer: 1e-6 * layer.in_elements * layer.out_channels))
    costs = Costs(table)
    far = costs.of(CONV.at(100, 40))
    assert far.outside
    assert far.value == pytest.approx(1e-6 * 14 * 14 * 100 * 40, rel=1e-6)
    assert predict([CONV.at(100, 40)], costs).outside == (CONV.at(100, 40),)
    with pytest.raises(MeasurementError, match=r"up to 64 channels: conv .* 129-40 is far outside"):
        costs.of(CONV.at(129, 40))


@pytest.mark.parametrize(
    "layer", [dataclasses.replace(CONV, kernel=5), dataclasses.replace(CONV, height=15), STEM.at(7, 8)]
)
def test_a_layer_of_another_shape_is_not_guessed(table, layer):
    with pytest.raises(MeasurementError, match="the latency table knows"):
        Costs(table).of(layer)


def test_coarse_widths_by_hand():
    assert coarse_widths(3) == {1, 2, 3}
    assert coarse_widths(10) == {4, 8, 10}
    assert coarse_widths(64) == {4, 8, 16, 24, 32, 48, 64}
    assert coarse_widths(300) == {4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 300}
    assert len(coarse_widths(4096)) < 22


def test_what_runs_before_a_layer_gives_it_its_input():
    # A runtime that changes the layout of images does so before the convolution, not for the layer.
    assert [layer.kind for layer in before(HEAD)] == ["depthwise", "global_pool"]
    for layer in ALL:
        if ahead := before(layer):
            assert ahead[-1].out_channels == layer.in_channels
            assert ahead[-1].out_height == layer.height


def test_a_table_is_the_same_after_it_was_saved(tmp_path, table):
    table.fastest_ms = 0.25
    table.save(tmp_path / "t.json")
    assert load(tmp_path / "t.json") == table


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record.pop("clock"),
        lambda record: record.update(surprise=1),
        lambda record: record["ratios"].update({"conv 1x1": [1, 1]}),
        lambda record: record["ratios"].update({str(CONV): ["1", 0, 0]}),
        lambda record: record["ratios"].update({"conv of nothing": [1, 1, 1]}),
        lambda record: record.update(edgekd_latency_table=VERSION + 1),
    ],
)
def test_what_is_no_table_of_this_version_is_refused(tmp_path, table, damage):
    path = tmp_path / "t.json"
    table.save(path)
    record = json.loads(path.read_text())
    damage(record)
    path.write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"t\.json: .*latency table"):
        load(path)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load(tmp_path / "t.json")
