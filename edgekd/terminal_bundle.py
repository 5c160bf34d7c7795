"""What `edgekd bundle` and `edgekd verify` print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from edgekd.terminal import COLOURS, console, size_text
from edgekd.terminal_report import show_verdict

if TYPE_CHECKING:
    from edgekd.bundle.pack import Packed
    from edgekd.bundle.verify import Verified


def show_packed(packed: Packed) -> None:
    """A bundle that was made."""
    signed = "unsigned: nobody vouches for it" if packed.key_id is None else f"signed by key {packed.key_id}"
    colour = COLOURS[packed.status]
    console.print(
        f"{escape(str(packed.path))}: {packed.num_files} files, {size_text(packed.size_bytes)}, "
        f"verdict [{colour}]{packed.status}[/], {signed}",
        soft_wrap=True,
    )


def show_verified(found: Verified, path: Path) -> None:
    """A bundle that is what it says, and its verdict made again."""
    show_verdict(found.report)
    signed = "signed by nobody" if found.key_id is None else f"signed by key {found.key_id}"
    console.print(
        f"{escape(str(path))}: {signed}; all {found.num_files} files are as they were, the verdict follows "
        f"from them; license {escape(found.license_)}",
        soft_wrap=True,
    )
