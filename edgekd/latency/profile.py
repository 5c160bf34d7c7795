"""The table of a target: what it is filled with, and where it lies."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edgekd import probes, runtimes
from edgekd.config import Recipe, Target
from edgekd.devices.machine import host_info
from edgekd.errors import UsageError
from edgekd.latency.costs import Costs
from edgekd.latency.profiler import MATTERS, STRAIGHT, Measure, axes_of, fill, fill_exactly
from edgekd.latency.table import VERSION, Clock, Table, clock_of, load
from edgekd.latency.timing import measure_here
from edgekd.layers import Layer
from edgekd.progress import QUIET, Display
from edgekd.store import Store, hash_of

# Image side and channels of the small networks that tables are made for where no recipe says which,
# and the widest layers at full, half and quarter resolution.
_IMAGES = ((32, 3), (28, 1))
_WIDEST = (64, 128, 256)
_CLASSES = 10


def clock_here(target: Target, host: Mapping[str, Any] | None = None) -> Clock:
    """The clock of a target on this computer, or on one that `host` describes (`devices.machine.host_info`).

    Raises:
        UsageError: the target's scheme has no probes.
    """
    if target.artifact.scheme not in probes.SCHEMES:
        raise UsageError(
            f"target {target.name!r}: no latency tables for scheme {target.artifact.scheme!r}",
            hint=f"they are for: {', '.join(probes.SCHEMES)}",
        )
    return clock_of(target, runtimes.version(target.runtime.name), host or host_info())


def path_of(clock: Clock, store: Store) -> Path:
    """Where the table of a clock lies."""
    return store.root / "latency" / f"{hash_of([VERSION, clock.model_dump()])[:24]}.json"


def profile(target: Target, layers: Iterable[Layer], store: Store, display: Display = QUIET) -> Table:
    """Times layers, and all narrower ones, into the target's table; a table begun before is gone on with.

    Args:
        target: whose runtime, format and scheme.
        layers: as wide as they may become.
        store: where the table is kept.
        display: where progress is shown.

    Raises:
        UsageError: the target's scheme has no probes, or what lies there is no table.
        MeasurementError: a probe does not run, or the computer is never undisturbed.
    """
    with _table_of(target, store, display) as (table, measure):
        fill(layers, table, measure)
    return table


def in_either(target: Target, layers: Iterable[Layer], store: Store, display: Display = QUIET) -> Table:
    """As `profile`, of layers at their own widths alone: in integers, and `in_float`."""
    both = [one for layer in layers for one in (layer, replace(layer, in_float=True))]
    with _table_of(target, store, display) as (table, measure):
        fill_exactly(both, table, measure)
    return table


@contextmanager
def _table_of(target: Target, store: Store, display: Display) -> Iterator[tuple[Table, Measure]]:
    """A target's table, which no other run writes meanwhile, and what times into it."""
    clock = clock_here(target)
    path = path_of(clock, store)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        display.line("  another run measures into the same latency table: waiting")
        lock.acquire()
    try:
        table = load(path) if path.is_file() else Table(clock)
        yield table, measure_here(table, path, display)
        table.save(path)
    finally:
        lock.release()


def steps(table: Table, layers: Iterable[Layer]) -> dict[str, list[tuple[int, float]]]:
    """For each shape (and side, where a layer has two): widths that were timed, with milliseconds.

    The other side is at its widest. Widths that lie on the line between their neighbours are left out.
    """
    costs, unit_ms = Costs(table), table.unit_ms
    found: dict[str, list[tuple[int, float]]] = {}
    for layer in {layer.shape: layer for layer in layers}.values():
        for axis in axes_of(layer, table.grids[layer.shape]):
            line = [(w, costs.timed(axis.layer_at(w))) for w in axis.widths]
            name = layer.shape if axis.side == "both" else f"{layer.shape} {axis.side}"
            found[name] = [(w, cost * unit_ms) for w, cost in _bends(line)]
    return found


def _bends(line: list[tuple[int, float]]) -> list[tuple[int, float]]:
    kept = line[:1]
    for (w, cost), (after, later) in itertools.pairwise(line[1:]):
        before, earlier = kept[-1]
        straight = earlier + (w - before) / (after - before) * (later - earlier)
        if abs(cost - straight) > max(STRAIGHT * max(cost, earlier, later), MATTERS):
            kept.append((w, cost))
    return kept + line[1:][-1:]


def common_layers() -> list[Layer]:
    """What small residual and depthwise networks on small images hold, at its widest."""
    found = []
    for side, channels in _IMAGES:
        found.append(Layer("conv", side, side, channels, _WIDEST[0], 3, 1, 1))
        for i, widest in enumerate(_WIDEST):
            size, next_widest = side >> i, _WIDEST[min(i + 1, len(_WIDEST) - 1)]
            for kernel in (1, 3):
                found.append(Layer("conv", size, size, widest, widest, kernel, 1, kernel // 2))
                found.append(Layer("conv", size, size, widest, next_widest, kernel, 2, kernel // 2))
            found += [Layer("depthwise", size, size, 2 * widest, 2 * widest, 3, s, 1) for s in (1, 2)]
            found += [
                Layer("add", size, size, widest, widest),
                Layer("global_pool", size, size, widest, widest),
            ]
    return [*found, Layer("linear", 1, 1, 2 * _WIDEST[-1], _CLASSES)]


def student_layers(recipe: Recipe) -> tuple[Layer, ...]:
    """The layers of what a recipe compresses: its student, else its teacher.

    Raises:
        UsageError: it is no network, or holds an operator that tables do not know.
        DataError: the recipe's data cannot be read.
    """
    import torch

    from edgekd import models, tasks
    from edgekd.latency.network import layers_of

    config = (recipe.student or recipe.teacher).model  # type: ignore[union-attr]  # one of them is there
    if config is None or config.kind == "object":
        raise UsageError(f"recipe {recipe.name!r}: what it compresses is no network that can be built here")
    task = tasks.read(recipe.task, recipe.seed)
    module = models.build(config, task, recipe.seed)
    return layers_of(module, torch.zeros(1, *task.input_spec.shape))
