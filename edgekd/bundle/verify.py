"""Does a bundle hold what was signed, and does its verdict follow from what it holds?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from edgekd.bundle import MANIFEST, SIGNATURE, archive
from edgekd.bundle.evidence import check_evidence
from edgekd.bundle.parts import INPUTS, json_text, named, written
from edgekd.config import CalibrationPolicy, Recipe, Target, build, read_toml
from edgekd.errors import EdgeKDError, EvidenceError
from edgekd.nodes import library_version
from edgekd.report.schema import Report, parse
from edgekd.store import sha256_file

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

T = TypeVar("T", Target, CalibrationPolicy)


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
        elif SIGNATURE in names:
            raise EvidenceError(f"{path}: somebody signed it", hint="--key pub.pem tells whether it holds")
        license_ = _check_manifest(folder, digests)
        try:
            report = _check_report(folder, digests, license_)
        except EvidenceError:
            raise
        except EdgeKDError as error:
            raise EvidenceError(str(error).replace(f"{folder}/", "")) from None
    return Verified(report, license_, len(names), None if key is None else key.keyid)


def _check_report(folder: Path, digests: Mapping[str, str], license_: str) -> Report:
    """The report made anew, and every other file held to it."""
    report = parse(folder / "report.json")
    if report.recipe.name != _manifest_head(folder)[0]:
        raise EvidenceError(f"{MANIFEST}: of {_manifest_head(folder)[0]!r}, the report is not")
    for file in (file for artifact in report.artifacts for file in artifact.files):
        if digests.get(file.path) != file.sha256:
            raise EvidenceError(f"{file.path}: not the file that the report was written about")
    recipe = build(Recipe, report.recipe.config, "report.json: recipe")
    targets = [_config(Target, folder / f"targets/{name}.toml") for name in recipe.targets]
    calibration = _config(CalibrationPolicy, folder / f"calibration/{recipe.calibration}.toml")
    again = check_evidence(report, folder, targets)
    made = written(report, targets, calibration, license_)
    expected = {*made, *named(report), MANIFEST, *({INPUTS} & digests.keys())}
    if odd := sorted(expected ^ digests.keys()):
        raise EvidenceError(f"{odd[0]}: {'missing' if odd[0] in expected else 'no report names it'}")
    # Another version of edgekd words and draws otherwise what a report says.
    if json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["edgekd"] == library_version("edgekd"):
        for name, content in made.items():
            if (folder / name).read_bytes() != content:
                raise EvidenceError(f"{name}: not what report.json says")
    return again


def _config(model: type[T], path: Path) -> T:
    if not path.is_file():
        raise EvidenceError(f"{path.parent.name}/{path.name}: missing")
    data, text = read_toml(path)
    return build(model, data, f"{path.parent.name}/{path.name}", text)


def manifest_text(name: str, license_: str, digests: Mapping[str, str], sizes: Mapping[str, int]) -> str:
    """The list of a bundle's files; manifest and signature themselves left out."""
    return _manifest_text(name, license_, library_version("edgekd"), digests, sizes)


def _manifest_text(
    name: str, license_: str, version: str, digests: Mapping[str, str], sizes: Mapping[str, int]
) -> str:
    files = [{"name": n, "sha256": digests[n], "size_bytes": sizes[n]} for n in sorted(digests)]
    found = {"schema_version": 1, "edgekd": version, "name": name, "license": license_, "files": files}
    return json_text(found)


def _manifest_head(folder: Path) -> tuple[str, str]:
    """The release's name and licence, as the manifest has them."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        name, license_ = found["name"], found["license"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
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
        version = str(found["edgekd"])
    except (KeyError, TypeError) as error:
        raise EvidenceError(f"{MANIFEST}: damaged: {error!r}") from None
    own = {n: digest for n, digest in digests.items() if n != MANIFEST}
    _same(listed, own, "listed in the manifest")
    sizes = {n: (folder / n).stat().st_size for n in own}
    if text != _manifest_text(name, license_, version, own, sizes):
        raise EvidenceError(f"{MANIFEST}: not as edgekd writes it: changed")
    return license_


def _same(promised: Mapping[str, str], found: Mapping[str, str], how: str) -> None:
    wrong = [f"{n}: changed" for n in sorted(promised.keys() & found.keys()) if promised[n] != found[n]]
    wrong += [f"{n}: {how}, and missing" for n in sorted(promised.keys() - found.keys())]
    wrong += [f"{n}: not {how}" for n in sorted(found.keys() - promised.keys())]
    if wrong:
        raise EvidenceError("; ".join(wrong))
