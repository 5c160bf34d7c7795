"""Who vouches for a bundle: an in-toto statement over all of its files, in an envelope signed with Ed25519.

The statement has the layout of OpenSSF's model signing, predicate version 1.0: the files with their digests
in alphabetical order, and as the subject's digest the SHA-256 of those digests in that order. The envelope
is DSSE.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.signer import CryptoSigner, Signature, SSlibKey

from edgekd.bundle import SIGNATURE
from edgekd.errors import EvidenceError, UsageError
from edgekd.store import canonical

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_MAKE_KEY = "openssl genpkey -algorithm ed25519 -out key.pem"
_MAKE_PUBLIC = "openssl pkey -in key.pem -pubout -out pub.pem"
_KEY_ERRORS = (ValueError, TypeError, UnsupportedAlgorithm)


def private_key(path: Path, password: str | None = None) -> CryptoSigner:
    """The key that signs, from a PEM file (PKCS #8).

    Raises:
        UsageError: it cannot be read, or is no Ed25519 key.
    """
    try:
        found = load_pem_private_key(_read(path), password.encode() if password else None)
    except _KEY_ERRORS as error:
        raise UsageError(f"{path}: no private key: {error}", hint=_MAKE_KEY) from None
    if not isinstance(found, Ed25519PrivateKey):
        raise UsageError(f"{path}: not an Ed25519 key", hint=_MAKE_KEY)
    return CryptoSigner(found)


def public_key(path: Path) -> SSlibKey:
    """The key that verifies, from a PEM file.

    Raises:
        UsageError: it cannot be read, or is no public Ed25519 key.
    """
    try:
        found = load_pem_public_key(_read(path))
    except _KEY_ERRORS as error:
        raise UsageError(f"{path}: no public key: {error}", hint=_MAKE_PUBLIC) from None
    if not isinstance(found, Ed25519PublicKey):
        raise UsageError(f"{path}: not an Ed25519 key", hint=_MAKE_PUBLIC)
    return SSlibKey.from_crypto(found)


def statement(name: str, digests: Mapping[str, str]) -> dict[str, Any]:
    """What is signed.

    Args:
        name: of the release.
        digests: file -> SHA-256, hexadecimal.
    """
    named = sorted(digests.items())
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in named)).hexdigest()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": [{"name": n, "algorithm": "sha256", "digest": digest} for n, digest in named],
        },
    }


def sign(said: Mapping[str, Any], signer: CryptoSigner) -> bytes:
    """The envelope of a statement; the same statement and key give the same bytes."""
    envelope = Envelope(canonical(said).encode(), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return _text(envelope)


def signed_digests(data: bytes, key: SSlibKey, name: str) -> dict[str, str]:
    """The digests that an envelope vouches for: file -> SHA-256.

    Args:
        data: the envelope.
        key: who must have signed it.
        name: of the release that it must be about.

    Raises:
        EvidenceError: not signed by this key, changed, or about something else.
    """
    try:
        envelope = Envelope.from_dict(json.loads(data))
        envelope.verify([key], 1)
        said = json.loads(envelope.payload)
        digests = {each["name"]: each["digest"] for each in said["predicate"]["resources"]}
        expected = statement(name, digests)
    except SecureSystemsError:
        raise EvidenceError(
            f"{SIGNATURE}: not signed by this key, or changed since", hint="verify with the signer's key"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvidenceError(f"{SIGNATURE}: no signature as edgekd writes it: {error!r}") from None
    # Beside what is signed an envelope has bytes that no signature covers: it must be as it is written here.
    own = [Signature(each.keyid, each.signature) for each in envelope.signatures.values()]
    only = Envelope(
        envelope.payload, PAYLOAD_TYPE, {each.keyid: each for each in own if each.keyid == key.keyid}
    )
    if said != expected or _text(only) != data:
        raise EvidenceError(f"{SIGNATURE}: changed, or not about this release")
    return digests


def _text(envelope: Envelope) -> bytes:
    return (json.dumps(envelope.to_dict(), indent=2, sort_keys=True) + "\n").encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
