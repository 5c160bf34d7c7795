"""Markdown that must not be longer than a comment may be: what does not fit is left out whole, and said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# GitHub refuses longer comments, and GitLab and others allow more.
LIMIT = 65_536
BODY = LIMIT - 536  # so that a workflow can put a line of its own before it
_NOTE = 400  # characters kept for the line that says what was left out


@dataclass(frozen=True)
class Block:
    """Text that stands or falls as a whole, around rows of which fewer may stand.

    Attributes:
        before: up to the first row, a table's head included.
        rows: of a table, one a line; those that matter most first.
        after: what follows the rows.
        name: what is left out where it does not fit.
    """

    before: str
    rows: tuple[str, ...] = ()
    after: str = ""
    name: str = ""

    def text(self, count: int, elsewhere: str) -> str:
        """With the first `count` rows, and where the others stand."""
        cut = len(self.rows) - count
        noun = "row stands" if cut == 1 else "rows stand"
        note = f"\n\n_{cut:,} more {noun} in {elsewhere}._" if cut else ""
        return "\n".join([self.before, *self.rows[:count]]) + note + self.after


def whole(blocks: Sequence[Block]) -> str:
    """All of it, whatever its length."""
    return "\n\n".join(block.text(len(block.rows), "") for block in blocks) + "\n"


def fitted(blocks: Sequence[Block], elsewhere: str, limit: int = BODY) -> str:
    """As much as fits into `limit` characters, in order.

    A table that is too long takes at most half of what is left, so that it cannot push out all that
    follows. What is left out is named at the end.

    Args:
        blocks: in their order.
        elsewhere: where all of it stands: `report.html`.
        limit: characters, more than `_NOTE`.
    """
    parts: list[str] = []
    dropped: list[str] = []
    room = limit - _NOTE
    for block in blocks:
        text = block.text(len(block.rows), elsewhere)
        if len(text) + 2 > (room if not block.rows else room // 2) and block.rows:
            text = block.text(_rows_within(block, elsewhere, room // 2), elsewhere)
        if len(text) + 2 > room:
            dropped.append(block.name)
            continue
        parts.append(text)
        room -= len(text) + 2
    if dropped:
        named = [name for name in dropped if name][:3]
        said = f" ({', '.join(named)}{' …' if len(dropped) > len(named) else ''})" if named else ""
        parts.append(f"_Left out for length{said}: see {elsewhere}._"[:_NOTE])
    return "\n\n".join(parts) + "\n"


def _rows_within(block: Block, elsewhere: str, room: int) -> int:
    """How many rows a block may have within `room` characters, its note included."""
    left = room - len(block.text(0, elsewhere)) - 10  # the note's own number may be longer
    for count, row in enumerate(block.rows):
        left -= len(row) + 1
        if left < 0:
            return count
    return len(block.rows)


def shortened(text: str, most: int) -> str:
    """At most `most` characters, with an ellipsis where some are left out."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
