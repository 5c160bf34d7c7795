"""The files of all peers as points: what each lost, over its latency and over its size, and the front."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

AXES = {"latency_ms": ("latency, ms, one thread", 1.0), "size_bytes": ("size, kB", 1e-3)}
COLOURS = {
    "edgekd, host": "#c2410c",
    "edgekd, x86-onnx": "#f59e0b",
    "torch-pruning+nncf": "#1d4ed8",
    "nncf": "#60a5fa",
    "onnxruntime": "#0f766e",
    "ai-edge-quantizer": "#7c3aed",
    "tensorflow": "#64748b",
}


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in both coordinates, from left to right."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not best or y < best[-1][1]:
            best.append((x, y))
    return best


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws `result` of the benchmark; numbers beside points are the student's width."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 5), sharey=True, constrained_layout=True)
    for panel, (key, (label, unit)) in zip(panels, AXES.items(), strict=True):
        for peer, colour in COLOURS.items():
            rows = [row for row in result["rows"] if row["peer"] == peer]
            if not rows:
                continue
            x, y = [row[key] * unit for row in rows], [row["drop_pp"] for row in rows]
            marker = "D" if peer.startswith("edgekd") else "o"
            panel.scatter(x, y, color=colour, marker=marker, s=44, label=peer, zorder=3)
            for row, left, up in zip(rows, x, y, strict=True):
                at = {"textcoords": "offset points", "xytext": (5, 3), "fontsize": 7}
                panel.annotate(str(row["width"]), (left, up), color=colour, **at)
        line = front([(row[key] * unit, row["drop_pp"]) for row in result["rows"]])
        panel.step([x for x, _ in line], [y for _, y in line], where="post", color="#111827", lw=1, zorder=2)
        panel.axhline(result["margin_pp"], color="#b91c1c", lw=0.8, ls="--")
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("{x:g}")
        panel.set_xlabel(label)
        panel.tick_params(axis="x", which="both", labelsize=7)
        panel.grid(alpha=0.25, which="both")
    panels[0].set_ylabel("accuracy lost against the teacher, pp")
    names = panels[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=len(COLOURS), fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
