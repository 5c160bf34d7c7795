"""Does a bundle hold what was signed, and does its verdict follow from what it holds?"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from edgekd import judgement_log
from edgekd.bundle import MANIFEST, SIGNATURE, archive
from edgekd.config import GateConfig, build
from edgekd.errors import EdgeKDError, EvidenceError, UsageError
from edgekd.judgement import judged, past_judgements
from edgekd.report.schema import CheckRecord, Report, VerdictRecord, parse
from edgekd.store import sha256_file
from edgekd.stored import read_measurement, read_predictions
from edgekd.types import ACCURACY

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

# Other processors and library versions round the last digits otherwise.
_CLOSE = 1e-6


@dataclass(frozen=True)
class Verified:
    """A bundle that is what it says.

    Attributes:
        report: with the verdict as it was made again.
        license_: of the files that ship.
        num_files: in the archive.
        key_id: of who signed it; None where nobody did.
    """

    report: Report
    license_: str
    num_files: int
    key_id: str | None


def verify(path: Path, key: SSlibKey | None) -> Verified:
    """Checks everything, and judges again from the bundle alone.

    Args:
        path: the archive.
        key: who must have signed it; None where an unsigned one is taken for what it is.

    Raises:
        EvidenceError: naming what was changed, is missing or does not follow.
    """
    with TemporaryDirectory() as place:
        folder = Path(place) / "bundle"
        folder.mkdir()
        names = archive.read(path, folder)
        if MANIFEST not in names:
            raise EvidenceError(f"{path}: has no {MANIFEST}", hint="edgekd bundle makes bundles")
        digests = {name: sha256_file(folder / name) for name in names if name != SIGNATURE}
        if key is not None:
            if SIGNATURE not in names:
                raise EvidenceError(f"{path}: nobody signed it", hint="edgekd bundle --key key.pem signs")
            from edgekd.bundle import signing  # an extra: what nobody signed is read without it

            name, _ = _manifest_head(folder)
            signed = signing.signed_digests((folder / SIGNATURE).read_bytes(), key, name)
            _same(signed, digests, "signed")
        license_ = _check_manifest(folder, digests)
        try:
            report = parse(folder / "report.json")
            _check_artifacts(report, digests)
            report = check_evidence(report, folder)
        except EvidenceError:
            raise
        except EdgeKDError as error:
            raise EvidenceError(str(error).replace(f"{folder}/", "")) from None
    return Verified(report, license_, len(names), None if key is None else key.keyid)


def check_evidence(report: Report, folder: Path) -> Report:
    """The report judged again from its folder.

    Raises:
        EvidenceError: the verdict is another, or the log counts otherwise.
        DataError: what it rests on is missing or changed.
    """
    log = past_judgements(report, folder)
    if report.judgement_log is not None:
        counted = (len(log), judgement_log.not_passed(log))
        if counted != (report.judgements, report.judgements_not_passed):
            raise EvidenceError(
                f"report.json: judgement {report.judgements}, {report.judgements_not_passed} before it not "
                f"passed, where {judgement_log.FILE} has {counted[0]} and {counted[1]}"
            )
    stored = report.gate.get("policy")
    if not isinstance(stored, Mapping):
        raise UsageError("report.json: gate.policy is missing", hint="was this report written by edgekd?")
    again = judged(report, folder, build(GateConfig, stored, "report.json: gate.policy"))
    if difference := _difference(report.verdict, again.verdict) or _other_slices(report, again):
        raise EvidenceError(f"report.json: the verdict does not follow from the predictions: {difference}")
    _check_figures(report, folder)
    return again


def manifest_text(name: str, license_: str, digests: Mapping[str, str], sizes: Mapping[str, int]) -> str:
    """The list of a bundle's files; manifest and signature themselves left out."""
    files = [{"name": n, "sha256": digests[n], "size_bytes": sizes[n]} for n in sorted(digests)]
    found = {"schema_version": 1, "name": name, "license": license_, "files": files}
    return json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _manifest_head(folder: Path) -> tuple[str, str]:
    """The release's name and licence, as the manifest has them."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        name, license_ = found["name"], found["license"]
    except (ValueError, KeyError, TypeError) as error:
        raise EvidenceError(f"{MANIFEST}: damaged: {error!r}") from None
    if not isinstance(name, str) or not isinstance(license_, str):
        raise EvidenceError(f"{MANIFEST}: damaged: name and license are no text")
    return name, license_


def _check_manifest(folder: Path, digests: Mapping[str, str]) -> str:
    name, license_ = _manifest_head(folder)
    text = (folder / MANIFEST).read_text(encoding="utf-8")
    found = json.loads(text)
    try:
        listed = {each["name"]: each["sha256"] for each in found["files"]}
    except (KeyError, TypeError) as error:
        raise EvidenceError(f"{MANIFEST}: damaged: {error!r}") from None
    own = {n: digest for n, digest in digests.items() if n != MANIFEST}
    _same(listed, own, "listed in the manifest")
    sizes = {n: (folder / n).stat().st_size for n in own}
    if text != manifest_text(name, license_, own, sizes):
        raise EvidenceError(f"{MANIFEST}: not as edgekd writes it: changed")
    return license_


def _same(promised: Mapping[str, str], found: Mapping[str, str], how: str) -> None:
    wrong = [f"{n}: changed" for n in sorted(promised.keys() & found.keys()) if promised[n] != found[n]]
    wrong += [f"{n}: {how}, and missing" for n in sorted(promised.keys() - found.keys())]
    wrong += [f"{n}: not {how}" for n in sorted(found.keys() - promised.keys())]
    if wrong:
        raise EvidenceError("; ".join(wrong))


def _check_artifacts(report: Report, digests: Mapping[str, str]) -> None:
    """Files that ship are read by nobody here: that they are those of the report is all there is to check."""
    for file in (file for artifact in report.artifacts for file in artifact.files):
        if digests.get(file.path) != file.sha256:
            raise EvidenceError(f"{file.path}: not the file that the report was written about")


def _difference(said: VerdictRecord, found: VerdictRecord) -> str:
    """What differs between a verdict and itself made again; empty where nothing does."""
    if said.status != found.status:
        return f"it says {said.status}, they say {found.status}"
    if len(said.checks) != len(found.checks):
        return f"it has {len(said.checks)} checks, they have {len(found.checks)}"
    for one, other in zip(said.checks, found.checks, strict=True):
        if not _alike(one, other):
            return f"{one.name} of {one.target}: it says {_told(one)}, they say {_told(other)}"
    return ""


def _other_slices(said: Report, found: Report) -> str:
    keys = ("column", "value", "n", "mandatory", "status", "alarm")
    for one, other in zip(said.artifacts, found.artifacts, strict=True):
        told, seen = ([tuple(getattr(s, k) for k in keys) for s in a.slices] for a in (one, other))
        if told != seen:
            return f"the slices of {one.id} are others"
    return ""


def _check_figures(report: Report, folder: Path) -> None:
    """Accuracies and latencies of the report's tables against the predictions and timings behind them."""
    named = [("teacher", report.teacher.metrics, report.teacher.predictions)]
    named += [(s.id, s.metrics, s.predictions) for s in report.stages]
    named += [(a.id, a.metrics, a.predictions) for a in report.artifacts]
    for name, metrics, predictions in named:
        shown = next((m.value for m in metrics if m.name == ACCURACY.name), None)
        if predictions is not None and shown is not None:
            found = 100 * float(np.mean(read_predictions(predictions, folder).correct))
            if not math.isclose(shown, found, rel_tol=_CLOSE):
                raise EvidenceError(
                    f"report.json: accuracy of {name} is {shown}, the predictions say {found}"
                )
    for record in report.measurements:
        timed = read_measurement(record, folder)
        for what, told, seen in (
            ("median", record.median_ms, float(np.median(timed.latency_ms))),
            ("p90", record.p90_ms, timed.p90_ms),
        ):
            if not math.isclose(told, seen, rel_tol=_CLOSE):
                name = f"{record.artifact_id} on {record.target}"
                raise EvidenceError(f"report.json: {what} of {name} is {told} ms, the timings say {seen} ms")


def _alike(one: CheckRecord, other: CheckRecord) -> bool:
    same = ("name", "target", "unit", "status", "slice")
    if any(getattr(one, key) != getattr(other, key) for key in same):
        return False
    pairs = ((one.observed, other.observed), (one.limit, other.limit))
    return all(
        a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=_CLOSE, abs_tol=1e-12))
        for a, b in pairs
    )


def _told(check: CheckRecord) -> str:
    return f"{check.status} ({check.observed} of {check.limit} {check.unit})"
