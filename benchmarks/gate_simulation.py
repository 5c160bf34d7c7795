"""What the gate promises, by simulation: how often each rule passes a good and a bad artifact.

Why: a gate that passes on "no significant difference" rewards small test sets,
and one that compares two point estimates passes half of all artifacts that lie
exactly at the margin. Both tables of the gate's design are simulated here with
the very functions that decide a release, and printed beside the design's
figures; then what the number of samples that the gate advises is worth, and what
asking a test split again and again costs. The last line is one JSON document.

    python benchmarks/gate_simulation.py --repeats 200000 --output reports/gate
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import betainc

from edgekd.config import GateConfig
from edgekd.gate.statistics import inferior, non_inferior, normal_quantile, samples_needed_at_drop

MARGIN, ALPHA = 0.01, 0.05

# (n, true drop, design: point estimate, McNemar, gate), discordance 6%; per cent that pass.
RULES = (
    (300, 0.010, 55.0, 83.0, 4.8),
    (1_000, 0.010, 53.0, 64.0, 4.9),
    (1_000, 0.015, 28.0, 38.0, 1.1),
    (1_000, 0.000, 91.0, 95.0, 35.3),
    (5_000, 0.000, 99.8, 95.0, 89.1),
    (50_000, 0.005, 100.0, 0.2, 99.8),
)

# (true drop, discordance, design: PASS, FAIL, INCONCLUSIVE), n = 10,000; per cent.
VERDICTS = (
    (0.000, 0.03, 100.0, 0.0, 0.0),
    (0.000, 0.06, 99.3, 0.0, 0.7),
    (0.000, 0.10, 93.6, 0.1, 6.3),
    (0.003, 0.03, 99.1, 0.0, 0.9),
    (0.003, 0.06, 88.6, 0.2, 11.1),
    (0.003, 0.10, 71.4, 1.4, 27.2),
    (0.005, 0.03, 88.6, 0.2, 11.2),
    (0.005, 0.06, 65.1, 2.2, 32.8),
    (0.005, 0.10, 47.5, 5.9, 46.7),
    (0.008, 0.03, 30.7, 13.0, 56.3),
    (0.008, 0.06, 20.3, 21.4, 58.4),
    (0.008, 0.10, 15.7, 26.7, 57.6),
    (0.010, 0.03, 4.9, 51.0, 44.1),
    (0.010, 0.06, 5.0, 51.0, 44.1),
    (0.010, 0.10, 4.9, 50.8, 44.3),
)


# (discordance, margin, true drop): what `--assumed-drop` is asked for.
ADVISED = (
    (0.02, 0.01, 0.000),
    (0.06, 0.01, 0.000),
    (0.06, 0.01, 0.003),
    (0.06, 0.01, 0.005),
    (0.10, 0.02, 0.000),
    (0.10, 0.02, 0.010),
)
ASKED = (1, 2, 5, 10, 20)


def simulate(rng: np.random.Generator, n: int, psi: float, drop: float, repeats: int) -> dict[str, float]:
    """Per cent of repeats in which each rule says so, drawing (b, c) from the trinomial."""
    b, c, _ = rng.multinomial(n, [(psi + drop) / 2, (psi - drop) / 2, 1 - psi], repeats).T
    passes, fails = non_inferior(b, c, n, MARGIN, ALPHA), inferior(b, c, n, MARGIN, ALPHA)
    # P(X >= b) for X binomial(b + c, 1/2); 1 where b = 0.
    exact_p = np.where(b > 0, betainc(np.maximum(b, 1), c + 1, 0.5), 1.0)
    answers = {
        "point": b - c <= n * MARGIN + 1e-9,
        "mcnemar": b - c < normal_quantile(1 - ALPHA) * np.sqrt(np.maximum(b + c, 1)),
        "mcnemar_exact": exact_p > ALPHA,
        "pass": passes,
        "fail": fails,
        "inconclusive": ~passes & ~fails,
    }
    return {name: round(100 * float(np.mean(says)), 3) for name, says in answers.items()}


def tolerance(design: float, repeats: int) -> float:
    """Rounding of the design's figure, and 4 standard errors of its simulation and of this one."""
    share = min(max(design, 0.05), 99.95) / 100
    rounding = 0.05 if design != round(design) or design in (0.0, 100.0) else 0.5
    return rounding + 4 * 100 * math.sqrt(share * (1 - share) * (1 / repeats + 1 / 200_000))


def compare(kind: str, row: dict[str, Any], design: dict[str, float], repeats: int) -> dict[str, Any]:
    """One result: settings, simulated and design figures, and whether they agree."""
    agrees = all(abs(row["found"][k] - v) <= tolerance(v, repeats) for k, v in design.items())
    return {"table": kind, **row, "design": design, "agrees": agrees}


def rules(rng: np.random.Generator, repeats: int) -> list[dict[str, Any]]:
    """The first table: three rules against each other."""
    print("Discordance 6%, margin 1 pp: per cent that pass, simulated (design)")
    print(
        f"{'n':>7} {'true drop':>10} {'point <= margin':>18} {'McNemar n.s.':>16} {'exact':>7} "
        f"{'this gate':>15}"
    )
    results = []
    for n, drop, point, mcnemar, gate in RULES:
        found = simulate(rng, n, 0.06, drop, repeats)
        design = {"point": point, "mcnemar": mcnemar, "pass": gate}
        row = compare("rules", {"n": n, "psi": 0.06, "drop": drop, "found": found}, design, repeats)
        cells = [f"{found[k]:.1f} ({design[k]:g})" for k in design]
        mark = "" if row["agrees"] else "  DIFFERS"
        print(
            f"{n:>7,} {100 * drop:>7.1f} pp {cells[0]:>18} {cells[1]:>16} "
            f"{found['mcnemar_exact']:>7.1f} {cells[2]:>15}{mark}"
        )
        results.append(row)
    return results


