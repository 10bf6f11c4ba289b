"""An audit in a run's folder: of its own records, and nothing of an earlier audit left lying as if it were of this."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks

QUICK = ("--at", "full", "--generate", 0)


@pytest.fixture(scope="module")
def done(call, world, tmp_path_factory) -> Path:
    """A run, audited, certified and reported; its key lies beside it."""
    run = tmp_path_factory.mktemp("again") / "r1"
    assert call(*world.unlearn(run)).exit_code == 0
    audited(call, world, run)
    call("keygen", "--key", run.parent / "signer.key", "--pub", run.parent / "signer.pub")
    assert call("certify", run, "--key", run.parent / "signer.key").exit_code == 0
    assert call("report", run).exit_code == 0
    return run


@pytest.fixture
def run(done, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(done, tmp_path / "r1"))


def audited(call, world, run, *more, **sets):
    records = [part for role in world.sets for part in (f"--{role}", sets.get(role, world.sets[role]))]
    return call("audit", "--model", run / "model", "--reference", world.model, *records, *QUICK, *more)


def lines(run) -> dict[str, str]:
    return {line["name"]: line["verdict"] for line in json.loads((run / "judgement.json").read_text())["lines"]}


def outputs(run) -> dict[str, str]:
    return json.loads((run / "manifest.json").read_text())["outputs"]


def test_the_manifest_covers_what_came_after_the_run(run):
    names = {"audit.json", "judgement.json", "audit.yaml", "certificate.json", "report.html"}
    assert names <= set(outputs(run))
    for name in names:
        assert outputs(run)[name] == hashlib.sha256((run / name).read_bytes()).hexdigest()
    assert "model/model.safetensors" in outputs(run)


def test_the_records_are_those_of_the_run(run):
    assert lines(run)["data"] == "PASSED"


def test_other_records_than_the_runs_are_warned(call, world, run, tmp_path):
    fewer = tmp_path / "retain.jsonl"
    fewer.write_text("".join(world.sets["retain"].read_text().splitlines(keepends=True)[:-2]))
    audited(call, world, run, retain=fewer)
    assert lines(run)["data"] == "WARNED"


def test_another_split_seed_than_the_runs_is_refused(call, world, run):
    before = (run / "audit.json").read_bytes()
    result = audited(call, world, run, "--split-seed", 1)
    assert result.exit_code == 2
    assert "split_seed" in result.stderr
    assert "has trained on" in result.stderr
    assert (run / "audit.json").read_bytes() == before


def test_the_same_audit_again_leaves_its_certificate(call, world, run):
    before = (run / "certificate.json").read_bytes()
    audited(call, world, run)
    assert (run / "certificate.json").read_bytes() == before
    assert (run / "report.html").is_file()
    # A setting that came later stands there where it says something: else no older audit were the same again.
    assert "attack_learning_rate" not in json.loads((run / "audit.json").read_text())["settings"]
    audited(call, world, run, "--attack-learning-rate", 1e-3)
    assert json.loads((run / "audit.json").read_text())["settings"]["attack_learning_rate"] == 1e-3


def test_another_audit_puts_aside_what_was_of_the_first(call, world, run):
    before = (run / "certificate.json").read_bytes()
    result = audited(call, world, run, "--epsilon", 0.3)
    assert "put aside" in result.stderr
    assert not (run / "certificate.json").exists()
    assert not (run / "report.html").exists()
    (kept,) = (run / "earlier").iterdir()
    assert kept.read_bytes() == before
    assert {"certificate.json", "report.html"}.isdisjoint(outputs(run))
    assert f"earlier/{kept.name}" in outputs(run)


def test_an_audit_in_a_folder_of_its_own_says_nothing_of_a_run(call, world, run, tmp_path):
    audited(call, world, run, "--out", tmp_path / "apart")
    assert "data" not in lines(tmp_path / "apart")
    assert "audit.json" in outputs(tmp_path / "apart")


def test_a_limit_on_a_measure_is_a_line_that_can_fail_from_the_audit_to_the_certificate(call, world, done, run):
    both = ("--require", "exact-memorization@full<=1", "--require", "extraction-strength>=1.5")
    assert audited(call, world, run, *both).exit_code == 1
    found = lines(run)
    assert (found["exact-memorization<=1"], found["extraction-strength>=1.5"]) == ("PASSED", "FAILED")
    assert call("certify", run, "--key", done.parent / "signer.key").exit_code == 0
    checked = call("verify", run / "certificate.json", "--model", run / "model", "--key", done.parent / "signer.pub")
    assert (checked.exit_code, "FAILED" in checked.stdout) == (0, True)
    assert call("report", run).exit_code == 0
    assert "extraction-strength is not ≥ 1.5" in (run / "report.html").read_text()
    before = (run / "judgement.json").read_bytes()
    for wrong, meant in (("exact-memorisation<=1", "'exact-memorization'"), ("truth-ratio@ful>=0.5", "'full'")):
        result = audited(call, world, run, "--require", wrong)
        assert result.exit_code == 2
        assert f"did you mean {meant}" in " ".join(result.stderr.split())
    assert (run / "judgement.json").read_bytes() == before


def test_what_is_signed_follows_from_the_evidence_whatever_the_judgement_says(call, done, run):
    certificate = run / "certificate.json"
    before = predicate(certificate)
    said = json.loads((run / "judgement.json").read_text())
    for line in said["lines"]:
        line["value"] = 0.999
    (run / "judgement.json").write_text(json.dumps({**said, "notes": []}))
    assert call("certify", run, "--key", done.parent / "signer.key").exit_code == 0
    after = predicate(certificate)
    assert (after["lines"], after["notes"]) == (before["lines"], before["notes"])
    said["criteria"]["epsilon"] = 0.01
    (run / "judgement.json").write_text(json.dumps(said))
    refused = call("certify", run, "--key", done.parent / "signer.key")
    assert refused.exit_code == 3
    assert "does not follow" in refused.stderr


def predicate(certificate: Path) -> dict:
    return json.loads(base64.b64decode(json.loads(certificate.read_text())["payload"]))["predicate"]


def test_what_the_page_asks_for_becomes_lines(call, world, run, tmp_path):
    """How durable: extraction strength, truth ratio and sampled answers are lines where they are required, else not."""
    code = "\n".join(code for _, code in blocks(ROOT / "docs" / "how-durable.md", "bash"))
    (command,) = [line for line in code.splitlines() if "--require" in line]
    words = shlex.split(command)
    required = [part for word, limit in pairwise(words) if word == "--require" for part in (word, limit)]
    asked = ("--at", words[words.index("--at") + 1], "--generate", 2)
    told = tmp_path / "forget.jsonl"
    rows = [json.loads(line) for line in world.sets["forget"].read_text().splitlines()]
    told.write_text("".join(json.dumps({**row, "wrong_answers": ["In Rome.", "In Kyiv."]}) + "\n" for row in rows))
    audited(call, world, run, *asked, forget=told)
    names = {"extraction-strength<=0.2", "truth-ratio>=0.5", "answers<=0.5"}
    assert not names & set(lines(run))
    audited(call, world, run, *asked, *required, forget=told)
    found = [line for line in json.loads((run / "judgement.json").read_text())["lines"] if line["name"] in names]
    assert {line["name"] for line in found} == names
    assert {line["condition"] for line in found} == {"full", "int4-row", "sampled-0.8"}
    assert all(line["value"] is not None for line in found)
