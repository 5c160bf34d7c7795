"""Whose clock a target is pruned by: this computer's, or that of a table that was measured on the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.config import PruneConfig, Target
from edgekd.devices.local import local_kind
from edgekd.devices.machine import TELLING
from edgekd.errors import UsageError
from edgekd.latency.profile import clock_here
from edgekd.latency.table import Clock, Table, load
from edgekd.sources import source_of
from edgekd.store import Store

KEY = "prune.latency_tables"


@dataclass(frozen=True)
class Whose:
    """A clock, and the checksum of the table that was given for it; None: it is this computer's."""

    clock: Clock
    table_sha256: str | None = None


def clocks(
    config: PruneConfig, targets: Sequence[Target], store: Store, host: Mapping[str, Any]
) -> dict[str, Whose]:
    """Target -> whose clock it is pruned by.

    Args:
        config: names tables, and whether this computer may stand in for targets that have none.
        targets: all that are pruned to a latency.
        store: remembers the hashes of files.
        host: what this computer is (`devices.machine.host_info`).

    Raises:
        UsageError: a table that serves none of the targets, two for one, or none for a target whose clock
            is not here.
    """
    paths = {path: sha256 for path, sha256 in _files(config, store)}
    tables = {path: _table(path) for path in paths}
    unlike = {
        path: {target.name: difference(table.clock, target, host) for target in targets}
        for path, table in tables.items()
    }
    for path, by_target in unlike.items():
        if all(by_target.values()):
            why = "; ".join(f"for {name} {different}" for name, different in by_target.items())
            raise UsageError(
                f"{KEY}: {path} tells none of the targets' clocks: {why}",
                hint="what a layer costs changes with processor and runtime: measure again: edgekd profile",
            )
    found = {}
    for target in targets:
        serving = [path for path in paths if not unlike[path][target.name]]
        if len(serving) > 1:
            raise UsageError(
                f"{KEY}: {serving[0]} and {serving[1]} both tell the clock of {target.name!r}",
                hint="name one of them",
            )
        if serving:
            found[target.name] = Whose(tables[serving[0]].clock, paths[serving[0]])
        elif local_kind(target) == "measured" or config.stand_in:
            found[target.name] = Whose(clock_here(target, host))
        else:
            clock_here(target, host)  # a scheme without tables is the better reason
            there = (
                f"measure on it: edgekd profile --target {target.name} --recipe RECIPE --output FILE, and "
                f'name the file here: {KEY} = ["FILE"]; or '
            )
            raise UsageError(
                f"prune: target {target.name!r} has another clock than this computer: "
                f"{target.processor.description or target.processor.isa}",
                # A phone runs no Python.
                hint=("" if target.processor.board == "Android" else there)
                + "let this computer stand in: prune.stand_in = true",
            )
    return found


def table_of(sha256: str, config: PruneConfig, store: Store) -> Table:
    """The table with this checksum, of those that the recipe names.

    Raises:
        UsageError: none of them has it any more.
    """
    for path, found in _files(config, store):
        if found == sha256:
            return _table(path)
    raise UsageError(f"{KEY}: a table was changed while this run was under way", hint="run it again")


def _table(path: Path) -> Table:
    try:
        return load(path)
    except UsageError as error:
        raise UsageError(
            f"{KEY}: {error.message}",
            hint="edgekd profile --target TARGET --recipe RECIPE --output FILE makes one",
        ) from None


def _files(config: PruneConfig, store: Store) -> list[tuple[Path, str]]:
    sources = [source_of(KEY, name, store) for name in config.latency_tables]
    return [(Path(source["path"]), source["sha256"]) for source in sources]


def difference(clock: Clock, target: Target, host: Mapping[str, Any]) -> str:
    """Why a table of this clock tells nothing of a target, or nothing.

    The runtime's version is held to the one that judges the file here.
    """
    if local_kind(target) == "measured":
        return clock.difference(clock_here(target, host))
    there = {"cpu": clock.cpu, "isa": clock.isa, "features": clock.features}
    if found := clock.difference(clock_here(target, there)):
        return found
    processor = target.processor
    if processor.isa not in ("any", clock.isa):
        return f"isa = {clock.isa!r}, not {processor.isa!r}"
    if processor.board is not None and processor.board not in clock.cpu:
        return f"cpu = {clock.cpu!r}, not {processor.board!r}"
    missing = [name for name in processor.features if name in TELLING and name not in clock.features]
    return f"features lack {missing[0]!r}" if missing else ""
