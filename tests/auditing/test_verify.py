from __future__ import annotations

import base64
import copy
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import evidence, forgotten, original
from tiny_verifier import tiny_verify

from remanent.auditing.evidence import AUDITED
from remanent.auditing.hashes import hash_folder
from remanent.auditing.judge import judge
from remanent.auditing.signing import envelope_bytes, sign, write_certificate
from remanent.auditing.statement import build_statement, canonical_json
from remanent.auditing.verify import Verification, verify
from remanent.errors import InputError

GOLDEN = Path(__file__).parent / "golden"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))  # of the tests only
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))


class Case:
    """A certificate, its model folder and its key."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.model, self.public = folder / "certificate.json", folder / "model", folder / "signer.pub"
        (self.model / "sub").mkdir(parents=True)
        (self.model / "model.safetensors").write_bytes(bytes(range(200)))
        (self.model / "config.json").write_text('{"model_type": "llama"}')
        (self.model / "sub" / "vocab.txt").write_text("a\nb\n")
        write_public(self.public, KEY)
        files = hash_folder(self.model)
        found = evidence(original(), forgotten(), subjects={AUDITED: files})
        created = datetime(2026, 1, 2, tzinfo=UTC)
        self.statement = build_statement(found, judge(found), files, method={"name": "durable"}, created=created)
        write_certificate(self.certificate, self.statement, KEY)

    def verify(self) -> Verification:
        return verify(self.certificate, self.model, self.public)

    def tiny(self) -> str:
        return tiny_verify(self.certificate, self.model, self.public)

    def reissue(self, change: Callable[[dict[str, Any]], object], key: Ed25519PrivateKey = KEY) -> Verification:
        """A changed statement, signed properly: what the key's owner could have written."""
        statement = copy.deepcopy(self.statement)
        change(statement)
        self.certificate.write_bytes(envelope_bytes(sign(canonical_json(statement), key)))
        return self.verify()


def write_public(path: Path, key: Ed25519PrivateKey) -> None:
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("made"))


@pytest.fixture
def case(made: Case, tmp_path: Path) -> Case:
    """A copy that a test may break."""
    found = copy.copy(made)
    shutil.copytree(made.model, tmp_path / "model")
    shutil.copy(made.certificate, tmp_path)
    shutil.copy(made.public, tmp_path)
    found.certificate, found.model = tmp_path / "certificate.json", tmp_path / "model"
    found.public = tmp_path / "signer.pub"
    return found


def test_what_was_certified_verifies(case: Case) -> None:
    found = case.verify()
    assert (found.ok, found.problems, found.notes, found.verdict) == (True, (), (), "PASSED")
    assert found.statement == case.statement
    assert case.tiny() == "PASSED"


def test_no_byte_of_the_certificate_can_change(case: Case) -> None:
    """Every 37th byte and the whole of both ends, each changed in two ways."""
    good = case.certificate.read_bytes()
    positions = sorted({*range(0, len(good), 37), *range(60), *range(len(good) - 260, len(good))})
    for position in positions:
        for mask in (0x01, 0x20):
            changed = bytearray(good)
            changed[position] ^= mask
            case.certificate.write_bytes(changed)
            found = case.verify()
            assert not found.ok, position
            assert (found.verdict, found.statement) == (None, None)


@pytest.mark.parametrize("spelled", ["spaces", "order", "no newline", "escape"])
def test_the_certificate_has_one_spelling(case: Case, spelled: str) -> None:
    good = case.certificate.read_bytes()
    envelope = json.loads(good)
    other = {
        "spaces": json.dumps(envelope, sort_keys=True, indent=1).encode(),
        "order": json.dumps(dict(reversed(envelope.items())), separators=(",", ":")).encode() + b"\n",
        "no newline": good.rstrip(b"\n"),
        "escape": good.replace(b'"keyid"', b'"key\\u0069d"'),
    }[spelled]
    assert other != good
    assert json.loads(other) == envelope
    case.certificate.write_bytes(other)
    assert "spelled" in case.verify().problems[0]


def test_no_byte_of_a_model_file_can_change(case: Case) -> None:
    path = case.model / "model.safetensors"
    good = path.read_bytes()
    for position in range(0, len(good), 17):
        changed = bytearray(good)
        changed[position] ^= 1
        path.write_bytes(changed)
        found = case.verify()
        assert not found.ok
        assert found.problems == ("model.safetensors: is not the file that was certified (its sha256 differs)",)
        assert case.tiny() == ""
    path.write_bytes(good)
    assert case.verify().ok


def test_missing_files_are_named(case: Case) -> None:
    (case.model / "config.json").unlink()
    assert case.verify().problems == ("config.json: is missing",)
    shutil.rmtree(case.model / "sub")
    assert case.verify().problems == ("config.json: is missing", "sub/vocab.txt: is missing")


