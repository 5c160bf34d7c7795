"""What single layers cost, worked out from the chains of a table.

A layer is not timed alone: a model file also costs what calling it costs, and moving its input and
output. So chains are timed; the overhead comes from chains of one layer, repeated, and a
layer costs what its chain takes beyond the overhead, or beyond the chain before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekd.errors import MeasurementError
from edgekd.latency.table import Chain, Grid, Table, chain_text
from edgekd.layers import ONE_WIDTH, Layer

_BASE = [(4, 8), (8, 8), (8, 64), (16, 16), (16, 32), (32, 8), (32, 16)]  # image side, channels
_REPEATS = (1, 2, 4)


def base_chains() -> list[Chain]:
    """What the overhead is worked out from."""
    return [
        (Layer("conv", side, side, channels, channels),) * n for side, channels in _BASE for n in _REPEATS
    ]


def before(layer: Layer) -> Chain:
    """What runs before a layer when it is timed, so that it meets the layout that it has in a network."""
    if layer.kind in ("conv", "depthwise"):
        return ()
    if layer.kind == "linear":
        # Of little cost itself, however wide: what is looked for is the difference.
        wide = layer.in_channels
        return Layer("depthwise", 2, 2, wide, wide, 3, 1, 1), Layer("global_pool", 2, 2, wide, wide)
    return (Layer("conv", layer.height, layer.width, layer.in_channels, layer.in_channels),)


def chains_of(layer: Layer) -> list[Chain]:
    """The chains that must be timed to know what a layer costs, the overhead left aside."""
    ahead = before(layer)
    return [(*ahead, layer), ahead] if ahead else [(layer,)]


@dataclass(frozen=True)
class Overhead:
    """What a file costs beside its layers, in units of the reference."""

    fixed: float
    per_element: float

    def of(self, in_elements: int, out_elements: int) -> float:
        """For a file with inputs and outputs of this many values."""
        return self.fixed + self.per_element * (in_elements + out_elements)


@dataclass(frozen=True)
class Cost:
    """What a layer costs in units of the reference, and whether it lies outside of what was timed."""

    value: float
    outside: bool = False


class Costs:
    """Costs of layers by a table: as timed, else between the widths that were timed."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._known: dict[Layer, Cost] = {}
        self.overhead = self._overhead()

    def of(self, layer: Layer) -> Cost:
        """The cost of a layer.

        Raises:
            MeasurementError: no layer of its shape was timed, or only ones that are far narrower.
        """
        if layer not in self._known:
            self._known[layer] = self._find(layer)
        return self._known[layer]

    def _find(self, layer: Layer) -> Cost:
        if all(chain in self._table.ratios for chain in chains_of(layer)):
            return Cost(self.timed(layer))
        grid = self._table.grids.get(layer.shape)
        if grid is None:
            raise MeasurementError(
                f"the latency table knows no layer like {layer}",
                hint="edgekd profile with the recipe measures what its network holds",
            )
        if layer.kind in ONE_WIDTH:
            axis = {w: self.timed(layer.at(w, w)) for w in {*grid.in_widths, *grid.fine_in}}
            return Cost(_along(axis, layer.in_channels, layer), _is_outside(axis, layer.in_channels))
        return self._between(layer, grid)

    def _between(self, layer: Layer, grid: Grid) -> Cost:
        """Bilinear between coarse widths, times what the finer widths add on either axis at the widest."""
        ins, outs = grid.in_widths, grid.out_widths
        axis_in = {w: self.timed(layer.at(w, outs[-1])) for w in {*ins, *grid.fine_in}}
        axis_out = {w: self.timed(layer.at(ins[-1], w)) for w in {*outs, *grid.fine_out}}
        rows = {
            i: _along({o: self.timed(layer.at(i, o)) for o in outs}, layer.out_channels, layer) for i in ins
        }
        value = _along(rows, layer.in_channels, layer)
        value *= _step(axis_in, ins, layer.in_channels, layer) * _step(
            axis_out, outs, layer.out_channels, layer
        )
        outside = _is_outside(rows, layer.in_channels) or _is_outside(axis_out, layer.out_channels)
        return Cost(value, outside)

    def error(self, layer: Layer) -> float:
        """The standard error of what `timed` says, without that of the overhead."""
        return math.hypot(*(self._table.ratios[chain].standard_error for chain in chains_of(layer)))

    def timed(self, layer: Layer) -> float:
        """The cost of a layer that was timed itself."""
        ratios, ahead = self._table.ratios, before(layer)
        try:
            if ahead:
                moved = layer.out_elements - ahead[-1].out_elements
                longer, shorter = ratios[(*ahead, layer)].value, ratios[ahead].value
                return max(longer - shorter - self.overhead.per_element * moved, 0.0)
            whole = ratios[(layer,)].value
        except KeyError as error:
            raise MeasurementError(
                f"the latency table is not finished: {chain_text(error.args[0])} was not timed",
                hint="run edgekd profile again: it goes on where it stopped",
            ) from None
        return max(whole - self.overhead.of(layer.in_elements, layer.out_elements), 0.0)

    def _overhead(self) -> Overhead:
        """A straight line over input and output: what is left of a chain of n layers at n = 0."""
        ratios = self._table.ratios
        if any(chain not in ratios for chain in base_chains()):
            raise MeasurementError(
                "the latency table is not finished: its overhead was not timed",
                hint="run edgekd profile again: it goes on where it stopped",
            )
        elements, left = [], []
        for side, channels in _BASE:
            layer = Layer("conv", side, side, channels, channels)
            times = [ratios[(layer,) * n].value for n in _REPEATS]
            _, rest = np.polyfit(_REPEATS, times, 1)
            elements.append(layer.in_elements + layer.out_elements)
            left.append(rest)
        per_element, fixed = np.polyfit(elements, left, 1)
        return Overhead(max(float(fixed), 0.0), max(float(per_element), 0.0))


def _along(axis: Mapping[int, float], width: int, layer: Layer) -> float:
    """The cost at a width between those that were timed.

    Beyond the widest the last two are drawn on; a kernel does not run less than its narrowest step.
    """
    widths = sorted(axis)
    if width in axis or width < widths[0]:
        return axis[max(width, widths[0])]
    if len(widths) == 1 or width > 2 * widths[-1]:
        raise MeasurementError(
            f"the latency table knows {layer.shape} up to {widths[-1]} channels: {layer} is far outside",
            hint="edgekd profile with the recipe measures what its network holds",
        )
    above = min(max(int(np.searchsorted(widths, width)), 1), len(widths) - 1)
    a, b = widths[above - 1], widths[above]
    return max(axis[a] + (width - a) / (b - a) * (axis[b] - axis[a]), 0.0)


def _step(axis: Mapping[int, float], coarse: Sequence[int], width: int, layer: Layer) -> float:
    """How far the finer widths lie above or below the line between the coarse ones."""
    if not min(axis) <= width <= max(axis):
        return 1.0
    line = _along({w: axis[w] for w in coarse}, width, layer)
    return _along(axis, width, layer) / line if line > 0 else 1.0


def _is_outside(axis: Mapping[int, float], width: int) -> bool:
    return width > max(axis)