def verdicts(rng: np.random.Generator, repeats: int) -> list[dict[str, Any]]:
    """The second table: the three verdicts."""
    print("\nn = 10,000, margin 1 pp: per cent of each verdict, simulated (design)")
    print(f"{'true drop':>10} {'psi':>5} {'PASS':>16} {'FAIL':>16} {'INCONCLUSIVE':>16}")
    results = []
    for drop, psi, passes, fails, open_ in VERDICTS:
        found = simulate(rng, 10_000, psi, drop, repeats)
        design = {"pass": passes, "fail": fails, "inconclusive": open_}
        row = compare("verdicts", {"n": 10_000, "psi": psi, "drop": drop, "found": found}, design, repeats)
        cells = " ".join(f"{f'{found[k]:.1f} ({design[k]:g})':>16}" for k in design)
        mark = "" if row["agrees"] else "  DIFFERS"
        print(f"{100 * drop:>7.1f} pp {psi:>5.0%} {cells}{mark}")
        results.append(row)
    return results


def advised(rng: np.random.Generator, repeats: int) -> list[dict[str, Any]]:
    """How often a candidate passes on as many samples as the gate advises for its true drop."""
    print("\nOn as many samples as the gate advises: per cent that pass (90 aimed at, 88 asked for)")
    print(f"{'psi':>5} {'margin':>8} {'true drop':>10} {'n':>9} {'PASS':>7}")
    results = []
    for psi, margin, drop in ADVISED:
        n = math.ceil(samples_needed_at_drop(psi, drop, margin, ALPHA))
        b, c, _ = rng.multinomial(n, [(psi + drop) / 2, (psi - drop) / 2, 1 - psi], repeats).T
        passes = round(100 * float(np.mean(non_inferior(b, c, n, margin, ALPHA))), 3)
        agrees = passes >= 88 - 400 * math.sqrt(0.88 * 0.12 / repeats)
        print(
            f"{psi:>5.0%} {100 * margin:>5.1f} pp {100 * drop:>7.1f} pp {n:>9,} {passes:>7.1f}"
            + ("" if agrees else "  DIFFERS")
        )
        settings = {"psi": psi, "margin": margin, "drop": drop, "n": n}
        results.append({"table": "advised", **settings, "found": {"pass": passes}, "agrees": agrees})
    return results


def asked_again(rng: np.random.Generator, repeats: int) -> list[dict[str, Any]]:
    """How often one of several candidates passes that are all exactly at the margin, the worst case."""
    print(
        "\nCandidates at the margin, one after the other, n = 10,000, discordance 6%: per cent with a PASS"
    )
    print(f"{'candidates':>10} {'each at 5%':>12} {'alpha spent':>12}")
    results = []
    for count in ASKED:
        passed = {"each": np.zeros(repeats, bool), "spent": np.zeros(repeats, bool)}
        for k in range(1, count + 1):
            b, c, _ = rng.multinomial(10_000, [0.035, 0.025, 0.94], repeats).T
            for name, spend in (("each", False), ("spent", True)):
                alpha = GateConfig(max_drop_pp=1.0, alpha=ALPHA, spend_alpha=spend).spent(k).alpha
                passed[name] |= non_inferior(b, c, 10_000, MARGIN, alpha)
        found = {name: round(100 * float(np.mean(of)), 3) for name, of in passed.items()}
        agrees = found["spent"] <= 5 + 400 * math.sqrt(0.05 * 0.95 / repeats)
        print(f"{count:>10} {found['each']:>12.1f} {found['spent']:>12.1f}" + ("" if agrees else "  DIFFERS"))
        results.append({"table": "asked again", "candidates": count, "found": found, "agrees": agrees})
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate the gate beside the figures of its design.")
    parser.add_argument("--repeats", type=int, default=200_000, help="simulated test sets a row")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation")
    parser.add_argument("--output", type=Path, help="folder for the tables, as Markdown and as JSON")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    rng, start = np.random.default_rng(arguments.seed), time.perf_counter()
    told = StringIO()
    with redirect_stdout(told):
        rows = [
            row for table in (rules, verdicts, advised, asked_again) for row in table(rng, arguments.repeats)
        ]
    print(told.getvalue(), end="")
    agree, seconds = sum(row["agrees"] for row in rows), time.perf_counter() - start
    print(f"\n{agree} of {len(rows)} rows agree with the design; {seconds:.1f} s")
    found = {
        "benchmark": "gate_simulation",
        "repeats": arguments.repeats,
        "seed": arguments.seed,
        "margin_pp": 100 * MARGIN,
        "alpha": ALPHA,
        "agree": agree,
        "rows": rows,
    }
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "simulation.json").write_text(json.dumps(found, indent=1) + "\n")
        command = (
            f"python benchmarks/gate_simulation.py --repeats {arguments.repeats} --seed {arguments.seed}"
        )
        (arguments.output / "README.md").write_text(
            f"# What the gate promises, by simulation\n\n`{command} --output reports/gate`: {agree} of "
            f"{len(rows)} rows agree with the design, whose figures stand in brackets.\n\n"
            f"```\n{told.getvalue()}```\n"
        )
    print(json.dumps({**found, "seconds": round(seconds, 2)}))
    return 0 if agree == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
