from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from remanent.core.checkpoint import (
    Checkpoint,
    copy_into,
    load_checkpoint,
    prune,
    save_checkpoint,
    step_folder,
    steps_saved,
)
from remanent.errors import IntegrityError


def checkpoint(step=3, **state):
    return Checkpoint(step, {"w": torch.arange(4.0), "half": torch.ones(2, dtype=torch.bfloat16)}, state)


def equal(left, right):
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return type(right) is dict and list(left) == list(right) and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(equal, left, right))
    return type(left) is type(right) and left == right


def test_nested_state_comes_back_as_it_was(tmp_path):
    state = {
        "plain": [1, 2.5, True, None, "text", (1, "two")],
        "by number": {0: {"step": torch.tensor(3.0)}, 1: {}},
        "empty": {"dict": {}, "list": [], "tuple": ()},
        "kinds": [torch.tensor(7), torch.tensor([True]), torch.zeros(0), torch.ones(2, 0, dtype=torch.float16)],
    }
    save_checkpoint(tmp_path / "c", Checkpoint(5, {}, state))
    found = load_checkpoint(tmp_path / "c")
    assert found.step == 5
    assert equal(found.state, state)


def test_keys_that_look_alike_do_not_run_together(tmp_path):
    state = {"a": {"b": torch.tensor(1.0)}, "a.b": torch.tensor(2.0), 1: torch.tensor(3.0), "1": torch.tensor(4.0)}
    save_checkpoint(tmp_path / "c", Checkpoint(1, {}, state))
    assert equal(load_checkpoint(tmp_path / "c").state, state)


def test_shared_memory_and_views_are_saved_by_value(tmp_path):
    memory = torch.arange(6.0)
    weights = {"whole": memory, "same": memory, "part": memory[2:4], "turned": memory.view(2, 3).T}
    save_checkpoint(tmp_path / "c", Checkpoint(1, weights, {"part": memory[1:]}))
    found = load_checkpoint(tmp_path / "c")
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in weights.items())
    assert torch.equal(found.state["part"], memory[1:])


def test_an_optimizers_state_comes_back_bit_for_bit(tmp_path):
    def stepped(model, optimizer):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()

    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    stepped(model, optimizer)
    save_checkpoint(tmp_path / "c", Checkpoint(1, dict(model.named_parameters()), optimizer.state_dict()))
    found = load_checkpoint(tmp_path / "c")
    assert equal(found.state, optimizer.state_dict())
    copy_into(dict(other.named_parameters()), found.weights, "c")
    again = torch.optim.AdamW(other.parameters(), lr=9.0, fused=True)
    again.load_state_dict(found.state)
    for net, step in ((model, optimizer), (other, again)):
        net.zero_grad()
        stepped(net, step)
    assert torch.equal(model.weight, other.weight)


def test_what_a_checkpoint_cannot_hold_is_named_and_nothing_is_left(tmp_path):
    with pytest.raises(TypeError, match=r"state\.odd\.0 is a set"):
        save_checkpoint(tmp_path / "c", checkpoint(odd=[{1}]))
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c", checkpoint(1))

    def full(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr("remanent.core.checkpoint.save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tmp_path / "c", checkpoint(2))
    assert load_checkpoint(tmp_path / "c").step == 1
    assert [item.name for item in tmp_path.iterdir()] == ["c"]


def test_one_of_the_same_name_is_replaced(tmp_path):
    save_checkpoint(tmp_path / "c", checkpoint(1))
    save_checkpoint(tmp_path / "c", checkpoint(2))
    assert load_checkpoint(tmp_path / "c").step == 2


@pytest.mark.parametrize("file", ["weights.safetensors", "state.safetensors", "state.json", "manifest.json"])
def test_every_bit_of_every_file_counts(file, tmp_path):
    save_checkpoint(tmp_path / "c", checkpoint(3, memory=torch.ones(3)))
    target = tmp_path / "c" / file
    content = target.read_bytes()
    for position in range(0, len(content), max(1, len(content) // 16)):
        flipped = bytearray(content)
        flipped[position] ^= 1
        target.write_bytes(flipped)
        with pytest.raises(IntegrityError, match=str(tmp_path)):
            load_checkpoint(tmp_path / "c")
    for broken in (b"", content[:-3], content + b"x"):
        target.write_bytes(broken)
        with pytest.raises(IntegrityError, match=str(tmp_path)):
            load_checkpoint(tmp_path / "c")
    target.unlink()
    with pytest.raises(IntegrityError, match=file):
        load_checkpoint(tmp_path / "c")


def test_a_manifest_cannot_name_other_files(tmp_path):
    save_checkpoint(tmp_path / "c", checkpoint())
    for text in ("[]", "{}", '{"../w": "0"}', "null"):
        (tmp_path / "c" / "manifest.json").write_text(text)
        with pytest.raises(IntegrityError, match="does not list"):
            load_checkpoint(tmp_path / "c")


def test_the_newest_comes_first_and_prune_keeps_the_newest(tmp_path):
    for step in (2, 10, 9):
        save_checkpoint(step_folder(tmp_path, step), checkpoint(step))
    (tmp_path / "step-other").mkdir()
    (tmp_path / f".step-00000012.{os.getpid()}.tmp").mkdir()
    assert [step for step, _ in steps_saved(tmp_path)] == [10, 9, 2]
    prune(tmp_path, 2)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["step-00000009", "step-00000010", "step-other"]
    assert steps_saved(tmp_path / "nowhere") == []


def test_copying_into_other_tensors_is_refused_before_any_is_written():
    target = {"a": torch.zeros(2), "b": torch.zeros(2)}
    with pytest.raises(IntegrityError, match="there holds other tensors than the model trains: b, c"):
        copy_into(target, {"a": torch.ones(2), "c": torch.ones(2)}, "there")
    with pytest.raises(IntegrityError, match="b has shape"):
        copy_into(target, {"a": torch.ones(2), "b": torch.ones(3)}, "there")
    assert not any(tensor.any() for tensor in target.values())
