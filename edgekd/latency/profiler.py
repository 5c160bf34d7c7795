"""What a table is filled with: coarse widths first, then finer ones wherever a step hides between two."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

from edgekd.latency.costs import Costs, base_chains, chains_of
from edgekd.latency.table import Chain, Grid, Table
from edgekd.layers import ONE_WIDTH, Layer

# Times all of the chains into the table.
Measure = Callable[[Sequence[Chain], str], None]

# Between two widths a straight line will do where the middle lies this close to it.
STRAIGHT = 0.06
# ... or closer than this, in units of the reference: of layers that cost next to nothing, noise is all.
MATTERS = 0.01
_SURE = 3.0  # standard errors that a bend must stand out by


def fill(layers: Iterable[Layer], table: Table, measure: Measure) -> None:
    """Times what a table needs to tell the cost of these layers and of all narrower ones.

    Args:
        layers: as wide as they can become; those of one shape share a grid up to the widest.
        table: grows; what it holds already is not timed again.
        measure: times chains into the table.
    """
    grids = _grids(layers, table.grids)
    wanted = [chain for layer in _corners(grids) for chain in chains_of(layer)]
    coarse = [*base_chains(), *wanted]
    _measure_missing(coarse, table, measure, "widths")
    table.grids.update({layer.shape: grid for layer, grid in grids.items()})
    _refine(grids, coarse, table, measure)


def fill_exactly(layers: Iterable[Layer], table: Table, measure: Measure) -> None:
    """Times what a table needs to tell the cost of these layers, and of no other widths."""
    chains = [chain for layer in layers for chain in chains_of(layer)]
    _measure_missing([*base_chains(), *chains], table, measure, "layers")


def _grids(layers: Iterable[Layer], known: dict[str, Grid]) -> dict[Layer, Grid]:
    """One layer of each shape -> its coarse widths, together with those that were there before."""
    found: dict[str, tuple[Layer, set[int], set[int]]] = {}
    for layer in layers:
        _, ins, outs = found.setdefault(layer.shape, (layer, set(), set()))
        ins |= coarse_widths(layer.in_channels)
        if layer.kind not in ONE_WIDTH:
            outs |= coarse_widths(layer.out_channels)
    grids = {}
    for shape, (layer, ins, outs) in found.items():
        old = known.get(shape, Grid(in_widths=(), out_widths=()))
        grids[layer] = Grid(
            in_widths=tuple(sorted(ins | set(old.in_widths))),
            out_widths=tuple(sorted(outs | set(old.out_widths))),
        )
    return grids


def coarse_widths(widest: int) -> set[int]:
    """Widths up to the widest: the steps of kernels are of 4, 8 and 16 channels, rougher where wide."""
    if widest < 4:
        return {*range(1, widest + 1)}
    grid, more = {4, 8, 16, 24, 32}, 48
    while more < widest:  # 48, 64, 96, 128, 192, 256, ...
        grid |= {more, more // 3 * 4}
        more *= 2
    return {w for w in grid if w < widest} | {widest}


def _corners(grids: dict[Layer, Grid]) -> Iterable[Layer]:
    for layer, grid in grids.items():
        for inner in grid.in_widths:
            for outer in grid.out_widths or (inner,):
                yield layer.at(inner, outer)


def _refine(grids: dict[Layer, Grid], known: Sequence[Chain], table: Table, measure: Measure) -> None:
    """Splits each gap of each axis until a straight line describes it; `known` has been timed."""
    wanted = list(known)
    axes = [axis for layer, grid in grids.items() for axis in axes_of(layer, grid)]
    gaps = [(axis, a, b) for axis in axes for a, b in axis.gaps()]
    first = True
    while gaps:
        tried = [(axis, a, b, _inside(a, b, first)) for axis, a, b in gaps]
        layers = [axis.layer_at(width) for axis, _, _, widths in tried for width in widths]
        wanted += [chain for layer in layers for chain in chains_of(layer)]
        _measure_missing(wanted, table, measure, "steps")
        costs, gaps, first = Costs(table), [], False
        for axis, a, b, widths in tried:
            axis.fine.update(widths)
            if not all(_is_straight(axis, a, width, b, costs) for width in widths):
                gaps += [(axis, c, d) for c, d in itertools.pairwise([a, *widths, b]) if d - c > 1]
        _keep(axes, table)


def _inside(a: int, b: int, first: bool) -> list[int]:
    """Widths that are tried between two: the middle, at first the next one up too.

    A coarse width is often the last of a step, and with steps half as long as the gap the middle is as well.
    """
    return sorted({a + 1, (a + b) // 2}) if first else [(a + b) // 2]


def _is_straight(axis: Axis, a: int, width: int, b: int, costs: Costs) -> bool:
    low, here, high = (costs.timed(axis.layer_at(w)) for w in (a, width, b))
    line = low + (width - a) / (b - a) * (high - low)
    unsure = _SURE * math.hypot(*(costs.error(axis.layer_at(w)) for w in (a, width, b)))
    return abs(here - line) <= max(STRAIGHT * max(low, here, high), MATTERS, unsure)


class Axis:
    """The widths of one side of a shape, the other at its widest."""

    def __init__(self, layer: Layer, grid: Grid, side: str) -> None:
        self.layer, self.grid, self.side = layer, grid, side
        self.coarse = grid.out_widths if side == "out" else grid.in_widths
        self.fine = set(grid.fine_out if side == "out" else grid.fine_in)

    @property
    def widths(self) -> list[int]:
        """All that were timed."""
        return sorted({*self.coarse, *self.fine})

    def gaps(self) -> list[tuple[int, int]]:
        """Neighbours with widths between them."""
        return [(a, b) for a, b in itertools.pairwise(self.coarse) if b - a > 1]

    def layer_at(self, width: int) -> Layer:
        """The layer with this width on this side."""
        if self.side == "both":
            return self.layer.at(width, width)
        if self.side == "in":
            return self.layer.at(width, self.grid.out_widths[-1])
        return self.layer.at(self.grid.in_widths[-1], width)


def axes_of(layer: Layer, grid: Grid) -> list[Axis]:
    """The sides of a layer's shape whose width may be chosen."""
    sides = ("both",) if layer.kind in ONE_WIDTH else ("in", "out")
    return [Axis(layer, grid, side) for side in sides]


def _keep(axes: list[Axis], table: Table) -> None:
    for axis in axes:
        name = "fine_out" if axis.side == "out" else "fine_in"
        grid = table.grids[axis.layer.shape]
        fine = tuple(sorted({*getattr(grid, name), *axis.fine} - set(axis.coarse)))
        table.grids[axis.layer.shape] = grid.model_copy(update={name: fine})


def _measure_missing(chains: Iterable[Chain], table: Table, measure: Measure, what: str) -> None:
    wanted = dict.fromkeys(chains)
    # Measuring may show that what was measured before was disturbed: then that is missing again.
    while missing := [chain for chain in wanted if chain not in table.ratios]:
        measure(missing, what)