@pytest.mark.parametrize(
    "name",
    ["extra.safetensors", "pytorch_model.bin", "adapter_config.json", "modeling_x.py", "chat_template.jinja", "sub/x"],
)
def test_extra_files_that_a_loader_might_read_fail(case: Case, name: str) -> None:
    (case.model / name).write_text("x")
    found = case.verify()
    assert not found.ok
    assert found.problems[0].startswith(f"{name}: is not named")
    assert found.verdict == "PASSED"


def test_extra_files_that_no_loader_reads_are_noted(case: Case) -> None:
    for name in ("README.md", "LICENSE", "notice.txt"):
        (case.model / name).write_text("x")
    (case.model / ".gitattributes").write_text("x")
    found = case.verify()
    assert found.ok
    assert [note.split(":")[0] for note in found.notes] == ["LICENSE", "README.md", "notice.txt"]


def test_the_certificate_may_lie_beside_the_weights(case: Case) -> None:
    inside = case.model / "certificate.json"
    shutil.move(case.certificate, inside)
    assert verify(inside, case.model, case.public).ok
    shutil.copy(inside, case.model / "other.json")
    assert not verify(inside, case.model, case.public).ok


def test_another_key_does_not_verify_it(case: Case) -> None:
    write_public(case.public, OTHER)
    found = case.verify()
    assert not found.ok
    assert (found.verdict, found.statement) == (None, None)
    assert "not signed by this key" in found.problems[0]
    assert case.tiny() == ""


def test_a_key_or_folder_that_is_none_is_the_callers_mistake(case: Case) -> None:
    with pytest.raises(InputError, match="public key"):
        verify(case.certificate, case.model, case.certificate)
    with pytest.raises(InputError, match="model folder"):
        verify(case.certificate, case.model / "none", case.public)


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "sub/../config.json", "a\\b", "C:x", ".", "", "a//b", "a\x00b", "./config.json"],
)
def test_names_that_lead_elsewhere_are_refused(case: Case, name: str) -> None:
    found = case.reissue(lambda statement: statement["subject"][0].update(name=name))
    assert not found.ok
    assert found.verdict is None
    assert "subject.0.name" in found.problems[0]


def test_a_link_out_of_the_folder_is_refused(case: Case, tmp_path: Path) -> None:
    shutil.move(case.model / "config.json", tmp_path / "elsewhere.json")
    (case.model / "config.json").symlink_to("../elsewhere.json")
    assert "leads out" in " ".join(case.verify().problems)


def test_a_hidden_link_out_of_the_folder_is_refused_too(case: Case, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes((case.model / "config.json").read_bytes())
    (case.model / ".config.json").symlink_to("../elsewhere")
    (case.model / "config.json").unlink()
    found = case.reissue(lambda statement: statement["subject"][0].update(name=".config.json"))
    assert found.problems == (".config.json: leads out of the model folder",)


def test_a_file_named_twice_is_refused(case: Case) -> None:
    found = case.reissue(lambda statement: statement["subject"].append(statement["subject"][0]))
    assert "the certificate names a file twice" in found.problems


def test_a_name_too_long_for_the_disk_is_a_problem(case: Case) -> None:
    found = case.reissue(lambda statement: statement["subject"][0].update(name="a" * 1000))
    assert not found.ok


def test_a_declared_limit_without_its_line_is_refused(case: Case) -> None:
    """Who signs cannot leave a limit out that the certificate itself declares, nor say that it held."""

    def declare(statement: dict[str, Any]) -> None:
        statement["predicate"]["settings"]["require"] = ["exposure<=2"]

    def hold(statement: dict[str, Any]) -> None:
        declare(statement)
        line = {**statement["predicate"]["lines"][0], "name": "exposure<=2", "condition": "exposure"}
        statement["predicate"]["lines"].append({**line, "verdict": "PASSED"})
        found = {"subject": AUDITED, "condition": "exposure", "records": "forget", "name": "exposure", "n": 9}
        statement["predicate"]["measures"].append({**found, "value": 7.0, "low": 6.0, "high": 8.0})

    for change in (declare, hold):
        (problem,) = case.reissue(change).problems
        assert "exposure<=2 does not follow" in problem
    (problem,) = case.reissue(lambda made: made["predicate"]["settings"].update(require=["exposure!"])).problems
    assert "cannot be judged again" in problem


def test_a_verdict_that_its_lines_do_not_carry_is_refused(case: Case) -> None:
    found = case.reissue(lambda statement: statement["predicate"]["lines"][0].update(verdict="FAILED"))
    assert not found.ok
    assert "does not follow" in found.problems[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("subject"),
        lambda s: s.update(subject=[]),
        lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda s: s.update(predicateType="https://example.com/other"),
        lambda s: s.update(extra=1),
        lambda s: s["subject"][0]["digest"].update(sha256="AB" * 32),
        lambda s: s["subject"][0]["digest"].update(sha256="ab" * 32 + "\n"),
        lambda s: s["subject"][0]["digest"].update(md5="x"),
        lambda s: s["predicate"].update(verdict="EXCELLENT"),
        lambda s: s["predicate"].pop("limits"),
        lambda s: s["predicate"]["lines"][0].update(value="0.5"),
    ],
)
def test_a_signed_statement_of_another_form_is_refused(case: Case, change: Callable[[dict[str, Any]], object]) -> None:
    found = case.reissue(change)
    assert not found.ok
    assert (found.verdict, found.statement) == (None, None)
    assert found.problems[0].startswith("statement")


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b"\xff", b'{"payload": NaN}', b"[" * 100_000])
def test_what_is_not_an_envelope_is_a_problem(case: Case, raw: bytes) -> None:
    case.certificate.write_bytes(raw)
    assert not case.verify().ok


