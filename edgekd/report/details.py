"""The tables that an auditor asks for, below the report's fold."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgekd.measurements import conditions_text
from edgekd.report import words
from edgekd.report.schema import MeasurementRecord, Report, StageRecord
from edgekd.report.tables import KIND_WORDS, settings


@dataclass(frozen=True)
class Table:
    """A plain table of the details; `numeric` are the columns set flush right."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...] = ()


def detail_tables(report: Report) -> tuple[Table, ...]:
    """What an auditor asks for: data, calibration, timing, operators, behaviour, checksums, versions."""
    return (
        _data_table(report),
        _stage_table(report),
        _timing_table(report),
        _behaviour_table(report),
        Table("Input of each file", ("File", "Input", "Preprocessing"), tuple(_inputs(report))),
        Table(
            "Operators of each file", ("File", "int8", "Float", "All, by type"), tuple(_ops(report)), (1, 2)
        ),
        Table(
            "Files and checksums",
            ("Path", "Size, bytes", "Packed by zlib, bytes", "SHA-256"),
            tuple(
                (
                    f.path,
                    *(words.ABSENT if n is None else f"{n:,}" for n in (f.size_bytes, f.deflated_bytes)),
                    f.sha256,
                )
                for a in report.artifacts
                for f in a.files
            ),
            (1, 2),
        ),
        Table("Host", ("Property", "Value"), tuple(settings(report.host))),
        *(
            Table(f"Device {name}", ("Property", "Value"), tuple(settings(machine)))
            for name, machine in report.devices.items()
        ),
        Table("Versions", ("Package", "Version"), tuple(sorted(report.versions.items()))),
        Table("Policy of the gate", ("Key", "Value"), tuple(settings(report.gate))),
    )


def _data_table(report: Report) -> Table:
    splits = report.data.splits
    named = [("train", splits.train), ("val", splits.val), ("test", splits.test)]
    named += [("unlabelled", splits.unlabelled)] if splits.unlabelled else []
    rows = [(name, f"{s.n:,}", f"{s.duplicates:,}", s.sha256) for name, s in named]
    calibration = report.data.calibration
    if calibration is not None:
        name = f"calibration, {calibration.policy}: ids drawn from train"
        rows.append((name, f"{calibration.n:,}", words.ABSENT, calibration.ids_sha256))
    return Table("Data", ("Split", "Samples", "Duplicates within", "SHA-256"), tuple(rows), (1, 2))


def _stage_table(report: Report) -> Table:
    def row(s: StageRecord) -> tuple[str, ...]:
        counts = (words.ABSENT if n is None else f"{n:,}" for n in (s.params, s.macs))
        return (s.id, s.name, *counts, words.number(s.seconds, 1), *(show(s) for show in more.values()))

    columns: dict[str, Callable[[StageRecord], str]] = {
        "Accuracy under attack, %": _robust,
        "By latency table, ms": functools.partial(_predicted, report),
        "Blocks taken out": _removed,
        "Weights that are not zero": _nonzero,
    }
    # Only where there is something to say.
    more = {name: show for name, show in columns.items() if {*map(show, report.stages)} - {words.ABSENT}}
    names = ("Id", "Stage", "Parameters", "MACs", "Time, s", *more)
    return Table("Stages", names, tuple(map(row, report.stages)), tuple(range(2, len(names))))


def _robust(s: StageRecord) -> str:
    return words.number(s.robust_accuracy, 2)


def _removed(s: StageRecord) -> str:
    return ", ".join(s.removed_blocks) or words.ABSENT


def _nonzero(s: StageRecord) -> str:
    return words.ABSENT if s.nonzero_weights is None else f"{s.nonzero_weights:,}"


