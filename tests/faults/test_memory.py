"""Out of memory: the micro-batch is halved and the accumulation doubled, said, and nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from remanent.core.displacement import Ascent, Here, Rounding
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode
from remanent.core.memory import is_out_of_memory
from remanent.core.method import Method, Recipe
from remanent.errors import DivergedError, UnsupportedError
from remanent.unlearning.npo import NPO

SETTINGS = Settings(pad_id=0, dropout=False, checkpoint_every=2)
HERE = (Here(),)
RECIPE = Recipe(learning_rate=1e-2, steps=6, batch_size=6)


class Small(nn.Module):
    """A model that runs out of memory in training on more than so many records, also in the midst of a pass."""

    def __init__(self, model, most, error=None, fitting=1):
        super().__init__()
        self.model, self.most, self.fitting, self.calls = model, most, fitting, 0
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def forward(self, input_ids, **keywords):
        if torch.is_grad_enabled():
            self.calls += 1
            if len(input_ids) > self.most and self.calls > self.fitting:  # the first passes still fit
                raise self.error
        return self.model(input_ids, **keywords)


@pytest.fixture
def episode(make_records):
    return Episode("erase", "erase", {"forget": make_records(12, seed=1), "retain": make_records(14, seed=2)})


def trained(model, episode, settings=SETTINGS, folder=None, points=HERE, **options):
    warnings = []
    method = Method(NPO(), points=list(points), recipe=RECIPE)
    outcome = run_episode(model, method, episode, settings, folder=folder, on_warning=warnings.append, **options)
    assert outcome.steps == 6
    return warnings


# At the second point the gradient of the first is there already.
@pytest.mark.parametrize(("points", "fitting"), [(HERE, 1), ((Here(), Rounding("int4"), Ascent(0.05)), 3)])
def test_it_ends_as_a_run_with_that_micro_batch_from_the_start(
    points, fitting, tiny_llama, episode, tmp_path, snapshot
):
    small, alone, whole = tiny_llama(), tiny_llama(), tiny_llama()
    warnings = trained(Small(small, 2, fitting=fitting), episode, folder=tmp_path, points=points)
    trained(Small(alone, 99), episode, replace(SETTINGS, micro_batch=1), points=points)
    trained(Small(whole, 99), episode, points=points)
    assert warnings == [
        "step 1: memory ran out with 6 records at a time; going on with 3, which gives the same result, slower",
        "step 1: memory ran out with 3 records at a time; going on with 1, which gives the same result, slower",
    ]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["micro_batch"] for row in rows] == [1] * 6
    halved, expected, other = snapshot(small), snapshot(alone), snapshot(whole)
    assert all(torch.equal(halved[name], expected[name]) for name in expected)
    for name in other:
        torch.testing.assert_close(halved[name], other[name], rtol=1e-3, atol=1e-4)


def test_a_run_cut_off_after_it_goes_on_with_the_smaller_pieces_bit_for_bit(tiny_llama, episode, tmp_path, snapshot):
    class CutOff(Exception):
        pass

    def cut(step, steps, losses):
        if step == 5:
            raise CutOff

    alone, resumed = tiny_llama(), tiny_llama()
    trained(Small(alone, 3), episode, folder=tmp_path / "alone")
    with pytest.raises(CutOff):
        trained(Small(tiny_llama(), 3), episode, folder=tmp_path / "cut", on_step=cut)
    # With memory for whole batches now: they would add up in another order.
    assert trained(Small(resumed, 99), episode, folder=tmp_path / "cut") == []
    assert all(torch.equal(tensor, snapshot(alone)[name]) for name, tensor in snapshot(resumed).items())


def test_dropout_draws_the_same_again(make_records, snapshot):
    from transformers import GPT2Config, GPT2LMHeadModel

    def make():
        torch.manual_seed(0)
        sizes = {"vocab_size": 64, "n_embd": 16, "n_layer": 1, "n_head": 1, "n_positions": 16}
        return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)).eval()

    data = {"forget": make_records(6, seed=1), "retain": make_records(6, seed=2)}
    episode, dropping = Episode("erase", "erase", data), replace(SETTINGS, dropout=True)
    small, alone = make(), make()
    trained(Small(small, 3), episode, dropping)
    trained(Small(alone, 99), episode, replace(dropping, micro_batch=3))
    assert all(torch.equal(tensor, snapshot(alone)[name]) for name, tensor in snapshot(small).items())


def test_one_record_that_does_not_fit_ends_the_run_and_nothing_moved(tiny_llama, episode, snapshot, same_bits):
    model = tiny_llama()
    before = snapshot(model)
    with pytest.raises(UnsupportedError, match=r"one record at a time \(CUDA out of memory.*lora.*max_length"):
        trained(Small(model, 0), episode, points=(Rounding("int4"),))
    assert same_bits(snapshot(model), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_other_errors_are_not_taken_for_it(tiny_llama, episode):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trained(Small(tiny_llama(), 2, RuntimeError("mat1 and mat2 shapes cannot be multiplied")), episode)


def test_which_errors_are_out_of_memory():
    with pytest.raises(RuntimeError) as real:
        torch.empty(2**61, dtype=torch.uint8)  # what torch says on this machine
    assert is_out_of_memory(real.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."))
    assert not is_out_of_memory(RuntimeError("a view of a leaf Variable"))
    assert not is_out_of_memory(ValueError("not enough memory"))


def test_metrics_reach_up_to_the_step_at_which_a_run_diverges(tiny_llama, episode, tmp_path):
    model = tiny_llama()

    def poison(step, steps, losses):
        if step == 3:
            with torch.no_grad():
                model.model.norm.weight[0] = torch.nan

    method = Method(NPO(), recipe=RECIPE)
    with pytest.raises(DivergedError, match="step 4"):
        run_episode(model, method, episode, SETTINGS, folder=tmp_path, on_step=poison)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