@pytest.mark.parametrize("payload", [b"", b"\xff", b"[]", b"1", b'{"a":1,"a":1}', b'{"_type":"\\ud800"}'])
def test_a_signed_payload_that_is_no_statement_is_a_problem(case: Case, payload: bytes) -> None:
    case.certificate.write_bytes(envelope_bytes(sign(payload, KEY)))
    assert not case.verify().ok


def test_a_missing_or_giant_certificate_is_a_problem(case: Case) -> None:
    case.certificate.unlink()
    assert "cannot be read" in case.verify().problems[0]
    with open(case.certificate, "wb") as file:
        file.truncate(100 * 2**20)
    assert "larger than" in case.verify().problems[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_signed_statement_with_anything_anywhere_never_crashes(case: Case, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(places(case.statement)))
    statement = replaced(case.statement, path, data.draw(JSON))
    case.certificate.write_bytes(envelope_bytes(sign(canonical_json(statement), KEY)))
    found = case.verify()
    assert found.ok == (found.problems == ())
    if path[:1] in ((), ("subject",), ("_type",), ("predicateType",)) and statement != case.statement:
        assert not found.ok


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_an_envelope_with_anything_anywhere_is_refused(made: Case, case: Case, data: st.DataObject) -> None:
    envelope = json.loads(made.certificate.read_bytes())
    changed = replaced(envelope, data.draw(st.sampled_from(places(envelope))), data.draw(JSON))
    case.certificate.write_bytes(canonical_json(changed) + b"\n")
    assert case.verify().ok == (changed == envelope)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(case: Case, raw: bytes) -> None:
    case.certificate.write_bytes(raw)
    assert not case.verify().ok


def golden(tmp_path: Path) -> tuple[Path, Path, Path]:
    shutil.copytree(GOLDEN, tmp_path / "golden")
    return tuple(tmp_path / "golden" / name for name in ("certificate.json", "model", "signer.pub"))


def test_the_golden_certificate_verifies_in_both(tmp_path: Path) -> None:
    paths = golden(tmp_path)
    found = verify(*paths)
    assert found.problems == ()
    assert found.ok
    assert found.verdict == tiny_verify(*paths) == "FAILED"


def test_the_golden_certificate_is_spelled_as_it_would_be_today(tmp_path: Path) -> None:
    certificate, _, _ = golden(tmp_path)
    payload = base64.b64decode(json.loads(certificate.read_bytes())["payload"])
    assert canonical_json(json.loads(payload)) == payload
    assert envelope_bytes(sign(payload, KEY)) == certificate.read_bytes()


@pytest.mark.parametrize("broken", ["signature", "payload", "weights", "missing", "extra", "key"])
def test_both_verifiers_refuse_the_broken_golden_files(tmp_path: Path, broken: str) -> None:
    certificate, model, public = golden(tmp_path)
    envelope = json.loads(certificate.read_bytes())
    if broken == "signature":
        envelope["signatures"][0]["sig"] = sign(b"other", KEY)["signatures"][0]["sig"]
        certificate.write_bytes(envelope_bytes(envelope))
    elif broken == "payload":
        text = base64.b64decode(envelope["payload"]).replace(b'"verdict":"FAILED"', b'"verdict":"PASSED"')
        envelope["payload"] = base64.b64encode(text).decode()
        certificate.write_bytes(envelope_bytes(envelope))
    elif broken == "weights":
        (model / "model.safetensors").write_bytes(b"other")
    elif broken == "missing":
        (model / "config.json").unlink()
    elif broken == "extra":
        (model / "adapter_model.safetensors").write_bytes(b"")
    else:
        write_public(public, OTHER)
    assert not verify(certificate, model, public).ok
    assert tiny_verify(certificate, model, public) == ""


def test_golden_files_hold_no_private_key() -> None:
    names = [name for _, _, files in os.walk(GOLDEN) for name in files]
    assert sorted(names) == ["certificate.json", "config.json", "model.safetensors", "signer.pub", "tofu.json"]
    assert b"PRIVATE" not in b"".join(path.read_bytes() for path in GOLDEN.rglob("*") if path.is_file())
