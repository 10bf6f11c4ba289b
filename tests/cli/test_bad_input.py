from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture
def copied(world, tmp_path):
    """The same model with records that a test may change."""
    made = type(world)(tmp_path)
    made.model = world.model
    for role, file in world.sets.items():
        made.sets[role].write_bytes(file.read_bytes())
    return made


def refused(result, *parts):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    for part in parts:
        assert part in last
    return last


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["forget.jsonl: there is no such file"]),
        (b"", ["forget.jsonl: is empty"]),
        (b'{"question": "Q", "answer": "A"}\n{"question": "Q", "answer": }\n', ["line 2", "malformed JSON"]),
        (b'{"question": "Q"}\n', ["line 1", "answer"]),
        (b'{"text": "\xff"}\n', ["line 1", "UTF-8"]),
    ],
)
def test_a_bad_records_file_is_named_by_line_and_leaves_nothing(call, copied, tmp_path, content, parts):
    if content is None:
        copied.sets["forget"].unlink()
    else:
        copied.sets["forget"].write_bytes(content)
    refused(call(*copied.unlearn(tmp_path / "run")), *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--method", "durableun-sav"], ["durableun-sav", "did you mean 'durableun-saf'"]),
        (["--set", "retain_wieght=1"], ["retain_wieght", "did you mean 'retain_weight'"]),
        (["--set", "retain_weight=much"], ["grad-diff.retain_weight", "'much'", "a number"]),
        (["--set", "retain_weight"], ["name=value"]),
        (["--stop-at", "full,int4-rwo"], ["int4-rwo"]),
        (["--stop-at", "relearning"], ["precisions only"]),
        (["--model", "no-such-folder"], ["no-such-folder", "Tried"]),
        (["--forget", "tofu:forget1"], ["tofu"]),
        (["--epochs", "-1"], ["--epochs: got -1"]),
    ],
)
def test_a_setting_that_is_wrong_is_named_and_leaves_nothing(call, world, tmp_path, more, parts):
    refused(call(*world.unlearn(tmp_path / "run", *more)), *parts)
    assert not (tmp_path / "run").exists()


def test_a_condition_of_the_audit_that_is_wrong(call, world, tmp_path):
    arguments = ["audit", "--model", world.model, *world.records, "--out", tmp_path / "a"]
    refused(call(*arguments, "--at", "int4-row,nf5"), "at: got 'nf5'", "nf4")
    assert not (tmp_path / "a").exists()


def test_ask_at_an_attack_or_of_nothing(call, world):
    refused(call("ask", world.model, "Who?", "--at", "relearning"), "an attack needs data")
    refused(call("ask", "no-such-run", "Who?"), "no-such-run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_that_cannot_be_written_by_permission(call, world, tmp_path):
    tmp_path.chmod(0o500)
    refused(call(*world.unlearn(tmp_path / "run")), "out: got", "Permission denied")
    tmp_path.chmod(0o700)


def test_output_that_cannot_be_written(call, world, tmp_path):
    (tmp_path / "file").write_text("no folder")
    refused(call(*world.unlearn(tmp_path / "file" / "run")), "out: got", "a folder that can be written")
    refused(call("report", tmp_path), "audit.json")
    refused(call("init", "--out", tmp_path / "file" / "config.yaml"), "out: got")


def test_a_run_folder_of_other_settings_or_of_changed_input(call, copied, tmp_path):
    run = tmp_path / "run"
    assert call(*copied.unlearn(run, "--no-stop")).exit_code == 0
    refused(call(*copied.unlearn(run, "--no-stop", "--seed", "1")), "a run with other settings")
    with copied.sets["retain"].open("a") as file:
        file.write('{"question": "Another?", "answer": "Yes."}\n')
    refused(call(*copied.unlearn(run, "--no-stop")), "retain changed since the run began")


def test_a_folder_with_other_things_is_not_a_run_folder(call, world, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    refused(call(*world.unlearn(tmp_path)), "is not empty and holds no run")


def test_certify_without_an_audit_and_with_a_bad_key(call, world, tmp_path):
    refused(call("certify", tmp_path / "none", "--key", "k"), "a run's folder")
    assert not (tmp_path / "none").exists()
    refused(call("certify", tmp_path, "--key", "k"), "audit.json")


def test_keys_are_never_overwritten(call, tmp_path):
    arguments = ["keygen", "--key", tmp_path / "k", "--pub", tmp_path / "p"]
    assert call(*arguments).exit_code == 0
    before = (tmp_path / "k").read_bytes()
    refused(call(*arguments), "never overwritten")
    assert (tmp_path / "k").read_bytes() == before


def test_a_key_with_a_passphrase(call, tmp_path):
    from remanent.auditing.signing import load_private_key

    (tmp_path / "words").write_text("correct horse\n")
    made = call("keygen", "--key", tmp_path / "k", "--pub", tmp_path / "p", "--passphrase-file", tmp_path / "words")
    assert made.exit_code == 0
    assert load_private_key(tmp_path / "k", "correct horse")
    assert b"ENCRYPTED" in (tmp_path / "k").read_bytes()
    missing = call("keygen", "--key", tmp_path / "k2", "--pub", tmp_path / "p2", "--passphrase-file", tmp_path / "none")
    refused(missing, "--passphrase-file")


def test_verify_something_that_is_no_certificate(call, world, tmp_path):
    call("keygen", "--key", tmp_path / "k", "--pub", tmp_path / "p")
    (tmp_path / "c.json").write_text("{")
    result = call("verify", tmp_path / "c.json", "--model", world.model, "--key", tmp_path / "p")
    assert result.exit_code == 1
    assert "Problem: certificate" in result.stdout
    refused(call("verify", tmp_path / "c.json", "--model", world.model, "--key", tmp_path / "none"), "public key")


def test_a_damaged_model_is_exit_code_3(call, world, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(world.model, copy)
    raw = bytearray((copy / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (copy / "model.safetensors").write_bytes(raw)
    result = call("ask", copy, "Who?")
    assert result.exit_code == 3
    assert "model.safetensors is not the file that was saved" in result.stderr
