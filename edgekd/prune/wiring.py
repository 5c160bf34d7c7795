"""Which group of channels makes which layer how wide."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekd.layers import Layer


@dataclass(frozen=True)
class Width:
    """A number of channels: `fixed` and, for each group, so many times the group's width."""

    fixed: int
    per_group: tuple[tuple[int, int], ...] = ()  # (group, times), by group

    def at(self, widths: Sequence[int]) -> int:
        """With the groups this wide."""
        return self.fixed + sum(times * widths[group] for group, times in self.per_group)


@dataclass(frozen=True)
class Wire:
    """A layer whose channels follow the groups, and which is gone where one of its `switches` has width 0."""

    layer: Layer
    inner: Width
    outer: Width
    switches: tuple[int, ...] = ()  # groups too: each of width 1, or 0 without its block

    @property
    def groups(self) -> tuple[int, ...]:
        """Those that it depends on."""
        sides = {group for side in (self.inner, self.outer) for group, _ in side.per_group}
        return tuple(sorted(sides.union(self.switches)))

    def at(self, widths: Sequence[int]) -> Layer:
        """The layer with the groups this wide."""
        return self.layer.at(self.inner.at(widths), self.outer.at(widths))

    def price(self, widths: Sequence[int], of: Callable[[Layer], float]) -> float:
        """What the layer costs with the groups this wide."""
        if any(widths[group] == 0 for group in self.switches):
            return 0.0
        return of(self.at(widths))


def wire(
    traces: Sequence[Sequence[Layer]], widths: Sequence[int], narrowed: Sequence[int]
) -> tuple[Wire, ...]:
    """The layers as functions of the groups' widths.

    Args:
        traces: the layers of the whole network, then with one group after the other narrower by one.
        widths: of all groups in the whole network.
        narrowed: which groups those were.

    Raises:
        ValueError: a narrower network has other layers.
    """
    for group, trace in zip(narrowed, traces[1:], strict=True):
        if [layer.shape for layer in trace] != [layer.shape for layer in traces[0]]:
            raise ValueError(f"with group {group} narrower the network has other layers")
    wires = []
    for i, layer in enumerate(traces[0]):
        pairs = [(g, a[i], b[i]) for g, (a, b) in zip(narrowed, itertools.pairwise(traces), strict=True)]
        inner = {group: before.in_channels - after.in_channels for group, before, after in pairs}
        outer = {group: before.out_channels - after.out_channels for group, before, after in pairs}
        wires.append(
            Wire(layer, _width(layer.in_channels, inner, widths), _width(layer.out_channels, outer, widths))
        )
    return tuple(wires)


def _width(channels: int, lost: Mapping[int, int], widths: Sequence[int]) -> Width:
    per_group = tuple((group, times) for group, times in sorted(lost.items()) if times)
    return Width(channels - sum(times * widths[group] for group, times in per_group), per_group)
