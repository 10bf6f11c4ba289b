"""A full disk: a clear error that names the place, nothing half-written, and the state before it stays."""

from __future__ import annotations

import errno
import os
import sys

import pytest
import torch

from remanent.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from remanent.core.digest import weights_digest
from remanent.core.files import write_atomic
from remanent.core.run_folder import RunFolder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
FULL = {errno.ENOSPC, errno.EFBIG}


def tree(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def no_space(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def checkpoint(step):
    return Checkpoint(step, {"w": torch.full((4000,), float(step))}, {"m": torch.ones(9000), "text": "x" * 9000})


# Smaller than the weights, than the tensors of the state, than the JSON.
@pytest.mark.parametrize("size", [0, 100, 12_000, 20_000])
def test_a_checkpoint_is_written_whole_or_the_one_before_stays(size, tmp_path):
    from full_disk import room_for

    save_checkpoint(tmp_path / "c", checkpoint(1))
    before = tree(tmp_path)
    with room_for(size), pytest.raises(OSError, match=r"(File too large|No space).*safetensors") as full:
        save_checkpoint(tmp_path / "c", checkpoint(2))
    assert full.value.errno in FULL
    assert tree(tmp_path) == before
    assert [item.name for item in tmp_path.iterdir()] == ["c"]
    assert load_checkpoint(tmp_path / "c").step == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_checkpoint_that_cannot_be_flushed_or_renamed_leaves_the_one_before(call, tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c", checkpoint(1))
    before = tree(tmp_path)
    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "c", checkpoint(2))
    monkeypatch.undo()
    assert tree(tmp_path) == before
    assert [item.name for item in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("old", [b"old", None])
def test_a_file_is_the_old_one(old, tmp_path):
    from full_disk import room_for

    if old is not None:
        (tmp_path / "f").write_bytes(old)
    before = tree(tmp_path)
    with room_for(10), pytest.raises(OSError) as full:
        write_atomic(tmp_path / "f", "x" * 100_000)
    assert full.value.errno in FULL
    assert tree(tmp_path) == before


@pytest.mark.parametrize("size", [0, 3000, 50_000])
def test_a_model_that_was_saved_stays(size, tiny_loaded, tmp_path):
    from full_disk import room_for

    from remanent.models.load import load
    from remanent.models.save import save

    save(tiny_loaded.model, tiny_loaded.tokenizer, tmp_path / "m")
    before, digest = tree(tmp_path), weights_digest(tiny_loaded.model)
    with torch.no_grad():
        tiny_loaded.model.model.norm.weight.add_(1)
    with room_for(size), pytest.raises(OSError) as full:
        save(tiny_loaded.model, tiny_loaded.tokenizer, tmp_path / "m")
    assert full.value.errno in FULL
    assert str(tmp_path) in str(full.value)
    assert tree(tmp_path) == before
    assert [item.name for item in tmp_path.iterdir()] == ["m"]
    assert weights_digest(load(tmp_path / "m").model) == digest


def test_a_run_that_filled_the_disk_goes_on_where_it_was(tmp_path):
    from full_disk import room_for
    from resumable_run import run

    expected = run(tmp_path / "alone")
    folder = tmp_path / "full"
    limits = []

    def fill(step, steps, losses):
        if step == 5:
            limits.append(room_for(4000))
            limits[0].__enter__()

    try:
        with pytest.raises(OSError) as full:
            run(folder, on_step=fill)
    finally:
        limits[0].__exit__(None, None, None)
    assert full.value.errno in FULL
    assert "checkpoints" in str(full.value)
    assert sorted(item.name for item in (folder / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    assert run(folder, on_warning=pytest.fail) == expected


def test_a_run_folder_that_cannot_be_begun_can_be_begun_later(tmp_path):
    from full_disk import room_for

    run = RunFolder(tmp_path / "run")
    with room_for(20), pytest.raises(OSError):
        run.begin("settings: " + "x" * 500, {"forget": "0" * 64})
    run.begin("settings: other", {"forget": "0" * 64})
    assert run.config.read_text() == "settings: other"
