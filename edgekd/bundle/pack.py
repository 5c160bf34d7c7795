"""A finished run as one archive: what ships, and all that its verdict rests on."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from edgekd import run_file, tasks
from edgekd.bundle import MANIFEST, SIGNATURE, archive
from edgekd.bundle.parts import INPUTS, named, written
from edgekd.bundle.verify import manifest_text, verify
from edgekd.errors import UsageError, nearest
from edgekd.nodes import Plan
from edgekd.report.model_card import LICENSES
from edgekd.report.schema import parse
from edgekd.store import Store, sha256_file

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner


@dataclass(frozen=True)
class Packed:
    """A bundle that was made.

    Attributes:
        path: where it lies.
        num_files: in it, manifest and signature included.
        size_bytes: of the archive.
        key_id: of who signed it; None where nobody did.
        status: the verdict that it holds.
    """

    path: Path
    num_files: int
    size_bytes: int
    key_id: str | None
    status: str


def bundle(
    workdir: Path,
    output: Path,
    *,
    license_: str,
    signer: CryptoSigner | None = None,
    inputs: bool = False,
    force: bool = False,
) -> Packed:
    """Packs a finished run; the same run gives the same bytes.

    Args:
        workdir: its folder.
        output: the archive to write.
        license_: of the files that ship, an SPDX expression.
        signer: who vouches for it; None leaves it unsigned.
        inputs: whether the test split's inputs go along: they may be customers' data.
        force: whether a file that is there may be replaced.

    Raises:
        EvidenceError: the verdict does not follow from what lies in the folder, or a file was changed.
        UsageError: no finished run, a file of it is missing, the license is no SPDX expression, or
            nothing can be written to `output`.
    """
    license_ = _spdx(license_)
    if output.exists() and not output.is_file():
        raise UsageError(f"{output}: no plain file", hint="-o release.zip")
    if output.exists() and not force:
        raise UsageError(f"{output}: is there already", hint="--force replaces it")
    if output.exists() and not archive.is_bundle(output):
        raise UsageError(f"{output}: no bundle, and not replaced", hint="-o release.zip")
    if not output.parent.is_dir():
        raise UsageError(f"{output.parent}: no such folder", hint=f"mkdir -p {output.parent}")
    plan, _, _, store = run_file.read(workdir)
    report = parse(workdir / "report.json")
    found: dict[str, Path | bytes] = {name: _own(workdir, name) for name in sorted(named(report))}
    found.update(written(report, plan.targets, plan.policy, license_))
    if inputs:
        found[INPUTS] = _inputs(plan, store)
    digests = {name: _digest(content) for name, content in found.items()}
    sizes = {name: _size(content) for name, content in found.items()}
    found[MANIFEST] = manifest_text(report.recipe.name, license_, digests, sizes).encode()
    if signer is not None:
        from edgekd.bundle import signing  # an extra: who signs nothing does without it

        digests[MANIFEST] = _digest(found[MANIFEST])
        said = signing.statement(report.recipe.name, digests)
        found[SIGNATURE] = signing.sign(said, signer)
    new = output.with_name(f".{output.name}.{os.getpid()}.new")
    try:
        archive.write(new, found)
        # A folder that a run is changing, or that was edited, is not vouched for.
        verify(new, None if signer is None else signer.public_key)
        new.replace(output)
    finally:
        new.unlink(missing_ok=True)
    key_id = None if signer is None else signer.public_key.keyid
    return Packed(output, len(found), output.stat().st_size, key_id, report.verdict.status)


def _spdx(text: str) -> str:
    """An SPDX expression in the spelling of the standard."""
    try:
        return canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        otherwise = "Apache-2.0, MIT OR Apache-2.0 ...; terms of your own are LicenseRef-my-terms"
        # Of "MIT License" the nearest would be the Unlicense.
        hint = nearest(text.lower().replace("license", ""), LICENSES, otherwise)
        raise UsageError(f"--license {text!r} is no SPDX expression", hint=hint) from None


def _inputs(plan: Plan, store: Store) -> bytes:
    """The raw inputs of the test split, (N, ...), with the ids of the predictions."""
    node = plan.node("data")
    entry = store.get(node.stage, node.key)
    if entry is None:
        raise UsageError("the store no longer has the run's data", hint="run the recipe again")
    for name in entry.files:
        entry.file(name)  # its checksum is verified
    test = tasks.load(entry.folder).splits["test"]
    packed = io.BytesIO()
    np.savez_compressed(packed, sample_ids=np.asarray(test.ids), inputs=np.asarray(test.inputs))
    return packed.getvalue()


def _own(workdir: Path, name: str) -> Path:
    path = workdir / name
    if not path.resolve().is_relative_to(workdir.resolve()) or not path.is_file():
        raise UsageError(f"{path}: missing", hint=f"edgekd report {workdir} writes it again")
    return path


def _digest(content: Path | bytes) -> str:
    return sha256(content).hexdigest() if isinstance(content, bytes) else sha256_file(content)


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
