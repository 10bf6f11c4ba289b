"""Mutated files: refused with an error of ours, or they mean what the original meant; a certificate never verifies."""

from __future__ import annotations

import base64
import json
import random

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from mutate import mutated_bytes, mutated_file, mutated_json, mutated_plain, mutated_structure

from remanent.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from remanent.core.digest import weights_digest
from remanent.core.files import sha256_file, write_json
from remanent.errors import InputError, IntegrityError, RemanentError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))  # of the tests only
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
COUNTS = [10, pytest.param(1000, marks=pytest.mark.slow)]


def checkpoint():
    weights = {"layer.weight": torch.arange(12.0).view(3, 4), "half": torch.ones(3, dtype=torch.bfloat16)}
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(4)}}, "param_groups": [{"lr": 0.1}]}
    return Checkpoint(4, weights, {"optimizer": optimizer, "best": None, "rows": "[]", "pair": (1, "two")})


def same(left, right):
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


@pytest.mark.parametrize("count", COUNTS)
def test_a_mutated_checkpoint_is_refused_or_is_the_one_that_was_saved(count, tmp_path):
    chance, saved, folder = random.Random(1), checkpoint(), tmp_path / "c"
    save_checkpoint(folder, saved)
    files = sorted(folder.iterdir())
    refused = 0
    for _ in range(count):
        file = chance.choice(files)
        before = file.read_bytes()
        file.write_bytes(mutated_file(file, chance))
        try:
            found = load_checkpoint(folder)
        except IntegrityError:
            refused += 1
        else:
            assert same(vars(found), vars(saved))
        file.write_bytes(before)
    assert refused >= count * 0.9
    assert same(vars(load_checkpoint(folder)), vars(saved))


@pytest.mark.parametrize("count", COUNTS)
def test_a_checkpoint_mutated_together_with_its_manifest_is_refused_or_read_but_never_a_crash(count, tmp_path):
    chance, folder = random.Random(2), tmp_path / "c"
    save_checkpoint(folder, checkpoint())
    files = [file for file in sorted(folder.iterdir()) if file.name != "manifest.json"]
    refused = 0
    for _ in range(count):
        file = chance.choice(files)
        before = file.read_bytes()
        file.write_bytes(mutated_structure(file, chance))
        write_json(folder / "manifest.json", {item.name: sha256_file(item) for item in files})
        try:
            assert isinstance(load_checkpoint(folder), Checkpoint)
        except IntegrityError:
            refused += 1
        file.write_bytes(before)
    assert refused > 0


class Certified:
    """A model folder, its certificate and its key."""

    def __init__(self, folder):
        from synthetic import evidence, forgotten, original

        from remanent.auditing.evidence import AUDITED
        from remanent.auditing.hashes import hash_folder
        from remanent.auditing.judge import judge
        from remanent.auditing.signing import write_certificate
        from remanent.auditing.statement import build_statement

        self.model, self.certificate, self.public = folder / "m", folder / "certificate.json", folder / "key.pub"
        self.model.mkdir()
        (self.model / "model.safetensors").write_bytes(bytes(200))
        self.public.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        files = hash_folder(self.model)
        found = evidence(original(), forgotten(), subjects={AUDITED: files})
        self.statement = build_statement(found, judge(found), files, method={"name": "durable"})
        write_certificate(self.certificate, self.statement, KEY)
        self.raw = self.certificate.read_bytes()

    def verify(self, raw):
        from remanent.auditing.verify import verify

        self.certificate.write_bytes(raw)
        return verify(self.certificate, self.model, self.public)


def mutated_certificate(case, chance):
    """The file's bytes, the envelope, the statement inside it, or one that another key has signed."""
    from remanent.auditing.signing import envelope_bytes, sign

    kind = chance.choice(("bytes", "envelope", "statement", "payload", "stranger"))
    if kind == "bytes":
        return mutated_bytes(case.raw, chance)
    if kind == "envelope":
        return mutated_json(case.raw, chance)
    envelope = json.loads(case.raw)
    payload = base64.b64decode(envelope["payload"])
    payload = mutated_bytes(payload, chance) if kind == "payload" else mutated_json(payload, chance)
    if kind == "stranger":
        return envelope_bytes(sign(payload, OTHER))
    return envelope_bytes(envelope | {"payload": base64.b64encode(payload).decode()})


