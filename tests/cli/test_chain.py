"""Certificates in a chain, with lineage, and their evidence measured again."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from remanent.auditing import chain

AT = ("--at", "full,int4-row,relearning-unrelated-2", "--attack-learning-rate", 0.001, "--generate", 0)


@dataclass
class Made:
    folder: Path

    @property
    def key(self):
        return self.folder / "signer.key"

    @property
    def public(self):
        return self.folder / "signer.pub"

    def run(self, name):
        return self.folder / name


@pytest.fixture(scope="module")
def once(call, world, tmp_path_factory):
    """r1 unlearns the base; r2 unlearns r1's model, and its certificate names r1's."""
    made = Made(tmp_path_factory.mktemp("chain"))
    call("keygen", "--key", made.key, "--pub", made.public)
    first, second = made.run("r1"), made.run("r2")
    unlearned = [str(part) for part in world.unlearn(second)]
    unlearned[unlearned.index("--model") + 1] = str(first / "model")
    for run, command, reference in ((first, world.unlearn(first), world.model), (second, unlearned, first / "model")):
        assert call(*command).exit_code == 0
        assert call("audit", "--model", run / "model", "--reference", reference, *world.records, *AT).exit_code < 2
    (first / "other.Q4_K_M.gguf").write_bytes(b"GGUF")
    assert call("certify", first, "--key", made.key).exit_code == 0
    parent = ("--parent", first / "certificate.json")
    result = call("certify", second, "--key", made.key, *parent)
    assert result.exit_code == 0, result.output
    return made


@pytest.fixture
def made(once, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(once.folder, tmp_path / "made")
    return Made(tmp_path / "made")


def verify(call, made, *more, run="r2"):
    certificate = made.run(run) / "certificate.json"
    return call("verify", certificate, "--model", made.run(run) / "model", "--key", made.public, *more)


def statement(call, made, run):
    return json.loads(verify(call, made, "--json", run=run).stdout)["statement"]["predicate"]


def test_a_chain_is_walked(call, made):
    result = verify(call, made, "--chain")
    assert result.exit_code == 0, result.output
    assert "parent 1" in result.stdout
    assert "of the original model" in result.stdout
    (link,) = json.loads(verify(call, made, "--chain", "--json").stdout)["chain"]
    assert (link["of"], link["problems"]) == ("original", [])
    assert "names no parent" in verify(call, made, "--chain", run="r1").stdout


def test_a_third_link_takes_the_first_with_it(call, made, monkeypatch):
    """A later audit of r2's own model, chained to the certificate of the one before."""
    first = made.run("r2") / "certificate.json"
    kept = shutil.copytree(made.run("r2"), made.folder / "r2-before")
    result = call("certify", made.run("r2"), "--key", made.key, "--parent", kept / first.name)
    assert result.exit_code == 0, result.output
    links = json.loads(verify(call, made, "--chain", "--json").stdout)["chain"]
    assert [link["of"] for link in links] == ["audited", "original"]
    assert len(list((made.run("r2") / "parents").iterdir())) == 2
    monkeypatch.setattr(chain, "LONGEST", 1)  # what is not looked at does not hold
    assert verify(call, made, "--chain").exit_code == 1


def test_a_changed_or_missing_parent_is_a_problem(call, made):
    (parent,) = (made.run("r2") / "parents").iterdir()
    good = parent.read_bytes()
    parent.write_bytes(good[:200] + bytes([good[200] ^ 1]) + good[201:])
    assert verify(call, made).exit_code == 0
    assert verify(call, made, "--chain").exit_code == 1
    own = (made.run("r2") / "certificate.json").read_bytes()
    parent.write_bytes(own)  # signed by the same key, and another
    assert "its sha256 differs" in verify(call, made, "--chain").stdout
    parent.unlink()
    result = verify(call, made, "--chain")
    assert result.exit_code == 1
    assert "cannot be read" in result.stdout


def test_a_parent_about_another_model_is_refused(call, made):
    parent = made.run("r2") / "certificate.json"
    result = call("certify", made.run("r1"), "--key", made.key, "--parent", parent)
    assert result.exit_code == 2
    assert "one of the models here: original, audited" in result.stderr


def test_a_parent_of_another_signer_needs_its_key(call, made):
    other = made.folder / "other.key", made.folder / "other.pub"
    call("keygen", "--key", other[0], "--pub", other[1])
    parent = ("--parent", made.run("r1") / "certificate.json")
    refused = call("certify", made.run("r2"), "--key", other[0], *parent)
    assert refused.exit_code == 2
    assert "--parent-key" in refused.stderr
    taken = call("certify", made.run("r2"), "--key", other[0], *parent, "--parent-key", made.public)
    assert taken.exit_code == 0, taken.output
    certificate = made.run("r2") / "certificate.json"
    check = ("verify", certificate, "--model", made.run("r2") / "model", "--key", other[1], "--chain")
    assert call(*check).exit_code == 1
    assert call(*check, "--parent-key", made.public).exit_code == 0


def test_lineage_names_the_original_and_every_quantized_file(call, made):
    predicate = statement(call, made, "r1")
    assert "model.safetensors" in predicate["lineage"]["original"]
    (row,) = predicate["quantized"]
    assert (row["name"], row["audited_at"]) == ("other.Q4_K_M.gguf", None)
    assert any("not audited: other.Q4_K_M.gguf" in limit for limit in predicate["limits"])


