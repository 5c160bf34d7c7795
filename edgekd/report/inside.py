"""What the files are made of: bytes by layer and type, operators by type."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.report import words
from edgekd.report.details import Table
from edgekd.report.schema import ArtifactRecord, Contents, Report
from edgekd.report.sharing import Shared, shared
from edgekd.report.tables import Bar

_MOST_BARS = 12
_EIGHT_BITS = ("int8", "uint8", "float32xint8")


@dataclass(frozen=True)
class Part:
    """A share of a file, in percent of all of it."""

    label: str
    text: str
    kind: str
    x: float
    width: float


@dataclass(frozen=True)
class Inside:
    """One file, or several that are the same byte by byte."""

    name: str
    note: str
    parts: tuple[Part, ...]
    parts_said: str
    layers: tuple[Bar, ...]
    operators: tuple[Bar, ...]
    int8: str


def insides(report: Report) -> tuple[Inside, ...]:
    """Files that ship first; those that nothing is known of are left out."""
    groups = shared(
        report.artifacts,
        lambda a: [f.sha256 for f in a.files] if a.contents or a.inventory or a.contents_unread else None,
    )
    return tuple(_inside(group) for group in groups)


def _inside(group: Shared) -> Inside:
    first = group.first
    parts = _parts(first.contents) if first.contents else ()
    int8 = first.inventory.int8_share if first.inventory else None
    note = f"{first.format} · {first.scheme} · {words.number(first.size_bytes / 1000, 1)} kB"
    return Inside(
        name=group.name,
        note=f"{note} · {first.contents_unread}" if first.contents_unread else note,
        parts=parts,
        parts_said=", ".join(f"{p.label} {p.text} kB, {p.width:.1f}%" for p in parts),
        layers=_layer_bars(first.contents) if first.contents else (),
        operators=_operator_bars(first),
        int8="" if int8 is None else f"{100 * int8:.0f}% of the operators that compute are int8",
    )


def dtype_kind(dtype: str) -> str:
    """Eight bits, float, or anything else: how it is coloured."""
    return "eight" if dtype in _EIGHT_BITS else "float" if "float" in dtype else "other"


def _parts(contents: Contents) -> tuple[Part, ...]:
    by_size = sorted(contents.by_dtype.items(), key=lambda item: (-item[1], item[0]))
    sizes = [(dtype, size, dtype_kind(dtype)) for dtype, size in by_size]
    sizes.append(("all else", max(contents.graph_bytes, 0), "graph"))
    total, at, found = sum(size for _, size, _ in sizes) or 1, 0.0, []
    for label, size, kind in sizes:
        width = 100 * size / total
        found.append(Part(label, words.number(size / 1000, 1), kind, round(at, 3), round(width, 3)))
        at += width
    return tuple(found)


def _layer_bars(contents: Contents) -> tuple[Bar, ...]:
    rows = [(p.layer, f"{p.op_type} · {p.dtype}", p.size_bytes, dtype_kind(p.dtype)) for p in contents.layers]
    shown, rest = rows[:_MOST_BARS], rows[_MOST_BARS:]
    left, left_bytes = (
        len(rest) + contents.other_layers,
        sum(r[2] for r in rest) + contents.other_layers_bytes,
    )
    if left:
        shown.append((f"{left:,} smaller ones", "constants", left_bytes, "other"))
    shown.append(("All else", "operators, names, scales", max(contents.graph_bytes, 0), "graph"))
    longest = max(size for _, _, size, _ in shown) or 1
    return tuple(
        Bar(label, note.strip(" ·"), words.number(size / 1000, 1), size / longest, None, False, kind)
        for label, note, size, kind in shown
    )


def _operator_bars(artifact: ArtifactRecord) -> tuple[Bar, ...]:
    if artifact.inventory is None:
        return ()
    counts = sorted(artifact.inventory.ops.items(), key=lambda item: (-item[1], item[0]))
    shown, rest = counts[:_MOST_BARS], counts[_MOST_BARS:]
    rows = [(*name.rpartition("/")[::2], n) for name, n in shown]
    if rest:
        rows.append((f"{len(rest):,} further types", "", sum(n for _, n in rest)))
    longest = max((n for *_, n in rows), default=1) or 1
    return tuple(
        Bar(op or dtype, dtype if op else "", f"{n:,}", n / longest, None, False, dtype_kind(dtype))
        for op, dtype, n in rows
    )


def content_tables(report: Report) -> tuple[Table, ...]:
    """Bytes by layer and type of the files that ship, for those who want the numbers."""
    rows = []
    for group in shared(report.artifacts, lambda a: [f.sha256 for f in a.files] if a.contents else None):
        contents = group.first.contents
        if contents is None or group.first.role != "target":
            continue
        rows += [(group.name, p.layer, p.op_type, p.dtype, f"{p.size_bytes:,}") for p in contents.layers]
        if contents.other_layers:
            other = f"{contents.other_layers:,} smaller ones"
            rows.append((group.name, other, "", "", f"{contents.other_layers_bytes:,}"))
        rows.append((group.name, "all else", "", "", f"{contents.graph_bytes:,}"))
    head = ("File", "Layer", "Operator", "Type", "Bytes")
    return (Table("Bytes of each file by layer and type", head, tuple(rows), (4,)),) if rows else ()
