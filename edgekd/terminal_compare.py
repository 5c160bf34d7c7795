"""What `edgekd compare` prints."""

from __future__ import annotations

from rich.markup import escape

from edgekd.report.compare import cell, headline
from edgekd.report.compared import Comparison
from edgekd.terminal import COLOURS, console, empty_table

TONES = {"pass": "green", "fail": "red", "inconclusive": "yellow", "none": "dim"}


def show_comparison(found: Comparison) -> None:
    """What differs besides the files, each figure of each target, then what got worse or better."""
    for caution in found.cautions:
        console.print(f"[yellow]{escape(caution)}[/yellow]")
    head = ("target", "figure", "Old", "New", "Change", "Interval (90%)", "beyond noise")
    table = empty_table("new against old", head)
    reasons: dict[tuple[str, str], list[str]] = {}
    for target in found.targets:
        old, new = target.old_verdict, target.new_verdict
        shown = [f"[{COLOURS[s]}]{s}[/]" for s in (old, new)]
        table.add_row(escape(target.target), "verdict", *shown, "", "", "" if old == new else target.verdict)
        for change in target.figures:
            one = cell(change)
            word = f"[{TONES[one.tone]}]{one.word}[/]"
            table.add_row("", one.name.lower(), one.old, one.new, one.change, one.interval, word)
            reasons.setdefault((one.name, one.basis), []).append(target.target)
        table.add_section()
    if found.targets:
        console.print(table)
        console.print("[bold]compared by[/]")
        for (name, basis), targets in reasons.items():
            console.print(f"[dim]{escape(name)} of {escape(', '.join(targets))}: {escape(basis)}[/dim]")
    for which, names in (("old", found.only_old), ("new", found.only_new)):
        if names:
            console.print(f"only in the {which} report: {escape(', '.join(names))}")
    console.print(f"\n{escape(headline(found))}")
