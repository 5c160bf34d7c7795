"""Envelopes: by another implementation of Ed25519 and of DSSE's encoding, written out here."""

import base64
import hashlib
import json

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from edgekd.bundle import signing
from edgekd.errors import EvidenceError, UsageError

DIGESTS = {"b/two": "22" * 32, "a": "11" * 32}


@pytest.fixture
def keys(tmp_path):
    """A key of known bytes: (private, private.pem, public.pem)."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "pub.pem").write_bytes(public)
    return key, tmp_path / "key.pem", tmp_path / "pub.pem"


@pytest.fixture
def signed(keys):
    return signing.sign(signing.statement("net", DIGESTS), signing.private_key(keys[1]))


def test_the_statement_is_as_model_signing_lays_it_out():
    said = signing.statement("net", DIGESTS)
    assert [r["name"] for r in said["predicate"]["resources"]] == ["a", "b/two"]
    assert said["subject"][0]["digest"]["sha256"] == hashlib.sha256(b"\x11" * 32 + b"\x22" * 32).hexdigest()
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicateType"] == "https://model_signing/signature/v1.0"
    assert said["predicate"]["serialization"] == {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": ["model.sig"],
    }


def test_the_signature_holds_by_hand(keys, signed):
    found = json.loads(signed)
    payload = base64.b64decode(found["payload"])
    kind = "application/vnd.in-toto+json"
    assert found["payloadType"] == kind
    told = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    signature = base64.b64decode(found["signatures"][0]["sig"])
    keys[0].public_key().verify(signature, told)
    assert signature == keys[0].sign(told)
    with pytest.raises(InvalidSignature):
        keys[0].public_key().verify(signature, told + b" ")


def test_what_was_signed_comes_back(keys, signed):
    assert signing.signed_digests(signed, signing.public_key(keys[2]), "net") == DIGESTS


def test_one_changed_bit_anywhere_is_told(keys, signed):
    public = signing.public_key(keys[2])
    for at in range(len(signed)):
        changed = bytearray(signed)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(EvidenceError, match=r"model\.sig: "):
            signing.signed_digests(bytes(changed), public, "net")


def test_fields_that_no_signature_covers_are_none(keys, signed):
    for change in (
        lambda e: e["signatures"][0].update(note="signed by the CEO"),
        lambda e: e["signatures"].append({"keyid": "other", "sig": "AAAA"}),
        lambda e: e.update(more=1),
        lambda e: e.update(payloadType="text/plain"),
    ):
        envelope = json.loads(signed)
        change(envelope)
        text = (json.dumps(envelope, indent=2, sort_keys=True) + "\n").encode()
        with pytest.raises(EvidenceError, match=r"model\.sig: "):
            signing.signed_digests(text, signing.public_key(keys[2]), "net")


def test_another_key_another_release_another_statement(keys, signed, tmp_path):
    public = signing.public_key(keys[2])
    other = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    pem = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "other.pem").write_bytes(pem)
    with pytest.raises(EvidenceError, match="not signed by this key"):
        signing.signed_digests(signed, signing.public_key(tmp_path / "other.pem"), "net")
    with pytest.raises(EvidenceError, match="not about this release"):
        signing.signed_digests(signed, public, "gross")
    for change in (
        lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"),
        lambda s: s["subject"][0]["digest"].update(sha256="00" * 32),
        lambda s: s["predicate"].update(more=1),
        lambda s: s["predicate"]["resources"].reverse(),
        lambda s: s["predicate"]["resources"].append(dict(s["predicate"]["resources"][0])),
    ):
        said = signing.statement("net", DIGESTS)
        change(said)
        with pytest.raises(EvidenceError, match=r"model\.sig: "):
            signing.signed_digests(signing.sign(said, signing.private_key(keys[1])), public, "net")


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b"\xff", b'{"payload": 1}', b'{"payload": "", "signatures": 3}', b"[" * 200_000],
)
def test_no_envelope(keys, text):
    with pytest.raises(EvidenceError, match=r"model\.sig: "):
        signing.signed_digests(text, signing.public_key(keys[2]), "net")


def test_keys_that_are_none(keys, tmp_path):
    curve = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ec.pem").write_bytes(curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for path, said in (
        (tmp_path / "ec.pem", "not an Ed25519"),
        (keys[2], "no private key"),
        (tmp_path, "read"),
    ):
        with pytest.raises(UsageError, match=said):
            signing.private_key(path)
    with pytest.raises(UsageError, match="no public key"):
        signing.public_key(keys[1])
    locked = keys[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    (tmp_path / "locked.pem").write_bytes(locked)
    assert signing.private_key(tmp_path / "locked.pem", "word").public_key.keyid
    for password in (None, "other"):
        with pytest.raises(UsageError, match="no private key"):
            signing.private_key(tmp_path / "locked.pem", password)
