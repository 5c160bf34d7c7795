"""Stage: cut the student to the goal, then let it recover by distilling from the same teacher."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.config import PruneConfig
from edgekd.devices.local import local_kind
from edgekd.errors import MeasurementError, UsageError
from edgekd.latency import given
from edgekd.latency.costs import Costs
from edgekd.latency.network import layers_of, predict
from edgekd.latency.profile import profile
from edgekd.layers import Layer
from edgekd.nodes import BYTES_PER_WEIGHT, Node
from edgekd.prune import groups, structured, zeros
from edgekd.prune.importance import Samples
from edgekd.prune.sparse import group_lasso
from edgekd.prune.widths import Budget, OutOfReach, Price
from edgekd.stages import saved, twins
from edgekd.stages.context import Context
from edgekd.stages.distill import History, learn
from edgekd.store import Entry
from edgekd.types import VECTOR

TOO_HIGH = "lower prune.limit or prune.keep, or leave [prune] out"
SAMPLES = 512  # on which it is seen what each width loses


@dataclass(frozen=True)
class _Goal:
    """What a network shall have less of.

    Attributes:
        of: what that is, as a recipe calls it.
        whole: what the student has of it.
        limit: what it may have in the end.
        cost: what a network has of it.
    """

    of: str
    whole: float
    limit: float
    cost: Callable[[nn.Module], float]

    def at(self, share: float) -> float:
        """The limit at a share of the way: equal shares are equal factors."""
        if share == 1 or self.whole <= self.limit:
            return self.limit
        return self.whole * math.exp(share * math.log(self.limit / self.whole))


Limits = Sequence[float]  # for each goal


@dataclass(frozen=True)
class _Way:
    """How networks are brought to goals.

    Attributes:
        goals: the recipe's goal, then what it is to keep within.
        cut: a network, limits and the channels of its layers before any cut (None: it is uncut) to a
            narrower copy, and the cuts.
        check: raises where the student, trained or not, cannot be brought there; says what it leaves whole.
    """

    goals: tuple[_Goal, ...]
    cut: Callable[[nn.Module, Limits, groups.Channels | None], tuple[nn.Module, groups.Round]]
    check: Callable[[nn.Module], list[str]]

    def limits(self, share: float) -> list[float]:
        """Of all goals."""
        return [goal.at(share) for goal in self.goals]


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the pruned network with the history that rebuilds it."""
    config = PruneConfig.model_validate(node.config["prune"])
    source = context.parent(node, "network")
    module = saved.load(source, context)
    way = _way(module, config, node, context)
    goal = way.goals[0]
    if config.goal == "nonzero_weights":
        context.display.line(
            f"  {goal.limit:,.0f} of {goal.whole:,.0f} weights stay; kernels multiply zeros too, only "
            "compressed files shrink"
        )
    several = config.rounds > 1 or config.sparse is not None
    first = groups.channels_of(module) if several else None
    taken: list[groups.Round] = []
    epochs = _made_sparse(module, config, node, context) if config.sparse is not None else ()
    rounds = []
    for turn in range(1, config.rounds + 1):
        limits = way.limits(turn / config.rounds)
        # Widths go in steps: the round before may have gone as far.
        if any(each.cost(module) > limit for each, limit in zip(way.goals, limits, strict=True)):
            module, cut = way.cut(module, limits, first)
            taken += [cut] if cut["channels"] or cut["blocks"] else []
        if (twin := _cut_alike(taken, config, node, context)) is not None:
            twin.copy_to(folder)
            (once,) = twin.result["rounds"]
            own = {
                "rounds": [{**once, "cost": goal.cost(module)}],
                "predicted_latency": _predicted(goal, module),
            }
            return {**twin.result, **own}
        after_step = (
            zeros.held(module, config.ignored_layers) if config.goal == "nonzero_weights" else zeros.unheld
        )
        before = saved.accuracy_on(module, "val", context)
        epochs = learn(module, _share(config, turn), node, context, epochs, after_step=after_step)
        rounds.append({"cost": goal.cost(module), "val_accuracy_before_recovery": before})
    earlier = saved.architecture_of(source)
    architecture = {**earlier, "pruning_history": [*earlier.get("pruning_history", []), *taken]}
    result = saved.save(folder, module, context, architecture)
    if config.goal == "latency_ms":
        result["predicted_latency"] = _predicted(goal, module)
    if config.goal == "nonzero_weights":
        result["nonzero_weights"] = int(goal.cost(module))
    return {
        **result,
        **saved.robust_accuracy(module, config, context),
        "history": epochs,
        "rounds": rounds,
        "removed_blocks": [path for cut in taken for path in cut["blocks"]],
    }


def _predicted(goal: _Goal, module: nn.Module) -> dict[str, float]:
    return {"whole_ms": goal.whole, "pruned_ms": goal.cost(module), "limit_ms": goal.limit}


