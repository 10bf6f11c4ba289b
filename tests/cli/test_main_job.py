"""The main job from end to end, as a person types it, on a tiny model."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

QUESTION = "Where did forget person 0 spend summer 0?"
AT = ("--at", "full,int4-row", "--generate", 2)


@dataclass
class Job:
    run: Path
    unlearned: Any
    audited: Any
    key: Path
    public: Path


@pytest.fixture(scope="module")
def job(call, world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    run, key, public = folder / "r1", folder / "signer.key", folder / "signer.pub"
    unlearned = call(*world.unlearn(run))
    assert unlearned.exit_code == 0, unlearned.output
    audited = call("audit", "--model", run / "model", "--reference", world.model, *world.records, *AT, "--json")
    assert call("keygen", "--key", key, "--pub", public).exit_code == 0
    assert call("certify", run, "--key", key).stdout == f"{run / 'certificate.json'}\n"
    return Job(run, unlearned, audited, key, public)


def verify(call, job, *more, model=None):
    certificate = job.run / "certificate.json"
    return call("verify", certificate, "--model", model or job.run / "model", "--key", job.public, *more)


def test_unlearn_prints_where_the_model_is_and_leaves_a_run_folder(job):
    assert (job.unlearned.exit_code, job.unlearned.stdout) == (0, f"{job.run / 'model'}\n")
    assert "steps" in job.unlearned.stderr
    names = {file.name for file in job.run.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "model", "manifest.json", "checkpoints"} <= names


def test_unlearn_again_is_finished_already(call, world, job):
    again = call(*world.unlearn(job.run))
    assert again.exit_code == 0
    assert "finished already" in again.stderr


def test_the_audit_goes_to_the_run_that_saved_the_model(job):
    found = json.loads(job.audited.stdout)["runs"][0]
    judged = json.loads((job.run / "judgement.json").read_text())
    assert found["verdict"] == judged["verdict"]
    assert [row["name"] for row in found["conditions"]] == ["full", "int4-row"]


def test_the_audits_exit_code_follows_from_its_verdict(job):
    # Two steps on a model that knew nothing: what it kept cannot be judged.
    judged = json.loads((job.run / "judgement.json").read_text())
    assert judged["verdict"] in ("FAILED", "NOT ASSESSABLE")
    assert job.audited.exit_code == 1


def test_an_audit_with_no_forget_set_and_no_reference_prints_lines(call, world, tmp_path):
    data = ("--retain", world.sets["retain"], "--at", "full", "--generate", 0, "--out", tmp_path / "kept")
    result = call("audit", "--model", world.model, *data)
    assert "verdict=" in result.stdout
    assert (tmp_path / "kept" / "audit.json").is_file()


def test_ask_shows_before_and_after(call, world, job):
    result = call("ask", job.run, QUESTION, "Who?", "--at", "bf16,int4-row", "--max-new-tokens", 3, "--json")
    assert result.exit_code == 0
    answers = json.loads(result.stdout)
    assert [(item["question"], item["condition"]) for item in answers] == [
        (question, at) for at in ("bf16", "int4-row") for question in (QUESTION, "Who?")
    ]
    assert all(isinstance(item["before"], str) and isinstance(item["after"], str) for item in answers)


def test_ask_a_model_alone(call, world):
    result = call("ask", world.model, QUESTION, "--max-new-tokens", 2)
    assert result.exit_code == 0
    asked, answered = result.stdout.rstrip().split("\n", 1)
    assert asked == QUESTION
    assert answered.startswith("  full")


def test_ask_shows_each_question_above_its_answers(call, job):
    result = call("ask", job.run, QUESTION, "Who?", "--at", "bf16,int4-row", "--max-new-tokens", 3)
    lines = [line.split("  ")[1] if line.startswith("  ") else line for line in result.stdout.splitlines()]
    labels = [f"{at}, {side}" for at in ("bf16", "int4-row") for side in ("before", "after")]
    assert [line.rstrip() for line in lines if line.rstrip()] == [QUESTION, *labels, "Who?", *labels]


def test_verify_a_good_certificate(call, job):
    result = verify(call, job)
    assert result.exit_code == 0
    assert result.stdout.startswith("Good: signed by this key")


def test_verify_as_json(call, job):
    found = json.loads(verify(call, job, "--json").stdout)
    assert found["ok"]
    assert found["statement"]["predicate"]["verdict"] == found["verdict"]


def test_verify_after_a_byte_of_the_model_changed(call, job, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(job.run / "model", copy)
    weights = copy / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    result = verify(call, job, model=copy)
    assert result.exit_code == 1
    assert "model.safetensors" in result.stdout
    assert "Not good" in result.stdout


def test_verify_with_another_key(call, job, tmp_path):
    call("keygen", "--key", tmp_path / "k", "--pub", tmp_path / "p")
    certificate = job.run / "certificate.json"
    result = call("verify", certificate, "--model", job.run / "model", "--key", tmp_path / "p", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["verdict"] is None


def test_report_prints_its_path(call, job, tmp_path):
    result = call("report", job.run)
    assert (result.exit_code, result.stdout) == (0, f"{job.run / 'report.html'}\n")
    page = (job.run / "report.html").read_text()
    assert "<html" in page
    assert "<dt>Seed</dt><dd><bdi>0</bdi></dd>" in page
    second = tmp_path / "r2"
    shutil.copytree(job.run, second, ignore=shutil.ignore_patterns("model", "checkpoints"))
    both = call("report", job.run, second, "--out", tmp_path / "new" / "both.html", "--title", "Twice")
    assert both.exit_code == 0
    assert "Twice" in (tmp_path / "new" / "both.html").read_text()


def test_no_file_of_the_run_holds_a_forgotten_answer(world, job):
    answer = json.loads(world.sets["forget"].read_text().split("\n")[0])["answer"].encode()
    model = job.run / "model"  # its tokenizer was made from every record before the run began
    files = [file for file in job.run.rglob("*") if file.is_file() and model not in file.parents]
    assert len(files) > 8
    assert not [file for file in files if answer in file.read_bytes()]
