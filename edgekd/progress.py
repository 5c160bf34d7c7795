"""What a person sees while a run works: one bar with an ETA, or plain lines off a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
PLAIN_LINE_EVERY_S = 15.0
BAR_AFTER_S = 2.0


class Display:
    """Prints to the real terminal, also while the libraries' output goes to a log."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Progress | None = None

    def __enter__(self) -> Display:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the bar of work that failed: its traceback keeps the generator, and with it the bar, alive."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def line(self, text: str) -> None:
        """One line, with Rich markup."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def track(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        """Yields the items, showing how far it is once it has taken longer than 2 s."""
        if self.console.quiet:
            return iter(items)
        return self._bar(items, what, total) if self.console.is_terminal else self._plain(items, what, total)

    def _bar(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        started = time.monotonic()
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True, disable=False) as progress:
            self._live = progress
            task = progress.add_task(what, total=total, visible=False)
            for item in items:
                yield item
                progress.update(task, advance=1, visible=time.monotonic() - started > BAR_AFTER_S)
            self._live = None

    def _plain(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        started = last = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - last >= PLAIN_LINE_EVERY_S:
                last = now
                left = (now - started) / done * (total - done)
                self.line(f"  {what}: {done}/{total}, about {left:.0f} s left")


QUIET = Display(Console(quiet=True))


@contextmanager
def chatter_to(log: Path) -> Iterator[Console]:
    """Sends all that libraries print (C++ too) to a log file; yields a console on the real stdout."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    log.parent.mkdir(parents=True, exist_ok=True)
    # Notebooks put objects without a file descriptor in place of stdout: those are shown as they are.
    real = sys.stdout
    attached = real is sys.__stdout__
    out = os.fdopen(os.dup(saved[0]), "w", buffering=1) if attached else real
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield Console(file=out)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            for descriptor in saved:
                os.close(descriptor)
            if attached:
                out.close()
