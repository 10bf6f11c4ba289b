from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_curve_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from remanent.auditing import signing
from remanent.auditing.signing import (
    PAYLOAD_TYPE,
    generate_key,
    key_id,
    load_private_key,
    load_public_key,
    open_envelope,
    pre_authentication_encoding,
    sign,
)
from remanent.errors import InputError, IntegrityError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def test_the_encoding_is_that_of_the_dsse_specification() -> None:
    # protocol.md, test vectors
    assert pre_authentication_encoding("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_a_signed_payload_comes_back() -> None:
    envelope = sign(b"payload \x00", KEY)
    assert set(envelope) == {"payload", "payloadType", "signatures"}
    assert base64.b64decode(envelope["payload"]) == b"payload \x00"
    assert open_envelope(json.loads(json.dumps(envelope)), KEY.public_key()) == b"payload \x00"
    assert sign(b"payload \x00", KEY) == envelope


def test_the_key_id_is_the_hash_of_the_raw_key() -> None:
    raw = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert key_id(KEY.public_key()) == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize("passphrase", [None, "Zoë's"])
def test_a_new_pair_signs_and_opens(tmp_path: Path, passphrase: str | None) -> None:
    name = generate_key(tmp_path / "a.key", tmp_path / "a.pub", passphrase)
    private, public = load_private_key(tmp_path / "a.key", passphrase), load_public_key(tmp_path / "a.pub")
    assert open_envelope(sign(b"x", private), public) == b"x"
    assert key_id(public) == name
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    head = (tmp_path / "a.key").read_text().splitlines()[0]
    assert head == ("-----BEGIN PRIVATE KEY-----" if passphrase is None else "-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert (tmp_path / "a.pub").read_text().startswith("-----BEGIN PUBLIC KEY-----")


@pytest.mark.parametrize("there", ["a.key", "a.pub"])
def test_keys_are_never_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(InputError, match="overwritten"):
        generate_key(tmp_path / "a.key", tmp_path / "a.pub")
    assert os.listdir(tmp_path) == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_a_pair_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = signing.write_atomic

    def fails_for_public(path: Path, data: bytes, mode: int | None = None) -> None:
        if str(path).endswith(".pub"):
            raise OSError("disk full")
        whole(path, data, mode)

    monkeypatch.setattr(signing, "write_atomic", fails_for_public)
    with pytest.raises(OSError, match="disk full"):
        generate_key(tmp_path / "a.key", tmp_path / "a.pub")
    assert os.listdir(tmp_path) == []


def test_bad_places_and_passphrases_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="existing folder"):
        generate_key(tmp_path / "none" / "a.key", tmp_path / "a.pub")
    with pytest.raises(InputError, match="passphrase"):
        generate_key(tmp_path / "a.key", tmp_path / "a.pub", "")


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    generate_key(tmp_path / "locked.key", tmp_path / "locked.pub", "right")
    generate_key(tmp_path / "open.key", tmp_path / "open.pub")
    curve = generate_curve_key(SECP256R1())
    (tmp_path / "curve.key").write_bytes(curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "curve.pub").write_bytes(
        curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="encrypted"):
        load_private_key(tmp_path / "locked.key")
    with pytest.raises(InputError, match="in the clear"):
        load_private_key(tmp_path / "open.key", "needless")
    with pytest.raises(InputError, match="passphrase") as caught:
        load_private_key(tmp_path / "locked.key", "hunter2")
    assert "hunter2" not in str(caught.value)
    for name in ("curve.key", "text", "open.pub", "none"):
        with pytest.raises(InputError, match="private key"):
            load_private_key(tmp_path / name)
    for name in ("curve.pub", "text", "open.key", "none"):
        with pytest.raises(InputError, match="public key"):
            load_public_key(tmp_path / name)


def broken_envelopes() -> dict[str, object]:
    good = sign(b"payload", KEY)
    entry = good["signatures"][0]
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    bits = bytearray(base64.b64decode(entry["sig"]))
    bits[0] ^= 1
    return {
        "none": None,
        "list": [good],
        "missing": {"payload": good["payload"], "payloadType": PAYLOAD_TYPE},
        "more": {**good, "extra": 1},
        "type": {**good, "payloadType": "text/plain"},
        "no signature": {**good, "signatures": []},
        "two": {**good, "signatures": [entry, entry]},
        "entry": {**good, "signatures": ["x"]},
        "unsigned key id": {**good, "signatures": [{**entry, "keyid": "0" * 64}]},
        "payload": {**good, "payload": base64.b64encode(b"payloae").decode()},
        "not text": {**good, "payload": 7},
        "not base64": {**good, "payload": "@@@"},
        "not ascii": {**good, "payload": "é"},
        "spare bits": {**good, "payload": "cGF5bG9hZB=="},
        "signature": {**good, "signatures": [{**entry, "sig": base64.b64encode(bits).decode()}]},
        "short": {**good, "signatures": [{**entry, "sig": "AAAA"}]},
        "other key": sign(b"payload", other),
        "other key, our id": {
            **good,
            "signatures": [{**entry, "sig": sign(b"payload", other)["signatures"][0]["sig"]}],
        },
    }


@pytest.mark.parametrize("name", broken_envelopes())
def test_what_is_not_a_good_envelope_is_refused(name: str) -> None:
    with pytest.raises(IntegrityError):
        open_envelope(broken_envelopes()[name], KEY.public_key())
