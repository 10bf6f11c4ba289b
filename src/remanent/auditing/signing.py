"""Signatures: Ed25519 over a DSSE envelope (github.com/secure-systems-lab/dsse, protocol and envelope v1)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from remanent.auditing.statement import canonical_json
from remanent.core.files import write_atomic
from remanent.errors import InputError, IntegrityError

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def generate_key(
    private_path: str | os.PathLike[str], public_path: str | os.PathLike[str], passphrase: str | None = None
) -> str:
    """Make a key pair: PKCS8 and SubjectPublicKeyInfo as PEM, the private file readable by its owner only.

    Args:
        private_path: where the private key goes; keep it off the machine that is audited.
        public_path: where the public key goes; hand it to whoever verifies.
        passphrase: encrypts the private file; None leaves it in the clear.

    Returns:
        The key id.

    Raises:
        InputError: where a file is there already, or the passphrase is empty.
    """
    if passphrase == "":
        raise InputError("passphrase", "", "some text, or none at all")
    for field, path in (("private key", private_path), ("public key", public_path)):
        if os.path.lexists(path):
            raise InputError(field, str(path), "a path where no file is: keys are never overwritten")
        if not Path(path).parent.is_dir():
            raise InputError(field, str(path), "a path in an existing folder")
    key = Ed25519PrivateKey.generate()
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase.encode("utf-8"))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_atomic(private_path, private, mode=0o600)
    try:
        write_atomic(public_path, public)
    except OSError:
        Path(private_path).unlink()
        raise
    return key_id(key.public_key())


def load_private_key(path: str | os.PathLike[str], passphrase: str | None = None) -> Ed25519PrivateKey:
    """An Ed25519 private key from a PEM file. Raises InputError where it is not one, or its passphrase is wrong."""
    secret = None if passphrase is None else passphrase.encode("utf-8")
    raw = _read("private key", path)
    try:
        key = load_pem_private_key(raw, secret)
    except TypeError as error:
        expected = (
            "a passphrase: the file is encrypted" if secret is None else "no passphrase: the file is in the clear"
        )
        raise InputError("passphrase", "none" if secret is None else "one", expected) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        expected = "an Ed25519 private key in PEM (PKCS8)" + ("" if secret is None else " and its passphrase")
        raise InputError("private key", str(path), expected) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError("private key", str(path), f"an Ed25519 key, not {type(key).__name__}")
    return key


def load_public_key(path: str | os.PathLike[str]) -> Ed25519PublicKey:
    """An Ed25519 public key from a PEM file. Raises InputError where it is not one."""
    try:
        key = load_pem_public_key(_read("public key", path))
    except (ValueError, UnsupportedAlgorithm) as error:
        expected = "an Ed25519 public key in PEM (SubjectPublicKeyInfo)"
        raise InputError("public key", str(path), expected) from error
    if not isinstance(key, Ed25519PublicKey):
        raise InputError("public key", str(path), f"an Ed25519 key, not {type(key).__name__}")
    return key


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of the 32 bytes of a public key, in hexadecimal."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def sign(payload: bytes, key: Ed25519PrivateKey) -> dict[str, Any]:
    """An envelope around an in-toto statement's bytes."""
    signature = key.sign(pre_authentication_encoding(PAYLOAD_TYPE, payload))
    return {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": key_id(key.public_key()), "sig": base64.b64encode(signature).decode("ascii")}],
    }


def envelope_bytes(envelope: Mapping[str, Any]) -> bytes:
    """The one spelling of an envelope: with it, no byte of a certificate file can change unnoticed."""
    return canonical_json(dict(envelope)) + b"\n"


def write_certificate(path: str | os.PathLike[str], statement: Mapping[str, Any], key: Ed25519PrivateKey) -> None:
    """Sign a statement and write it, whole or not at all."""
    write_atomic(path, envelope_bytes(sign(canonical_json(dict(statement)), key)))


def open_envelope(envelope: object, key: Ed25519PublicKey) -> bytes:
    """The payload of an envelope that this key has signed.

    Raises:
        IntegrityError: where it is not an envelope of one signature, of another type, by another key, or changed.
    """
    if not isinstance(envelope, dict) or set(envelope) != {"payload", "payloadType", "signatures"}:
        raise IntegrityError("the envelope must hold payload, payloadType and signatures, and nothing else")
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise IntegrityError(f"the payload type is not {PAYLOAD_TYPE}")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise IntegrityError("the envelope must hold one signature")
    (entry,) = signatures
    if not isinstance(entry, dict) or set(entry) != {"keyid", "sig"}:
        raise IntegrityError("the signature must hold keyid and sig, and nothing else")
    payload, signature = _decode("payload", envelope["payload"]), _decode("sig", entry["sig"])
    if entry["keyid"] != key_id(key):
        raise IntegrityError(f"the envelope is not signed by this key (key id {key_id(key)[:16]}...)")
    try:
        key.verify(signature, pre_authentication_encoding(PAYLOAD_TYPE, payload))
    except InvalidSignature as error:
        raise IntegrityError("the signature is wrong: the certificate was changed after it was signed") from error
    return payload


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE's PAE, which binds the type to the payload."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _decode(field: str, text: object) -> bytes:
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        raw = None
    # Of several spellings that decode alike only the standard one is taken.
    if raw is None or base64.b64encode(raw).decode("ascii") != text:
        raise IntegrityError(f"{field} is not standard base64")
    return raw


def _read(field: str, path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(field, str(path), f"a file that can be read ({error.strerror})") from error