@pytest.mark.parametrize("count", COUNTS)
def test_a_mutated_certificate_never_verifies(count, tmp_path):
    case, chance = Certified(tmp_path), random.Random(3)
    for _ in range(count):
        found = case.verify(mutated_certificate(case, chance))
        assert not found.ok
        assert found.problems
        assert found.verdict is None
        assert found.statement is None
    assert case.verify(case.raw).ok


@pytest.mark.parametrize("count", COUNTS)
def test_a_statement_that_its_signer_mutated_is_judged_and_never_a_crash(count, tmp_path):
    from remanent.auditing.signing import envelope_bytes, sign

    case, chance = Certified(tmp_path), random.Random(4)
    refused = 0
    for _ in range(count):
        payload = json.dumps(mutated_plain(case.statement, chance)).encode()
        refused += not case.verify(envelope_bytes(sign(payload, KEY))).ok
    assert refused > 0
    changed = json.loads(json.dumps(case.statement))
    changed["subject"][0]["digest"]["sha256"] = "0" * 64
    assert not case.verify(envelope_bytes(sign(json.dumps(changed).encode(), KEY))).ok


@pytest.mark.parametrize("count", COUNTS)
def test_a_mutated_key_opens_nothing(count, tmp_path):
    from remanent.auditing.signing import load_public_key

    case, chance = Certified(tmp_path), random.Random(5)
    raw, key = case.public.read_bytes(), KEY.public_key()
    for _ in range(count):
        case.public.write_bytes(mutated_bytes(raw, chance))
        try:
            same_key = load_public_key(case.public) == key  # spaces round the text change nothing
        except InputError:
            continue
        assert case.verify(case.raw).ok == same_key


@pytest.fixture
def saved(tiny_loaded, tmp_path):
    from remanent.models.save import save

    return save(tiny_loaded.model, tiny_loaded.tokenizer, tmp_path / "m")


def loaded(path):
    """The digest of the weights, and what the tokenizer makes of a text; None where it is refused."""
    from remanent.models.load import load

    try:
        found = load(path)
    except RemanentError:
        return None
    return weights_digest(found.model), found.tokenizer.encode("Who wrote it? Ada.")


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_a_mutated_model_is_refused_or_is_the_one_that_was_saved(count, saved):
    chance, expected = random.Random(6), loaded(saved)
    assert expected is not None
    files = sorted(saved.iterdir())
    for _ in range(count):
        file = chance.choice(files)
        before = file.read_bytes()
        file.write_bytes(mutated_file(file, chance))
        assert loaded(saved) in (None, expected)
        file.write_bytes(before)


@pytest.mark.parametrize("count", [10, pytest.param(300, marks=pytest.mark.slow)])
def test_a_mutated_model_without_a_manifest_is_never_a_crash(count, saved):
    chance = random.Random(7)
    (saved / "remanent.json").unlink()
    files = sorted(saved.iterdir())
    found = []
    for _ in range(count):
        file = chance.choice(files)
        before = file.read_bytes()
        file.write_bytes(mutated_file(file, chance))
        found.append(loaded(saved))
        file.write_bytes(before)
    assert None in found
    assert loaded(saved) is not None


@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_a_mutated_gguf_file_is_never_a_crash_nor_a_model_with_random_weights(count, saved, tmp_path):
    from remanent.models.gguf_write import write_gguf

    file, chance = tmp_path / "m.gguf", random.Random(8)
    write_gguf(saved, file, "f32")
    raw = file.read_bytes()
    whole = loaded(file)
    assert whole is not None
    renamed = raw.replace(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight")
    for content in [renamed, *(mutated_bytes(raw, chance) for _ in range(count))]:
        file.write_bytes(content)
        first = loaded(file)
        assert content != renamed or first is None
        # A value that changed is the file's own; what transformers fills in would differ from load to load.
        assert first == loaded(file)