def test_the_base_of_a_taught_model_is_named(call, world, tmp_path):
    """What a teaching run started from is the base of what unlearns its model."""
    from remanent.core.run_folder import RunFolder
    from remanent.jobs.lineage import base_files

    for name, model in (("taught", world.model), ("r1", tmp_path / "taught" / "model")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"model: {model}\n")
    files, note = base_files(RunFolder(tmp_path / "r1"))
    assert ("model.safetensors" in files, note) == (True, "")
    (tmp_path / "taught" / "config.yaml").write_text("model: somebody/somewhere\n")
    files, note = base_files(RunFolder(tmp_path / "r1"))
    assert files == {}
    assert "not named" in note


def test_adapters_are_named_and_checked(call, made, tmp_path):
    adapter = tmp_path / "lora"
    adapter.mkdir()
    again = ("certify", made.run("r1"), "--key", made.key, "--adapter", adapter)
    assert call(*again).exit_code == 2
    (adapter / "adapter_config.json").write_text("{}")
    assert call(*again).exit_code == 0
    assert set(statement(call, made, "r1")["lineage"]["adapter/lora"]) == {"adapter_config.json"}


def test_rows_are_measured_again(call, made):
    result = verify(call, made, "--rerun", 99, "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rerun"]
    predicate = statement(call, made, "r2")
    assert predicate["settings"]["attack_learning_rate"] == 0.001
    assert "(AdamW, 0.001)" in predicate["conditions"][-1]["description"]
    certified = [row for row in predicate["evidence"] if row["subject"] == "audited"]
    assert len(rows) == len(certified) > 8
    assert {row["condition"] for row in rows} == {"full", "int4-row", "relearning-unrelated-2"}
    assert all(abs(row["measured"] - row["certified"]) < 1e-3 for row in rows)
    few = [verify(call, made, "--rerun", 2, "--seed", 5).stdout for _ in range(2)]
    assert few[0] == few[1]
    assert few[0].count("measured") == 2


def test_an_attack_at_another_rate_is_not_measured_for_it(call, made):
    file = made.run("r2") / "audit.yaml"
    text = file.read_text()
    assert "attack_learning_rate: 0.001" in text
    file.write_text(text.replace("attack_learning_rate: 0.001", "attack_learning_rate: 0.002"))
    result = verify(call, made, "--rerun", 99)
    assert result.exit_code == 1
    assert "described otherwise" in " ".join(result.stdout.split())


def test_a_model_that_wears_an_intervention_is_measured_again_without_it_too(call, world, tmp_path):
    """The audit asked for it of itself: its settings name no such condition."""
    made = Made(tmp_path)
    run = made.run("guarded")
    method = ("--method", "guardrail", "--set", "text=No.", "--out", run)
    assert call("unlearn", "--model", world.model, *world.records, *method).exit_code == 0
    call("audit", "--model", run / "model", "--reference", world.model, *world.records, "--at", "full", "--generate", 0)
    call("keygen", "--key", made.key, "--pub", made.public)
    assert call("certify", run, "--key", made.key).exit_code == 0
    result = verify(call, made, "--rerun", 99, "--json", run="guarded")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rerun"]
    assert {row["condition"] for row in rows} == {"full", "intervention-off"}
    assert all(abs(row["measured"] - row["certified"]) < 1e-3 for row in rows)


def test_figures_that_were_not_measured_are_found(call, made):
    """An auditor who wrote other figures into the evidence, and signed it properly."""
    file = made.run("r2") / "audit.json"
    evidence = json.loads(file.read_text())
    for item in evidence["measurements"]:
        if item["subject"] == "audited":
            for score in item["scores"]:
                score["nll"] += 0.1
    file.write_text(json.dumps(evidence))
    from remanent.auditing.evidence import Evidence
    from remanent.auditing.judge import judge

    (made.run("r2") / "judgement.json").write_text(json.dumps(judge(Evidence.from_dict(evidence)).to_dict()))
    assert call("certify", made.run("r2"), "--key", made.key).exit_code == 0
    assert verify(call, made).exit_code == 0
    result = verify(call, made, "--rerun", 99)
    assert result.exit_code == 1
    assert "0.1000 nats apart" in result.stdout


def test_other_records_or_another_secret_are_not_measured(call, made, tmp_path, monkeypatch):
    monkeypatch.setenv("REMANENT_SECRET", str(tmp_path / "another"))
    result = verify(call, made, "--rerun", 1)
    assert result.exit_code == 1
    assert "not those that were certified, or the secret is another" in result.stdout


def test_records_of_the_same_keys_that_say_something_else_are_not_those_that_were_certified(call, made):
    file = made.run("r2") / "audit.yaml"
    settings = yaml.safe_load(file.read_text())
    records = [json.loads(line) for line in Path(settings["data"]["forget"]).read_text().splitlines()]
    for record in records:
        record["answer"] = "Nobody knows."
    other = made.folder / "other.jsonl"
    other.write_text("".join(json.dumps(record) + "\n" for record in records))
    settings["data"]["forget"] = str(other)
    file.write_text(yaml.safe_dump(settings))
    result = verify(call, made, "--rerun", 1)
    assert result.exit_code == 1
    assert "the forget records are not those that were certified" in " ".join(result.stdout.split())
