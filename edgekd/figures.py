"""What a report's plots show, worked out from the report's own folder: stored predictions, timings, files.

Everything here can be made again from what a run leaves behind, and is bounded, so that a report of
1,000 classes or 1,000 layers stays readable.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd import gate
from edgekd.config import GateConfig
from edgekd.errors import MeasurementError
from edgekd.gate.statistics import tango_bounds
from edgekd.measure.contents import Constant, constants_of
from edgekd.report.figure_records import BINS, MOST_CLASSES, MOST_LAYERS, MOST_PAIRS, QUANTILES
from edgekd.report.schema import (
    ArtifactRecord,
    ClassDrop,
    ClassDrops,
    Contents,
    FlipPair,
    Flips,
    LatencyDistribution,
    LayerBytes,
    Report,
)
from edgekd.stored import read_measurement, read_predictions, read_teacher

_FENCE = 3.0  # interquartile ranges beyond the quartiles (Tukey 1977: "far out")


def with_figures(report: Report, folder: Path, policy: GateConfig) -> Report:
    """The report with drops by class, flips, latency distributions and what its files hold.

    Args:
        report: whose predictions, timings and files lie in `folder`.
        folder: the report's.
        policy: whose level the intervals have, and whose clusters.

    Raises:
        DataError: predictions or timings that are missing or changed.
    """
    baseline = read_teacher(report, folder)
    artifacts = []
    for artifact in report.artifacts:
        more = _looked_into(artifact, folder)
        if artifact.role == "target":
            assert artifact.predictions is not None
            pair = gate.pair(baseline, read_predictions(artifact.predictions, folder))
            more |= {"class_drops": class_drops(pair, policy.alpha, policy.cluster), "flips": flips(pair)}
        artifacts.append(artifact.model_copy(update=more))
    measurements = [
        m.model_copy(update={"distribution": distribution(read_measurement(m, folder).latency_ms)})
        for m in report.measurements
    ]
    return report.model_copy(update={"artifacts": tuple(artifacts), "measurements": tuple(measurements)})


def _looked_into(artifact: ArtifactRecord, folder: Path) -> dict[str, object]:
    """What an artifact's files hold, or why that is not known: no run is lost for a plot."""
    paths = [folder / file.path for file in artifact.files if file.path.endswith(f".{artifact.format}")]
    try:
        found = [one for path in paths for one in constants_of(path, artifact.format)]
    except MeasurementError as error:
        return {"contents": None, "contents_unread": str(error)}
    return {"contents": contents(found, artifact.size_bytes), "contents_unread": ""}


def class_drops(pair: gate.Pair, alpha: float, cluster: str | None = None) -> ClassDrops:
    """Accuracy lost within each class, the largest drop first; of equal ones the class with most losses.

    Args:
        pair: teacher and file on the same samples; scores (N, classes).
        alpha: one-sided level of the intervals.
        cluster: the column of what samples come in; samples that are not independent have no such interval.
    """
    labels, classes = pair.teacher.labels, pair.teacher.scores.shape[1]
    right, still = pair.teacher.correct, pair.candidate.correct
    count = [np.bincount(labels[mask], minlength=classes) for mask in (right | True, right, still)]
    n, teacher, file = count
    lost, won = (np.bincount(labels[mask], minlength=classes) for mask in (right & ~still, ~right & still))
    seen = np.flatnonzero(n)
    order = seen[np.lexsort((seen, -lost[seen], -(lost[seen] - won[seen]) / n[seen]))]
    shown = order[:MOST_CLASSES]
    low, high = tango_bounds(lost[shown], won[shown], n[shown], 1 - 2 * alpha)
    worst = tuple(
        ClassDrop(
            class_index=int(k),
            n=int(n[k]),
            teacher_right=int(teacher[k]),
            file_right=int(file[k]),
            lost=int(lost[k]),
            won=int(won[k]),
            drop_interval=None if cluster is not None else (100 * float(a), 100 * float(b)),
        )
        for k, a, b in zip(shown, low, high, strict=True)
    )
    return ClassDrops(worst=worst, left_out=len(order) - len(worst), without_samples=classes - len(seen))