def _predicted(report: Report, s: StageRecord) -> str:
    p = s.predicted_latency
    if p is None:
        return words.ABSENT
    shipped = {a.id: a.target for a in report.artifacts if a.target in s.targets}
    timed = "".join(
        f"; {shipped[m.artifact_id]} took {m.median_ms:.3g}" + (", more" if m.median_ms > p.limit_ms else "")
        for m in report.measurements
        # What another computer takes is no answer to what the target was asked for.
        if m.artifact_id in shipped and m.kind == p.kind
    )
    return f"{p.pruned_ms:.3g} of {p.whole_ms:.3g}, asked {p.limit_ms:.3g}; {KIND_WORDS[p.kind]}{timed}"


def _timing_table(report: Report) -> Table:
    decimals = words.ms_decimals(m.median_ms for m in report.measurements)
    rows = tuple(
        (
            m.artifact_id,
            m.target,
            f"{m.runtime} {m.runtime_version}, {m.delegate}, {words.count(m.num_threads, 'thread')}"
            + _taken(m),
            m.kind,
            f"{m.num_runs:,} in {m.num_processes}",
            words.number(m.median_ms, decimals),
            words.number(m.p90_ms, decimals),
            words.number(m.p99_ms, decimals),
            words.number(m.first_ms, decimals),
            words.number(m.init_ms, decimals),
            " ".join(words.number(v, decimals) for v in m.process_medians_ms),
            words.ABSENT if m.peak_memory_bytes is None else words.number(m.peak_memory_bytes / 1e6, 1),
            conditions_text([each.value() for each in m.conditions]) or words.ABSENT,
        )
        for m in report.measurements
    )
    head: tuple[str, ...] = (
        "File",
        "Target",
        "Runtime",
        "Kind",
        "Runs in processes",
        "Median, ms",
        "p90, ms",
        "p99, ms",
    )
    head += ("First, ms", "Load, ms", "Median of each process, ms", "Peak memory, MB", "Conditions")
    return Table("Timing and memory", head, rows, (4, 5, 6, 7, 8, 9, 10, 11))


def _taken(m: MeasurementRecord) -> str:
    """The GPU, and how much of the graph the backend took, where the runtime tells."""
    gpu = f", {m.gpu}" if m.gpu else ""
    if m.operators_delegated is None or m.partitions is None:
        return gpu
    parts = words.count(m.partitions, "part")
    return f"{gpu}, {m.operators_delegated} of {m.operators_total} operators in {parts}"


def _behaviour_table(report: Report) -> Table:
    rows = []
    for a in report.artifacts:
        p = a.parity
        shares = (None if v is None else v * 100 for v in (a.agreement, a.negative_flip_rate))
        parity = (f"{p.num_samples:,}", f"{p.max_abs:.3g}", f"{p.mean_abs:.3g}") if p else (words.ABSENT,) * 3
        kl = words.ABSENT if a.kl_divergence is None else f"{a.kl_divergence:.3g}"
        rows.append((a.id, *(words.number(v, 2) for v in shares), kl, *parity))
    base = words.baseline_name(report)
    head: tuple[str, ...] = ("File", f"Agrees with the {base}, %", "Negative flips, %", "KL divergence, nats")
    head += ("Parity samples", "Largest error", "Mean error")
    return Table("Behaviour and parity", head, tuple(rows), (1, 2, 3, 4, 5, 6))


def _inputs(report: Report) -> Iterator[tuple[str, str, str]]:
    for a in report.artifacts:
        s = a.input_spec
        shape = " × ".join(str(n) for n in s.shape)
        low, high = (words.plain(v) for v in s.raw_range)
        mean, std = (", ".join(f"{v:.4g}" for v in part) for part in (s.mean, s.std))
        feed = "as they are" if s.raw_dtype == "int32" else f"(raw / {s.scale:g} − [{mean}]) / [{std}]"
        yield a.id, f"{s.name}: {shape}, {s.layout}", f"{s.raw_dtype} {low} to {high}; {feed}"


def _ops(report: Report) -> Iterator[tuple[str, str, str, str]]:
    for a in report.artifacts:
        if a.inventory is not None:
            by_type = ", ".join(f"{n} {op}" for op, n in sorted(a.inventory.ops.items()))
            yield a.id, str(a.inventory.int8_ops), str(a.inventory.float_ops), by_type
