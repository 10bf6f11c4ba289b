"""The main job, small, from end to end: killed on the way, resumed, and nothing of what is forgotten left behind."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from remanent.auditing.verify import verify
from remanent.core.files import read_json, sha256_file
from remanent.errors import RunConflictError
from remanent.jobs.config import DemoSettings
from remanent.jobs.demo import demo

SMALL = {
    "model": "tiny",
    "forget": 4,
    "retain": 10,
    "control": 8,
    "questions": 2,
    "teaching_epochs": 8,
    "steps": 8,
    "at": "full,int4-row",
    "generate": 2,
    "threads": 1,
}


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    file = tmp_path_factory.mktemp("secret") / "key"
    before = os.environ.get("REMANENT_SECRET")
    os.environ["REMANENT_SECRET"] = str(file)
    yield file
    if before is None:
        del os.environ["REMANENT_SECRET"]
    else:
        os.environ["REMANENT_SECRET"] = before


@pytest.fixture(scope="module")
def made(secret, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "demo"
    return out, demo(DemoSettings(**SMALL), out)


def test_it_ends_with_what_it_promises(made):
    out, result = made
    assert [run.name for run in result.runs] == ["plain", "durable"]
    for run in result.runs:
        assert result.verified[run.name].ok
        assert result.verified[run.name].verdict == read_json(run / "judgement.json")["verdict"]
        asked = read_json(run / "asked.json")
        assert {item["condition"] for item in asked} == {"int4-row"}
        assert len(asked) == 3
        evidence = read_json(run / "audit.json")
        assert [item["name"] for item in evidence["conditions"]] == ["full", "int4-row"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "plain" in page
    assert "durable" in page


def test_both_ways_make_the_same_number_of_passes(made):
    _, result = made
    manifests = {run.name: read_json(run / "manifest.json") for run in result.runs}
    assert manifests["plain"]["planned_steps"] == SMALL["steps"]
    assert manifests["durable"]["planned_steps"] == SMALL["steps"]
    batches = {run.name: (run / "config.yaml").read_text() for run in result.runs}
    assert "batch_size: 8" in batches["plain"]
    assert "batch_size: 4" in batches["durable"]  # at two points


def test_another_seed_is_refused_and_leaves_the_data_as_they_were(made):
    out, _ = made
    before = {file: sha256_file(file) for file in (out / "data").iterdir()}
    with pytest.raises(RunConflictError, match="other records"):
        demo(DemoSettings(**SMALL, seed=1), out)
    assert {file: sha256_file(file) for file in (out / "data").iterdir()} == before


def test_a_changed_model_fails_its_certificate(made, tmp_path):
    out, result = made
    run = result.runs[0]
    copy = tmp_path / "model"
    copy.mkdir()
    for file in (run / "model").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    public = out / "keys" / "signer.pub"
    assert verify(run / "certificate.json", copy, public).ok
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert not verify(run / "certificate.json", copy, public).ok


def test_nothing_of_the_forget_set_is_in_what_a_run_writes(made):
    """Canaries: the forgotten answers' own words, and the records' keys, in every file but the demo's questions."""
    out, result = made
    forgotten = [json.loads(line) for line in (out / "data" / "forget.jsonl").read_text().splitlines()]
    answers = {record["answer"] for record in forgotten} | {record["question"] for record in forgotten}
    keys = {record["key"] for record in forgotten}
    shown = {item["question"] for run in result.runs for item in read_json(run / "asked.json")}
    for run in result.runs:
        for file in sorted(run.rglob("*")):
            if not file.is_file() or file.name in ("asked.json", "tokenizer.json"):
                continue  # the demo shows three questions on purpose; a tiny model's tokenizer is made of the records
            content = file.read_bytes()
            for canary in (answers - shown) | keys:
                assert canary.encode() not in content, f"{file} holds {canary!r}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_in_any_of_its_parts_it_ends_the_same(made, tmp_path):
    out, result = made
    again = tmp_path / "demo"
    # While it learns the language, while it unlearns the second way, and while it audits the second model.
    for moment in ("base/checkpoints/step-*", "durable/config.yaml", "plain/audit.json"):
        child = os.fork()
        if child == 0:
            try:
                demo(DemoSettings(**SMALL), again)
            finally:
                os._exit(0)
        while not list(again.glob(moment)):
            assert os.waitpid(child, os.WNOHANG) == (0, 0)  # it runs still
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert not (again / "durable" / "audit.json").exists()
    demo(DemoSettings(**SMALL), again)
    for run in result.runs:
        model = Path(run.name) / "model" / "model.safetensors"
        assert sha256_file(again / model) == sha256_file(out / model)
        assert read_json(again / run.name / "audit.json") == read_json(run / "audit.json")
