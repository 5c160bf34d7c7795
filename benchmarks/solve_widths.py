"""How long it takes to choose the widths of 60 groups at once, by the latency table of the target host.

The network is a ResNet of 19 blocks a stage: 57 groups inside the blocks and 3 that the sums tie together.
What each width loses is drawn at random (it falls with the width), since only time is looked at: for five
latencies, each with three draws. The table is made here where it is missing (some minutes).

Prints a table; the last line is one JSON document.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import torch

from edgekd.config import PruneConfig, load_target
from edgekd.latency.costs import Costs
from edgekd.latency.network import layers_of
from edgekd.latency.profile import profile
from edgekd.models import resnet
from edgekd.progress import Display
from edgekd.prune import structured, widths
from edgekd.prune.groups import Prunable
from edgekd.prune.importance import Samples
from edgekd.store import Store
from edgekd.terminal import console

LIMIT_S = 5.0
# Of the way from the narrowest network that is allowed to the whole one.
SHARES, DRAWS = (0.8, 0.6, 0.4, 0.2, 0.1), 3


def main() -> int:
    torch.manual_seed(0)
    net = resnet.build((3, 32, 32), 10, blocks=(19, 19, 19), width=16).eval()
    example = torch.randn(1, 3, 32, 32)
    samples = Samples(example, None, [slice(0, 10)])
    config = PruneConfig(epochs=1, goal="latency_ms", keep=0.5)
    found = Prunable(net, example, config, samples)
    wires = structured._wires(Prunable(net, example, config, samples), example)
    with Display(console) as display:
        table = profile(load_target("host"), layers_of(net, example), Store(Store.default_root()), display)
    costs = Costs(table)

    def price(layer: Any) -> float:
        return costs.of(layer).value

    least = [found.least(i) for i in range(len(found.groups))]
    started = time.perf_counter()
    candidates = widths.edges(wires, found.widths, least, [price])
    pricing_s = time.perf_counter() - started
    whole = widths.total(wires, found.widths, price)
    narrowest = widths.total(wires, [min(c) for c in candidates], price)
    rows = []
    for share in SHARES:
        budget = narrowest + share * (whole - narrowest)
        for draw in range(DRAWS):
            rng = np.random.default_rng(draw)
            losses = [np.sort(rng.exponential(size=len(c)))[::-1] * (np.array(c) < c[-1]) for c in candidates]
            started = time.perf_counter()
            chosen = widths.choose(wires, candidates, losses, [widths.Budget("latency", price, budget)])
            took_s = time.perf_counter() - started
            met = widths.total(wires, chosen, price)
            asked, reached = budget / whole, met / whole
            rows.append({"asked": asked, "draw": draw, "reached": reached, "seconds": took_s})
    print(f"{len(found.groups)} groups, {sum(map(len, candidates))} widths, found in {pricing_s:.2f} s")
    print("| latency asked for | draw | reached | s |\n|---:|---:|---:|---:|")
    for row in rows:
        print(f"| {row['asked']:.4f} | {row['draw']} | {row['reached']:.4f} | {row['seconds']:.2f} |")
    worst_s = max(row["seconds"] for row in rows)
    groups = len(found.groups)
    print(json.dumps({"benchmark": "solve_widths", "groups": groups, "worst_s": worst_s, "rows": rows}))
    return 0 if worst_s <= LIMIT_S and groups >= 60 else 1


if __name__ == "__main__":
    sys.exit(main())