def _cut_alike(taken: list[groups.Round], config: PruneConfig, node: Node, context: Context) -> Entry | None:
    """The network that another clock has had cut in the same way, recovered; None where there is none."""
    if config.goal != "latency_ms" or config.rounds > 1 or config.sparse is not None:
        return None  # the cuts of a second round are not known before the first is trained
    earlier = saved.architecture_of(context.parent(node, "network")).get("pruning_history", [])
    for other, entry in twins.of(node, context):
        if saved.architecture_of(entry)["pruning_history"] == [*earlier, *taken]:
            context.display.line(f"  cut as {other.label} was: that is trained already")
            return entry
    return None


def _made_sparse(module: nn.Module, config: PruneConfig, node: Node, context: Context) -> History:
    """Trains with a penalty on whole channels, so that those which matter least are small when cut."""
    assert config.sparse is not None
    strength = config.sparse.strength
    penalty = group_lasso(module, saved.example_input(context.task), config, _samples(context))
    training = config.model_copy(update={"epochs": config.sparse.epochs})
    return learn(module, training, node, context, penalty=lambda: strength * penalty())


def _share(config: PruneConfig, turn: int) -> PruneConfig:
    """The training of a round, from 1: the last has what division leaves over."""
    share, over = divmod(config.epochs, config.rounds)
    epochs = share + (over if turn == config.rounds else 0)
    warmup = config.warmup_epochs * epochs / config.epochs
    return config.model_copy(update={"epochs": epochs, "warmup_epochs": warmup})


def check(context: Context, left: Sequence[Node]) -> None:
    """Nothing where each student can be brought to its goal, as far as that is a matter of its architecture
    and of the target's clock, which is measured for it; before any training. Says what stays whole.

    Args:
        context: the run.
        left: the nodes without a result.

    Raises:
        UsageError: a layer path that does not exist, nothing that can be pruned, a goal that is met already
            or out of reach, or an operator that tables do not know, with its name.
        MeasurementError: a table that was given lacks a layer.
    """
    for node in (node for node in left if node.stage == "prune"):
        config = PruneConfig.model_validate(node.config["prune"])
        student = saved.fresh(dict(context.plan.node(node.parents["network"]).config), context)
        if config.goal == "nonzero_weights":
            zeros.begin(student)
        whole = _way(student, config, node, context).check(student)
        if config.goal != "nonzero_weights":
            whole += structured.left_whole(
                student,
                saved.example_input(context.task),
                config,
                channel_multiple=node.config.get("channel_multiple", 1),
                samples=_samples(context),
            )
        for reason in whole:
            context.display.line(f"  {node.label}: stays whole: {reason}")


def _way(module: nn.Module, config: PruneConfig, node: Node, context: Context) -> _Way:
    ways = {"latency_ms": _by_clock, "nonzero_weights": _by_weight}
    return ways.get(config.goal, _by_count)(module, config, node, context)


def _by_count(module: nn.Module, config: PruneConfig, node: Node, context: Context) -> _Way:
    """To a goal that is counted."""
    example, bytes_per_weight = saved.example_input(context.task), node.config["bytes_per_weight"]

    def cost(net: nn.Module) -> float:
        return structured.cost(net, example, config.goal, bytes_per_weight)

    def cut(net: nn.Module, limits: Limits, first: groups.Channels | None) -> tuple[nn.Module, groups.Round]:
        return structured.prune(
            net,
            example,
            config,
            limit=math.floor(limits[0]),
            channel_multiple=node.config["channel_multiple"],
            bytes_per_weight=bytes_per_weight,
            samples=_samples(context),
            seed=context.seed,
            first=first,
        )

    whole = cost(module)
    limit = math.floor(_limit(config, whole))
    if limit >= whole:
        raise UsageError(
            f"prune: the goal of {limit:,} {config.goal} is not below the student's own {whole:,}",
            hint=TOO_HIGH,
        )

    def check(net: nn.Module) -> list[str]:
        cut(net, [limit], None)
        return []

    return _Way((_Goal(config.goal, whole, limit, cost),), cut, check)


def _by_weight(module: nn.Module, config: PruneConfig, node: Node, context: Context) -> _Way:
    """To so many weights that are not zero."""
    none: groups.Round = {"channels": [], "blocks": []}

    def cut(net: nn.Module, limits: Limits, first: groups.Channels | None) -> tuple[nn.Module, groups.Round]:
        if config.pattern == "2:4":
            return zeros.two_of_four(net, config), none
        return zeros.smallest(net, config, math.floor(limits[0]), context.seed), none

    whole = zeros.nonzeros(module)
    two_of_four = config.pattern == "2:4"
    limit = zeros.nonzeros(cut(module, (), None)[0]) if two_of_four else math.floor(_limit(config, whole))
    if limit >= whole:
        raise UsageError(
            f"prune: the goal of {limit:,} weights is not below the student's own {whole:,}", hint=TOO_HIGH
        )

    def check(net: nn.Module) -> list[str]:
        cut(net, [limit], None)
        return []

    return _Way((_Goal(config.goal, whole, limit, zeros.nonzeros),), cut, check)


