"""The model card of a release in the format of Hugging Face's hub: YAML, then Markdown, from the report."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from edgekd.report import words
from edgekd.report.markdown import escape
from edgekd.report.markdown import table as block
from edgekd.report.schema import ArtifactRecord, MetricValue, Report

# What the hub calls tasks; a task that is none of these is not named.
_TASKS = {
    "digits": "image-classification",
    "idx": "image-classification",
    "image_folder": "image-classification",
    "table": "tabular-classification",
}
# The hub's identifiers of licences that releases mostly have: SPDX's in small letters. Others go by a name.
LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense"),
)


def model_card(report: Report, license_: str) -> str:
    """The card as README.md has it.

    Args:
        report: of the run.
        license_: of the files that ship, an SPDX expression.
    """
    parts = [
        _front_matter(report, license_),
        f"# {escape(report.recipe.name)}",
        _about(report),
        f"**{report.verdict.status}.** {escape(words.headline(report))}",
        *[f"> {escape(caution)}" for caution in words.cautions(report)],
        "## Files",
        f"{_files(report)}\n\nLicense of the files: {escape(license_)}.",
        "## How to feed them",
        _inputs(report),
        "## Data",
        _data(report),
        "## How it was made",
        f"```toml\n{words.toml(report.recipe.config)}\n```",
        "## Check it yourself",
        "`edgekd verify release.zip --key pub.pem` checks the signature and the checksum of every file, and "
        "judges again from the predictions in this bundle. `report.html` shows where accuracy went.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(report: Report, license_: str) -> str:
    """Values are JSON, which YAML reads as itself: no text from a report can become a key."""
    # A name is an identifier too: `mit-or-apache-2.0`.
    name = re.sub(r"[^a-z0-9.]+", "-", license_.lower().replace("+", "-or-later")).strip("-")
    head: dict[str, Any] = {"license": name if name in LICENSES else "other"}
    if name not in LICENSES:
        head["license_name"] = name
    head["tags"] = sorted({"edge", "knowledge-distillation", *_tags(report)})
    task = _task(report)
    if task is not None:
        head["pipeline_tag"] = task
        head["model-index"] = [{"name": report.recipe.name, "results": _results(report, task)}]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    return "---\n" + "\n".join(lines) + "\n---"


def _tags(report: Report) -> set[str]:
    return {tag for a in report.artifacts if a.role == "target" for tag in (a.format, a.scheme)}


def _task(report: Report) -> str | None:
    kind = report.recipe.config.get("task", {}).get("kind")
    if kind in _TASKS:
        return _TASKS[kind]
    layouts = {a.input_spec.layout for a in report.artifacts}
    return "image-classification" if layouts and layouts <= {"NCHW", "NHWC"} else None


def _results(report: Report, task: str) -> list[dict[str, Any]]:
    data = report.recipe.config.get("task", {}).get("kind", report.recipe.name)
    return [
        {
            "task": {"type": task},
            "dataset": {"type": str(data), "name": report.recipe.name, "split": "test"},
            "metrics": [
                {"type": m.name, "value": m.value, "name": f"{m.name} of the file for {a.target}"}
                for m in a.metrics
            ],
        }
        for a in report.artifacts
        if a.role == "target"
    ]


def _about(report: Report) -> str:
    description = str(report.recipe.config.get("description", "")).strip()
    base = words.baseline_name(report)
    metric = words.primary(report)
    value = words.number(metric.value, words.value_decimals(metric.unit))
    unit = words.unit_sign(metric.unit)
    stands = f"{escape(words.metric_word(metric.name))} {value} {unit}".rstrip()
    text = (
        f"Compressed for edge devices and judged against its {base} ({stands} on "
        f"{words.count(report.data.splits.test.n, 'test sample')}), each file in the runtime of its target."
    )
    return f"{escape(description)}\n\n{text}" if description else text


def _files(report: Report) -> str:
    metric = words.primary(report)
    decimals = words.value_decimals(metric.unit)
    rows = []
    for a in report.artifacts:
        if a.role == "target":
            rows.append((str(a.target), *_file(report, a, metric.name, decimals)))
    head = (
        "Target",
        "Files",
        "Scheme",
        "Size, bytes",
        words.headed(words.metric_title(metric.name), words.unit_sign(metric.unit)),
        words.headed("Drop", words.drop_unit(metric.unit)),
        "Median, ms",
        "Timed on",
    )
    return _table(head, rows, (3, 4, 5, 6))


def _drop(found: MetricValue, decimals: int) -> str:
    interval = "" if found.drop_interval is None else f" {words.interval(found.drop_interval, decimals)}"
    return words.signed(found.drop, decimals) + interval


def _file(report: Report, a: ArtifactRecord, metric: str, decimals: int) -> tuple[str, ...]:
    found, timed = words.find_metric(a.metrics, metric), words.measurements_of(report, a)
    own = timed[0] if timed else None
    return (
        ", ".join(f.path for f in a.files),
        a.scheme,
        f"{a.size_bytes:,}",
        words.number(found.value if found else None, decimals),
        words.ABSENT if found is None else _drop(found, decimals),
        words.ABSENT if own is None else words.number(own.median_ms, 3),
        words.ABSENT if own is None else f"{own.device} ({own.kind})",
    )


def _inputs(report: Report) -> str:
    rows = []
    for a in report.artifacts:
        if a.role == "target":
            s = a.input_spec
            low, high = (words.plain(v) for v in s.raw_range)
            mean, std = (", ".join(f"{v:.6g}" for v in part) for part in (s.mean, s.std))
            shape = " × ".join(map(str, s.shape))
            feed = "as they are" if s.raw_dtype == "int32" else f"(raw / {s.scale:g} - [{mean}]) / [{std}]"
            rows.append(
                (str(a.target), f"{s.name}: {shape}", s.layout, f"{s.raw_dtype} {low} to {high}", feed)
            )
    classes = ", ".join(report.class_names[:100]) + (" ..." if len(report.class_names) > 100 else "")
    feed = _table(("Target", "Input of one sample", "Layout", "Raw values", "Fed as"), rows)
    return f"{feed}\n\nOutputs are logits of {len(report.class_names)} classes: {escape(classes)}."


def _data(report: Report) -> str:
    splits = report.data.splits
    named = [("train", splits.train), ("val", splits.val), ("test", splits.test)]
    rows = [(name, f"{s.n:,}", s.sha256) for name, s in named]
    text = (
        f"This is judgement {report.judgements} of the test split. Predictions of every file and of the "
        f"{words.baseline_name(report)} lie in `predictions/`, raw timings in `measurements/`."
    )
    return f"{_table(('Split', 'Samples', 'SHA-256'), rows, (1,))}\n\n{text}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """A whole table."""
    found = block(head, rows, numeric)
    return "\n".join((found.before, *found.rows))
