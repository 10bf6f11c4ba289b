"""ULD: the subtraction and the reversed losses by hand, the assistant that is the model's first layers, and caches."""

from __future__ import annotations

import math

import pytest
import torch

from remanent.core.edit import EditSettings
from remanent.core.intervention import put_on, worn
from remanent.core.scores import score_records
from remanent.errors import InputError, UnsupportedError
from remanent.unlearning.guardrail import Prefix
from remanent.unlearning.uld import LogitDifference, Reversed, assisted, difference, edit, matrices


def test_the_subtraction_by_hand():
    """Model (8, 4, 1) / 13, assistant (1/2, 1/4, 1/4) of 3 tokens: over the uniform's it says 3/2, 3/4, 3/4."""
    logits = torch.tensor([8.0, 4.0, 1.0]).log()
    assistant = torch.tensor([2.0, 1.0, 1.0]).log() + 7  # logits that differ by a constant say the same
    every = difference(logits, assistant, 1.0, 0.0)
    assert every.exp().tolist() == pytest.approx([8 / 1.5, 4 / 0.75, 1 / 0.75])
    likely = difference(logits, assistant, 1.0, 0.2)  # 1/8 of the likeliest is below it
    assert likely.exp().tolist() == pytest.approx([8 / 1.5, 4 / 0.75, 1.0])
    half = difference(logits, assistant, 0.5, 0.0)
    assert half.exp().tolist() == pytest.approx([8 / 1.5**0.5, 4 / 0.75**0.5, 1 / 0.75**0.5])


def test_without_a_threshold_it_is_the_published_difference_of_logits():
    generator = torch.Generator().manual_seed(0)
    logits, assistant = torch.randn(2, 5, 11, generator=generator)
    ours = difference(logits, assistant, 0.8, 0.0).softmax(dim=-1)
    torch.testing.assert_close(ours, (logits - 0.8 * assistant).softmax(dim=-1))


def test_it_may_stand_over_a_guardrail_or_under_it(tiny_llama, make_records):
    model, records, found = tiny_llama(), make_records(4), []
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, module in matrices(model, 1).items():
        sides = (("down", (2, module.in_features)), ("up", (module.out_features, 2)))
        tensors |= {f"{name}.{side}": torch.randn(*shape, generator=generator) for side, shape in sides}
    guard, assistant = Prefix(torch.tensor([7, 8, 9])), LogitDifference(tensors, 1, 1.0, 0.8, 0.01)
    ids = torch.tensor([[0, 10, 11], [4, 5, 6]])
    how = {"attention_mask": (ids > 0).long(), "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    for both in ((guard, assistant), (assistant, guard)):
        undo = [put_on(model, item) for item in both]
        whole = model(input_ids=ids[1:]).logits.detach()
        found.append((score_records(model, records, pad_id=0).nll, whole, model.generate(input_ids=ids, **how)))
        for item in reversed(undo):
            item.undo()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss", "llama4_text", "phimoe"])
def test_beside_a_mixture_of_experts(architecture, tiny_mixture, make_records):
    """Llama 4's and Phi's routers are linear layers that give a choice of experts."""
    model, data = tiny_mixture(architecture), {"forget": make_records(6, seed=1), "retain": make_records(8, seed=2)}
    before = score_records(model, data["forget"], pad_id=0).nll
    edit(epochs=1.0, learning_rate=1e-2, batch_size=6).edit(model, data, EditSettings())
    assert not torch.equal(score_records(model, data["forget"], pad_id=0).nll, before)
    assert not any("router" in name for name in matrices(model, 1))


def test_an_assistant_that_knows_nothing_changes_nothing():
    logits = torch.randn(4, 11, generator=torch.Generator().manual_seed(0))
    for threshold in (0.0, 0.1):
        torch.testing.assert_close(difference(logits, torch.full_like(logits, 3.0), 0.8, threshold), logits)


def test_its_losses_by_hand(predicting):
    """p = (1/4, 3/4), label 0: NLL = log 4; KL(uniform || p) = log(1/2 / 1/4) / 2 + log(1/2 / 3/4) / 2."""
    batch, _, predict = predicting([[0]], [[0.0, math.log(3.0)]])
    found = Reversed().losses({"forget": batch, "retain": batch}, predict)
    assert found["forget"].item() == pytest.approx(math.log(4))
    assert found["retain"].item() == pytest.approx(math.log(2) / 2 + math.log(2 / 3) / 2)


@pytest.mark.parametrize("make", ["tiny_llama", "tiny_gpt2"])
def test_before_training_the_assistant_is_the_model_of_its_first_layers(make, request):
    model = request.getfixturevalue(make)()
    tensors = {}
    for name, module in matrices(model, 1).items():
        into, out = module.weight.shape[::-1] if make == "tiny_llama" else module.weight.shape
        tensors |= {f"{name}.down": torch.zeros(2, into), f"{name}.up": torch.zeros(out, 2)}
    short = type(model)(type(model.config)(**{**model.config.to_dict(), "num_hidden_layers": 1, "n_layer": 1})).eval()
    state = {name: value for name, value in model.state_dict().items() if name in short.state_dict()}
    short.load_state_dict(state)
    ids = torch.tensor([[1, 7, 5, 3]])
    found = assisted(model, tensors, 1, 2.0, {"input_ids": ids, "use_cache": False})
    torch.testing.assert_close(found.logits, short(input_ids=ids).logits)
    whole = model(input_ids=ids).logits
    assert not torch.allclose(whole, found.logits)  # and the model has its layers again


def test_it_learns_what_is_forgotten_and_leaves_the_rest(tiny_llama, make_records):
    data = {"forget": make_records(6, seed=1), "retain": make_records(12, seed=2)}
    model = tiny_llama()

    def nll():
        return [float(score_records(model, data[role], pad_id=0).mean_nll.mean()) for role in ("forget", "retain")]

    before = nll()
    edit(learning_rate=2e-2, epochs=20.0, batch_size=6, threshold=0.0).edit(model, data, EditSettings())
    after = nll()
    assert after[0] > before[0] + 1
    assert abs(after[1] - before[1]) < 0.5


def test_what_it_cannot_do_is_refused(tiny_llama, make_records):
    from transformers import DynamicCache

    data = {"forget": make_records(4, seed=1), "retain": make_records(4, seed=2)}
    model, ids = tiny_llama(), torch.tensor([[1, 7, 5, 3]])
    cache = DynamicCache()
    model(input_ids=ids, cache=cache)
    made = edit(epochs=1.0).edit(model, data, EditSettings())
    with pytest.raises(UnsupportedError, match="labels"):
        model(input_ids=ids, labels=ids)
    with pytest.raises(UnsupportedError, match="began itself"):
        model(input_ids=ids[:, :1], cache=cache)
    [item] = worn(model)
    made.undo.undo()
    with pytest.raises(InputError, match="this model's matrices"):
        put_on(model, LogitDifference({}, item.layers, item.scale, item.strength, item.threshold))
    with pytest.raises(InputError, match="a quarter"):
        edit(layers=3).edit(model, data, EditSettings())


@pytest.mark.parametrize("wrong", [{"layers": -1}, {"rank": 0}, {"strength": 0.0}, {"threshold": 1.0}, {"alpha": 0.0}])
def test_what_is_wrong_is_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        edit(**wrong)