def _by_clock(module: nn.Module, config: PruneConfig, node: Node, context: Context) -> _Way:
    """To a latency by the table of this node's targets, measured now where it is missing."""
    # All targets of a node have one clock.
    targets = [t for t in context.plan.targets if t.name in node.targets]
    target, example = targets[0], saved.example_input(context.task)
    layers = layers_of(module, example)
    if (sha256 := node.config.get("table_sha256")) is not None:
        assert context.plan.recipe.prune is not None
        table = given.table_of(sha256, context.plan.recipe.prune, context.store)
    else:
        if others := [t.name for t in targets if local_kind(t) != "measured"]:
            context.display.line(f"  this computer's clock stands in for that of {', '.join(others)}")
        table = profile(target, layers, context.store, context.display)
    costs, unit_ms = Costs(table), table.unit_ms
    if sha256 is not None and (beyond := predict(layers, costs).outside):
        raise MeasurementError(
            f"the latency table that was given for {target.name} has no layer as wide as {beyond[0]}",
            hint=f"measure what this student holds: edgekd profile --target {target.name} --recipe RECIPE",
        )

    def price_ms(layer: Layer) -> float:
        return costs.of(layer).value * unit_ms

    def cost(net: nn.Module) -> float:
        return predict(layers_of(net, example), costs).ratio * unit_ms

    within = config.within.model_dump(exclude_none=True) if config.within is not None else {}
    bytes_per_weight = BYTES_PER_WEIGHT[target.artifact.scheme]
    counted = {of: structured.counted(of, bytes_per_weight) for of in within}
    whole_ms = cost(module)
    overhead_ms = whole_ms - sum(map(price_ms, layers))  # of a call, whatever the layers in between

    def budgets(limits: Limits) -> list[Budget]:
        found = [Budget("latency_ms", price_ms, limits[0] - overhead_ms)]
        for (of, price), limit in zip(counted.items(), limits[1:], strict=True):
            found.append(Budget(of, price, limit))
        return found

    def cut(net: nn.Module, limits: Limits, first: groups.Channels | None) -> tuple[nn.Module, groups.Round]:
        with in_words():
            return structured.prune_by_price(
                net,
                example,
                config,
                budgets=budgets(limits),
                samples=_samples(context),
                seed=context.seed,
                first=first,
            )

    def check(net: nn.Module) -> list[str]:
        with in_words():
            return structured.check_prices(
                net, example, config, budgets=budgets(way.limits(1)), samples=_samples(context)
            )

    @contextmanager
    def in_words() -> Iterator[None]:
        try:
            yield
        except OutOfReach as error:
            if error.budget.of == "latency_ms":
                asked = error.budget.limit + overhead_ms
                what = f"{asked:.4g} ms on {target.name} is out of reach: the smallest network takes "
                what += f"{overhead_ms + error.least:.4g} ms by the table"
            else:
                what = f"within {error.budget.of} = {error.budget.limit:,.0f} is out of reach: the smallest "
                what += f"network has {error.least:,.0f}"
            raise UsageError(
                f"prune: {what}",
                hint="raise prune.max_pruning_ratio or the limit"
                + ("" if config.remove_blocks else ", or let blocks go: prune.remove_blocks = true"),
            ) from None

    limit_ms = _limit(config, whole_ms)
    if limit_ms >= whole_ms:
        raise UsageError(
            f"prune: the goal of {limit_ms:.4g} ms is not below what the student takes on {target.name}, "
            f"{whole_ms:.4g} ms by the table",
            hint=TOO_HIGH,
        )
    goals = [_Goal("latency_ms", whole_ms, limit_ms, cost)]
    for of, price in counted.items():
        has = functools.partial(_sum, price, example)
        goals.append(_Goal(of, has(module), within[of], has))
    way = _Way(tuple(goals), cut, check)
    return way


def _sum(price: Price, example: torch.Tensor, net: nn.Module) -> float:
    return sum(map(price, layers_of(net, example)))


def _limit(config: PruneConfig, whole: float) -> float:
    return config.limit if config.limit is not None else whole * (config.keep or 1.0)


def _samples(context: Context) -> Samples:
    """Some of the training samples."""
    split, spec = context.task.splits["train"], context.task.input_spec
    chosen = np.random.default_rng(context.seed).permutation(len(split))[:SAMPLES]
    chosen = np.sort(chosen)
    return Samples(
        torch.from_numpy(spec.preprocess(np.asarray(split.inputs[chosen]))),
        None if split.labels is None else torch.from_numpy(split.labels[chosen]),
        tuple(context.task.columns.values()),
        context.task.parts.get(VECTOR),
    )
