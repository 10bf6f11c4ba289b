"""Purge removes what still knows and nothing that a certificate names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml


@pytest.fixture(scope="module")
def once(call, world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("purge")
    run = folder / "r1"
    assert call(*world.unlearn(run)).exit_code == 0
    at = ("--at", "full", "--generate", 0)
    call("audit", "--model", run / "model", "--reference", world.model, *world.records, *at)
    call("keygen", "--key", folder / "signer.key", "--pub", folder / "signer.pub")
    assert call("certify", run, "--key", folder / "signer.key").exit_code == 0
    return folder


@pytest.fixture
def folder(once, tmp_path, monkeypatch):
    """A copy that a test may change, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache" / "remanent" / "reference").mkdir(parents=True)
    (tmp_path / "cache" / "remanent" / "reference" / "a.safetensors").write_bytes(b"scores")
    return Path(shutil.copytree(once, tmp_path / "purge"))


def verify(call, folder):
    run = folder / "r1"
    return call("verify", run / "certificate.json", "--model", run / "model", "--key", folder / "signer.pub")


def test_it_removes_what_knows_and_the_certificate_stays_good(call, folder):
    run = folder / "r1"
    (run / ".model.abcd.old").mkdir()
    (run / ".model.abcd.old" / "model.safetensors").write_bytes(b"weights")
    (run / "asked.json").write_text("[]")
    before = {name: (run / name).read_bytes() for name in ("certificate.json", "audit.json", "config.yaml")}
    assert (run / "checkpoints").is_dir()
    result = call("purge", run, "--yes")
    assert result.exit_code == 0, result.output
    for gone in ("checkpoints", "audit", ".model.abcd.old", "asked.json"):
        assert not (run / gone).exists()
        assert str(run / gone) in result.stdout
    assert not (folder.parent / "cache" / "remanent" / "reference").exists()
    assert {name: (run / name).read_bytes() for name in before} == before
    assert verify(call, folder).exit_code == 0


def test_it_lists_what_remains(call, folder, world):
    other = folder / "r2"
    (other / "checkpoints").mkdir(parents=True)
    (other / "config.yaml").write_text((folder / "r1" / "config.yaml").read_text())
    found = json.loads(call("purge", folder / "r1", "--yes", "--json").stdout)
    remains = {item["path"]: item["what"] for item in found["remains"]}
    assert "knows the records" in remains[str(world.model)]
    assert str(world.sets["forget"]) in remains
    assert str(other / "checkpoints") in remains
    assert (world.model / "model.safetensors").is_file()
    assert (other / "checkpoints").is_dir()
    assert any("Backups" in sentence for sentence in found["always"])


def test_the_teaching_run_and_copies_beside_the_original_are_listed(call, folder):
    run, taught = folder / "r1", folder / "taught"
    (taught / "checkpoints").mkdir(parents=True)
    (taught / "model").mkdir()
    (taught / "config.yaml").write_text("model: base\nrecords: facts.jsonl\n")
    (taught / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**settings, "model": str(taught / "model")}))
    found = {item["path"] for item in json.loads(call("purge", run, "--yes", "--json").stdout)["remains"]}
    assert {str(taught / "model"), str(taught / "checkpoints"), str(taught / "model-Q4_K_M.gguf")} <= found


def test_the_manifest_holds_a_record(call, folder):
    run = folder / "r1"
    call("purge", run, "--yes")
    manifest = json.loads((run / "manifest.json").read_text())
    (record,) = manifest["purged"]
    assert record["state"] == "done"
    assert any(item["path"].endswith("checkpoints") and item["size"] > 0 for item in record["removed"])
    assert record["remains"]
    assert not [name for name in manifest["outputs"] if name.startswith("audit/")]
    assert "model/model.safetensors" in manifest["outputs"]
    call("purge", run, "--yes")
    assert len(json.loads((run / "manifest.json").read_text())["purged"]) == 2


@pytest.mark.parametrize(("answer", "removed"), [("y\n", True), ("n\n", False), ("", False)])
def test_it_asks_first(call, folder, answer, removed):
    from typer.testing import CliRunner

    from remanent.cli.main import app

    result = CliRunner().invoke(app, ["purge", str(folder / "r1")], input=answer)
    assert "cannot be undone" in result.output
    assert (result.exit_code == 0, not (folder / "r1" / "checkpoints").exists()) == (removed, removed)


def test_a_link_is_not_followed(call, folder, tmp_path):
    run = folder / "r1"
    elsewhere = tmp_path / "elsewhere"
    shutil.move(run / "checkpoints", elsewhere)
    (run / "checkpoints").symlink_to(elsewhere)
    result = call("purge", run, "--yes")
    assert result.exit_code == 0, result.output
    assert list(elsewhere.iterdir())
    assert "a link, not followed" in result.stdout


@pytest.mark.parametrize("missing", ["manifest.json", "config.yaml", "model/config.json"])
def test_an_unfinished_run_keeps_its_checkpoints(call, folder, missing):
    (folder / "r1" / missing).unlink()
    result = call("purge", folder / "r1", "--yes")
    assert result.exit_code == 2
    assert (folder / "r1" / "checkpoints").is_dir()
