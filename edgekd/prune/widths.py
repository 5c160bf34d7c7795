"""The widths of all groups at once: the least lost within budgets.

A layer's price depends on the widths of the groups on both of its sides, so groups cannot be chosen one by
one. A mixed-integer programme chooses them together: one binary for each width of each group, and
for each set of groups that share layers the share of each combination of widths, whose marginals are those
binaries (the local polytope of a graphical model, Wainwright and Jordan 2008). HiGHS solves it to GAP.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from edgekd.errors import UsageError
from edgekd.layers import Layer
from edgekd.prune.wiring import Wire

# What a layer costs: in time, multiplications or parameters.
Price = Callable[[Layer], float]

GAP = 1e-3  # what is lost may be that much more than the least
TIME_LIMIT_S = 60.0
_GOOD_ENOUGH = 0.05  # as GAP, where the time is up
MOST_CANDIDATES = 12
# A wider group that costs so little more, of what its layers cost, costs the same: tables are not better.
_SAME = 0.02
_INFEASIBLE = 2  # scipy's


def total(wires: Sequence[Wire], widths: Sequence[int], price: Price) -> float:
    """The price of a network."""
    return sum(wire.price(widths, price) for wire in wires)


@dataclass(frozen=True)
class Budget:
    """What all layers together may cost.

    Attributes:
        of: what is counted, as a recipe calls it.
        price: of a layer.
        limit: in the price's unit.
    """

    of: str
    price: Price
    limit: float


def edges(
    wires: Sequence[Wire], widths: Sequence[int], least: Sequence[int], prices: Sequence[Price]
) -> list[list[int]]:
    """For each group the widths worth choosing: no wider one costs as little by every price, others whole.

    Args:
        wires: the layers.
        widths: of the whole network's groups.
        least: the narrowest that each group may become.
        prices: of a layer, each in a unit of its own.
    """
    found = []
    for group, whole in enumerate(widths):
        mine = [wire for wire in wires if group in wire.groups]
        allowed = range(min(least[group], whole), whole + 1)
        worth: set[int] = set()
        for price in prices:
            curve = [total(mine, [*widths[:group], width, *widths[group + 1 :]], price) for width in allowed]
            kept, cheapest = [], math.inf
            for width, cost in zip(reversed(allowed), reversed(curve), strict=True):
                if cost < cheapest - _SAME * curve[-1] or width == whole:
                    kept.append((width, cost))
                    cheapest = min(cheapest, cost)
            worth.update(_thinned(kept, 2 * MOST_CANDIDATES // (1 + len(prices))))
        found.append(sorted(worth))
    return found


def _thinned(kept: list[tuple[int, float]], most: int) -> list[int]:
    """At most so many widths: both ends, and those below which the price falls furthest."""
    if len(kept) <= most:
        return [width for width, _ in kept]
    falls = [(before - cost, width) for (_, before), (width, cost) in itertools.pairwise(kept)]
    # Steep or not, the whole range is covered: the rest is spread evenly.
    half = most // 2
    steepest = {width for _, width in sorted(falls, reverse=True)[:half]}
    even = {kept[round(i * (len(kept) - 1) / (half - 1))][0] for i in range(half)}
    return [width for width, _ in kept if width in steepest | even]


def choose(
    wires: Sequence[Wire],
    candidates: Sequence[Sequence[int]],
    losses: Sequence[NDArray[np.float64]],
    budgets: Sequence[Budget],
) -> list[int]:
    """The widths that lose the least and keep to every budget.

    Args:
        wires: the layers.
        candidates: for each group its widths, ascending.
        losses: for each group what is lost at each candidate.
        budgets: at least one.

    Raises:
        OutOfReach: whatever the widths, one of them is not kept.
        UsageError: no answer that is known to be good, in time.
    """
    programme = _Programme(candidates, losses, budgets)
    for groups, members in _together(wires).items():
        combinations = itertools.product(*(range(len(candidates[g])) for g in groups))
        each = [_widths(len(candidates), groups, c, candidates) for c in combinations]
        prices = [[total(members, widths, budget.price) for widths in each] for budget in budgets]
        programme.add(groups, np.array(prices))
    if (chosen := programme.solve()) is not None:
        return chosen
    for i, budget in enumerate(budgets):
        # The narrowest network is not always the cheapest: some kernels like certain widths.
        cheapest = programme.solve(cheapest_by=i)
        if cheapest is not None and (least := total(wires, cheapest, budget.price)) > budget.limit:
            raise OutOfReach(budget, least)
    raise RuntimeError(f"no widths keep to {[(b.of, b.limit) for b in budgets]}, and each alone can be kept")


class OutOfReach(Exception):
    """No choice of widths keeps to `budget`; `least` is what the cheapest costs of those that keep to the
    budgets before it.
    """

    def __init__(self, budget: Budget, least: float) -> None:
        super().__init__(budget, least)
        self.budget, self.least = budget, least


def _together(wires: Sequence[Wire]) -> dict[tuple[int, ...], list[Wire]]:
    found: dict[tuple[int, ...], list[Wire]] = {}
    for wire in wires:
        found.setdefault(wire.groups, []).append(wire)
    return found


def _widths(
    count: int, groups: Sequence[int], choice: Sequence[int], candidates: Sequence[Sequence[int]]
) -> list[int]:
    """Widths of all groups, of which only those in `groups` matter."""
    widths = [0] * count
    for group, index in zip(groups, choice, strict=True):
        widths[group] = candidates[group][index]
    return widths


class _Programme:
    """Variables, rows and prices so far; a price for each budget."""

    def __init__(
        self,
        candidates: Sequence[Sequence[int]],
        losses: Sequence[NDArray[np.float64]],
        budgets: Sequence[Budget],
    ) -> None:
        self._candidates = candidates
        self._limits = np.array([budget.limit for budget in budgets])
        # In shares of the budgets: the solver's tolerances are absolute.
        self._scales = np.array([abs(budget.limit) or 1.0 for budget in budgets])
        starts = np.cumsum([0, *(len(widths) for widths in candidates)])
        self._columns = [np.arange(a, b) for a, b in itertools.pairwise(starts)]
        self._binaries = int(starts[-1])
        self._loss = np.concatenate(losses)
        self._price = [np.zeros((len(budgets), self._binaries))]
        self._fixed = np.zeros(len(budgets))
        self._entries: list[tuple[int, int, float]] = []
        self._right: list[float] = []
        for columns in self._columns:
            self._row([(int(c), 1.0) for c in columns], 1.0)

    @property
    def _variables(self) -> int:
        return sum(prices.shape[1] for prices in self._price)

    def _row(self, terms: Sequence[tuple[int, float]], right: float) -> None:
        self._entries += [(len(self._right), column, value) for column, value in terms]
        self._right.append(right)

    def add(self, groups: tuple[int, ...], prices: NDArray[np.float64]) -> None:
        """Layers that depend on these groups: (budgets, combinations), the last group's fastest."""
        if not groups:
            self._fixed += prices[:, 0]
        elif len(groups) == 1:
            self._price[0][:, self._columns[groups[0]]] += prices
        else:
            shape = [len(self._candidates[g]) for g in groups]
            shares = self._variables + np.arange(prices.shape[1]).reshape(shape)
            self._price.append(prices)
            for axis, group in enumerate(groups):
                for i, column in enumerate(self._columns[group]):
                    slab = np.take(shares, i, axis).ravel()
                    self._row([*((int(s), 1.0) for s in slab), (int(column), -1.0)], 0.0)

    def solve(self, cheapest_by: int | None = None) -> list[int] | None:
        """The widths that lose the least within all budgets, or cost the least of one within those before it.

        None where no widths keep to the budgets.
        """
        count = self._variables
        price = np.concatenate(self._price, axis=1) / self._scales[:, None]
        kept = slice(cheapest_by)
        rows, columns, values = (list(part) for part in zip(*self._entries, strict=True))
        equations = coo_array((values, (rows, columns)), shape=(len(self._right), count))
        binary = np.zeros(count)
        binary[: self._binaries] = 1
        loss = np.zeros(count)
        loss[: self._binaries] = self._loss
        found = milp(
            loss if cheapest_by is None else price[cheapest_by],
            integrality=binary,
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(equations.tocsr(), self._right, self._right),
                LinearConstraint(price[kept], -np.inf, ((self._limits - self._fixed) / self._scales)[kept]),
            ],
            options={"mip_rel_gap": GAP if cheapest_by is None else 0.0, "time_limit": TIME_LIMIT_S},
        )
        if found.status == _INFEASIBLE:
            return None
        if found.x is None or (found.status != 0 and found.mip_gap > _GOOD_ENOUGH):
            raise UsageError(
                f"prune: no good widths were found within {TIME_LIMIT_S:.0f} s: {found.message}",
                hint="prune.ignored_layers leaves layers whole, which makes the choice smaller",
            )
        return [
            self._candidates[group][int(np.argmax(found.x[columns]))]
            for group, columns in enumerate(self._columns)
        ]
