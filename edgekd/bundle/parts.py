"""What lies in a bundle: files that a report names, and those that are made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgekd import judgement_log
from edgekd.config import CalibrationPolicy, Target
from edgekd.report import words
from edgekd.report.files import texts
from edgekd.report.model_card import model_card
from edgekd.report.schema import Report

INPUTS = "inputs/test.npz"


def named(report: Report) -> set[str]:
    """Every file that a report names."""
    names = {f.path for a in report.artifacts for f in a.files}
    names |= {m.raw_path for m in report.measurements}
    outputs = [report.teacher.predictions, *(s.predictions for s in report.stages)]
    outputs += [a.predictions for a in report.artifacts]
    names |= {each.path for each in outputs if each is not None}
    return names | ({judgement_log.FILE} if report.judgement_log is not None else set())


def written(
    report: Report, targets: Sequence[Target], calibration: CalibrationPolicy, license_: str
) -> dict[str, bytes]:
    """What is made from the report and its configs: name -> content; the same every time."""
    devices = sorted(
        {(m.device, m.runtime, m.runtime_version, m.delegate, m.kind) for m in report.measurements}
    )
    names = ("device", "runtime", "runtime_version", "delegate", "kind")
    environment = {
        "versions": report.versions,
        "host": report.host,
        "devices": [dict(zip(names, each, strict=True)) for each in devices],
    }
    found = {
        **texts(report),
        "README.md": model_card(report, license_),
        "environment.json": json_text(environment),
        "recipe.toml": words.toml(report.recipe.config) + "\n",
        f"calibration/{calibration.name}.toml": words.toml(calibration.model_dump(mode="json")) + "\n",
    }
    for target in targets:
        found[f"targets/{target.name}.toml"] = words.toml(target.model_dump(mode="json")) + "\n"
    return {name: text.encode() for name, text in found.items()}


def json_text(value: Mapping[str, Any]) -> str:
    """JSON as bundles have it: sorted, indented, the same every time."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
