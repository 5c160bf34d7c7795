"""Chains of layers timed on this computer, in a target's runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekd import probes
from edgekd.devices.local import run_agent
from edgekd.errors import MeasurementError
from edgekd.latency.profiler import Measure
from edgekd.latency.table import REFERENCE, Chain, Clock, Ratio, Table, chain_text
from edgekd.progress import QUIET, Display

BATCH = 48  # files a process, then the table is saved
MIN_ROUNDS, MAX_ROUNDS, PRECISION = 3, 15, 0.01
# A turn counts where the reference took at most so many times what it takes undisturbed at the time, and the
# processor as a whole is at most so many times slower than it was at its fastest.
FULL_SPEED, SLOWEST = 1.08, 1.2
TIME_LIMIT_S = 900.0


def measure_here(table: Table, path: Path, display: Display = QUIET) -> Measure:
    """Times chains, a fresh process for each few, and saves the table after each.

    Args:
        table: what grows; its clock says in which runtime, format and scheme.
        path: its file.
        display: where progress is shown.
    """

    def measure(chains: Sequence[Chain], what: str) -> None:
        batches = [chains[i : i + BATCH] for i in range(0, len(chains), BATCH)]
        for batch in display.track(batches, f"profile, {what}", len(batches)):
            _time(batch, table)
            table.save(path)

    return measure


def _time(chains: Sequence[Chain], table: Table) -> None:
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        files = {
            chain_text(chain): _written(chain, table.clock, Path(folder) / str(i))
            for i, chain in enumerate(chains)
        }
        found = ratios_of(files, table, Path(folder))
    table.add({chain: found[chain_text(chain)] for chain in chains}, FULL_SPEED * SLOWEST)


def ratios_of(files: Mapping[str, Path], table: Table, folder: Path) -> dict[str, Ratio]:
    """What files take in units of a table's reference, by name.

    Args:
        files: name -> model file in the format of the table's clock.
        table: whose reference; it learns how fast that can be.
        folder: where the reference may be written.

    Raises:
        MeasurementError: a file does not run, or the computer is never undisturbed.
    """
    reference = _written(REFERENCE, table.clock, folder / "reference")
    job = {
        "mode": "ratios",
        "reference": _model("reference", reference, table.clock),
        "models": [_model(name, file, table.clock) for name, file in files.items()],
        "min_rounds": MIN_ROUNDS,
        "max_rounds": MAX_ROUNDS,
        "precision": PRECISION,
        "full_speed": FULL_SPEED,
        "slowest": SLOWEST,
        "fastest_ms": table.fastest_ms,
        "seed": 0,
    }
    try:
        events = run_agent(job, time_limit_s=TIME_LIMIT_S)
    except MeasurementError as error:
        if table.fastest_ms is None or "never undisturbed" not in error.message:
            raise
        raise MeasurementError(
            f"{error.message}, which was {table.fastest_ms:.4g} ms when the table was begun",
            hint=f"{error.hint}; a computer that is slower for good needs a new table: delete the old one",
        ) from None
    table.fastest_ms = next(event["fastest_ms"] for event in events if event["event"] == "reference")
    return {
        event["id"]: Ratio(event["value"], event["standard_error"], event["reference_ms"])
        for event in events
        if event["event"] == "ratios"
    }


def _written(chain: Chain, clock: Clock, path: Path) -> Path:
    content = probes.build(chain, format=clock.format, scheme=clock.scheme, activations=clock.activations)
    path.write_bytes(content)
    return path


def _model(name: str, path: Path, clock: Clock) -> dict[str, object]:
    return {
        "id": name,
        "path": str(path.resolve()),
        "runtime": clock.runtime,
        "delegate": clock.delegate,
        "num_threads": clock.num_threads,
    }