def flips(pair: gate.Pair) -> Flips:
    """Where the file's answers are not the teacher's: the most frequent pairs of classes first."""
    classes = pair.teacher.scores.shape[1]
    before, after = pair.teacher.answers, pair.candidate.answers
    changed = before != after
    key = before[changed] * classes + after[changed]
    lost, won = pair.teacher.correct[changed], pair.candidate.correct[changed]
    keys, place, counts = np.unique(key, return_inverse=True, return_counts=True)
    of_lost, of_won = (np.bincount(place[mask], minlength=len(keys)) for mask in (lost, won))
    order = np.lexsort((keys, -of_lost, -counts))
    pairs = tuple(
        FlipPair(
            teacher_class=int(keys[i] // classes),
            file_class=int(keys[i] % classes),
            n=int(counts[i]),
            lost=int(of_lost[i]),
            won=int(of_won[i]),
        )
        for i in order[:MOST_PAIRS]
    )
    n = int(changed.sum())
    return Flips(
        n=n,
        lost=int(lost.sum()),
        won=int(won.sum()),
        pairs=pairs,
        other_pairs=len(order) - len(pairs),
        other_n=n - sum(p.n for p in pairs),
    )


def distribution(latency_ms: NDArray[np.float64]) -> LatencyDistribution:
    """Quantiles and a histogram of timed runs (N,), in milliseconds; N at least 1."""
    quantiles = np.percentile(latency_ms, QUANTILES)
    by_percent = dict(zip(QUANTILES, quantiles.tolist(), strict=True))
    spread = by_percent[75] - by_percent[25]
    # Where half of all runs took the same on the clock, a thousandth of it stands in.
    reach = _FENCE * spread if spread > 0 else 1e-3 * (by_percent[50] or 1.0)
    low = max(by_percent[0], by_percent[25] - reach)
    high = min(by_percent[100], by_percent[75] + reach)
    if low >= high:
        low, high = max(0.0, low - reach), high + reach
    inside = latency_ms[(latency_ms >= low) & (latency_ms <= high)]
    counts, _ = np.histogram(inside, bins=BINS, range=(low, high))
    return LatencyDistribution(
        quantiles_ms=tuple(quantiles.tolist()),
        low_ms=low,
        high_ms=high,
        counts=tuple(counts.tolist()),
        below=int((latency_ms < low).sum()),
        above=int((latency_ms > high).sum()),
    )


def contents(constants: Sequence[Constant], size_bytes: int) -> Contents:
    """Constants by layer and type, the largest first, and what else the file holds.

    Args:
        constants: of all files of an artifact.
        size_bytes: of those files together.
    """
    by_layer: dict[tuple[str, str, str], int] = {}
    by_dtype: dict[str, int] = {}
    for one in constants:
        key = one.layer, one.op_type, one.dtype
        by_layer[key] = by_layer.get(key, 0) + one.size_bytes
        by_dtype[one.dtype] = by_dtype.get(one.dtype, 0) + one.size_bytes
    ordered = sorted(by_layer.items(), key=lambda item: (-item[1], item[0]))
    shown, others = ordered[:MOST_LAYERS], ordered[MOST_LAYERS:]
    return Contents(
        layers=tuple(
            LayerBytes(layer=layer, op_type=op_type, dtype=dtype, size_bytes=size)
            for (layer, op_type, dtype), size in shown
        ),
        other_layers=len(others),
        other_layers_bytes=sum(size for _, size in others),
        by_dtype=dict(sorted(by_dtype.items(), key=lambda item: (-item[1], item[0]))),
        graph_bytes=size_bytes - sum(by_dtype.values()),
    )
