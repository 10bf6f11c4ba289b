"""The example ends in a certificate that holds for the model it made, and for no other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import remanent
from remanent.core.files import read_json
from remanent.data.jsonl import read_records

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, out):
    environment = {**os.environ, "REMANENT_SECRET": str(out.parent / "secret")}
    command = [sys.executable, str(EXAMPLES / name), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_unlearn_and_audit(tmp_path):
    out = tmp_path / "example"
    printed = run("unlearn_and_audit.py", out)
    verdict = re.search(r"^certificate good, verdict (.+)$", printed, re.MULTILINE)
    assert verdict is not None
    assert verdict[1] == read_json(out / "run" / "judgement.json")["verdict"]
    certificate, key = out / "run" / "certificate.json", out / "signer.pub"
    assert remanent.verify(certificate, model=out / "run" / "model", key=key).ok
    assert not remanent.verify(certificate, model=out / "taught" / "model", key=key).ok
    evidence = read_json(out / "run" / "audit.json")
    assert {item["subject"] for item in evidence["measurements"]} == {"audited", "original"}
    nll = {
        item["subject"]: sum(score["nll"] for score in item["scores"]) / len(item["scores"])
        for item in evidence["measurements"]
        if (item["condition"], item["records"]) == ("full", "forget")
    }
    assert nll["original"] < 1, "the model was to know what it forgets"
    assert nll["audited"] > nll["original"] + 2

    texts = [text for record in read_records(out / "data" / "forget.jsonl", "forget") for text in (record.answer,)]
    written = [file for file in (out / "run").rglob("*") if file.suffix in (".json", ".jsonl", ".yaml")]
    written = [file for file in written if file.parent.name != "model"]
    assert len(written) > 10
    for file in written:
        content = file.read_text(encoding="utf-8")
        assert not any(text in content for text in texts), file.name
