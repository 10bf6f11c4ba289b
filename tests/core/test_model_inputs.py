from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from remanent.core.activations import hidden_states
from remanent.core.importance import positions_nll
from remanent.core.model_inputs import changed_input, counting, logits_of, one_pass, takes, unwrapped
from remanent.core.scores import answer_scores
from remanent.errors import InputError, UnsupportedError


class Named(nn.Module):
    """Takes what it is given by name, as models of transformers do."""

    main_input_name = "pixel_values"

    def forward(self, labels=None, pixel_values=None, inputs_embeds=None):
        return SimpleNamespace(logits=pixel_values if inputs_embeds is None else inputs_embeds)


def test_whole_texts_leave_no_cache(tiny_llama, lora, make_batch):
    """A model that knows of none is asked as it can be."""
    batch = make_batch(2)
    for model in (tiny_llama(), lora(tiny_llama())):
        assert set(model(input_ids=batch.input_ids)) > {"logits"}
        assert set(one_pass(model, batch.input_ids, batch.attention_mask)) == {"logits"}

    class Bare(nn.Module):
        def forward(self, input_ids, attention_mask):
            return input_ids * attention_mask

    assert takes(model, "logits_to_keep")
    assert not takes(Bare(), "logits_to_keep")
    assert torch.equal(one_pass(Bare(), batch.input_ids, batch.attention_mask), batch.input_ids * batch.attention_mask)


@pytest.mark.parametrize("asked", [answer_scores, positions_nll, lambda model, batch: hidden_states(model, batch, 1)])
def test_scores_losses_and_states_are_of_passes_without_a_cache(asked, tiny_llama, make_batch):
    model, seen = tiny_llama(), []
    model.register_forward_pre_hook(lambda module, inputs, named: seen.append(named["use_cache"]), with_kwargs=True)
    asked(model, make_batch(2))
    assert seen == [False]


def test_the_first_tensor_or_the_one_that_is_named():
    double, x = (lambda value: 2 * value), torch.ones(2, 3)
    with changed_input(identity := nn.Identity(), double):
        assert float(identity(x).sum()) == 12
    model, labels = Named(), torch.zeros(2)
    with changed_input(model, double):
        assert float(model(labels=labels, pixel_values=x).logits.sum()) == 12
        assert float(model(labels=labels, inputs_embeds=x).logits.sum()) == 12
    assert float(model(pixel_values=x).logits.sum()) == 6
    assert float(x.sum()) == 6
    with pytest.raises(InputError, match="tensor"), changed_input(model, double):
        model()


def test_tokens_are_changed_behind_their_embeddings(tiny_llama):
    model, ids = tiny_llama(), torch.tensor([[3, 4, 5]])
    embeddings = model.get_input_embeddings()(ids)
    with torch.no_grad():
        expected = model(inputs_embeds=embeddings + 0.5).logits
        with changed_input(model, lambda value: value + 0.5):
            for given in ({"input_ids": ids}, {"inputs_embeds": embeddings}):
                torch.testing.assert_close(model(**given).logits, expected)
        torch.testing.assert_close(model(input_ids=ids).logits, model(inputs_embeds=embeddings).logits)


def test_a_block_that_raises_leaves_no_hook():
    model = nn.Identity()
    with pytest.raises(ValueError, match="so"), changed_input(model, lambda value: value + 1):
        raise ValueError("so")
    assert float(model(torch.zeros(1))) == 0


def test_tokens_without_embeddings():
    with pytest.raises(UnsupportedError, match="tokens"), changed_input(model := nn.Identity(), lambda value: value):
        model(torch.tensor([1, 2]))


class Tokens(nn.Module):
    """Looks its embeddings up in the layer, or in the layer's weight behind its back."""

    def __init__(self, layer=True):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.layer = nn.Embedding(11, 4), layer

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, ids):
        return self.embedding(ids) if self.layer else nn.functional.embedding(ids, self.embedding.weight)


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_what_is_compiled_sees_the_change(how):
    torch._dynamo.reset()
    model, ids = Tokens(), torch.tensor([[1, 2]])
    compiled = torch.compile(model, backend="eager") if how == "wrapped" else model
    if how == "in place":
        model.compile(backend="eager")
    before = compiled(ids)
    with changed_input(unwrapped(compiled), lambda value: value + 1):
        assert torch.equal(compiled(ids), before + 1)
    assert torch.equal(compiled(ids), before)
    assert unwrapped(nn.DataParallel(compiled)) is unwrapped(compiled) is model


def test_no_change_is_no_silence():
    with pytest.raises(UnsupportedError, match="never asked"), changed_input(nn.Identity(), lambda value: value):
        pass
    with pytest.raises(UnsupportedError, match="get_input"), changed_input(model := Tokens(layer=False), torch.neg):
        model(torch.tensor([[1, 2]]))


def test_logits_and_the_positions_that_count():
    logits, mask = torch.zeros(2, 3, 5), torch.ones(2, 3)
    assert logits_of(SimpleNamespace(logits=logits)) is logits_of(logits)
    with pytest.raises(InputError, match="logits"):
        logits_of((logits,))
    assert counting(logits, {"attention_mask": mask}) is mask
    assert counting(logits[:, 0], {"attention_mask": mask}) is None, "one of each record"
    assert counting(logits, {}) is None
