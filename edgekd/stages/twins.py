"""Trainings that would come to the same: targets whose clocks want the same widths share what was learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgekd.nodes import Node
from edgekd.stages.context import Context
from edgekd.store import Entry

_OF_CLOCK = ("clock", "table_sha256")


def of(node: Node, context: Context) -> Iterator[tuple[Node, Entry]]:
    """Nodes of this run that have done what this one does from what this one has; their clocks apart."""
    for other in context.plan.nodes:
        if other.label == node.label:
            return  # the rest has not run
        if (
            other.stage == node.stage
            and _settings(other) == _settings(node)
            and _have_the_same(other, node, context)
        ):
            yield other, context.entries[other.label]


def _settings(node: Node) -> dict[str, Any]:
    return {name: value for name, value in node.config.items() if name not in _OF_CLOCK}


def _have_the_same(one: Node, other: Node, context: Context) -> bool:
    if one.parents.keys() != other.parents.keys():
        return False
    return all(_equal(context.parent(one, role), context.parent(other, role)) for role in one.parents)


def _equal(one: Entry, other: Entry) -> bool:
    """Whether they hold the same files, byte for byte, or without files say the same."""
    return one.files == other.files and (bool(one.files) or one.result == other.result)
