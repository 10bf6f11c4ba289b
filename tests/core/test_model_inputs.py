from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from remanent.core.model_inputs import changed_input, counting, logits_of
from remanent.errors import InputError, UnsupportedError


class Named(nn.Module):
    """Takes what it is given by name, as models of transformers do."""

    main_input_name = "pixel_values"

    def forward(self, labels=None, pixel_values=None, inputs_embeds=None):
        return SimpleNamespace(logits=pixel_values if inputs_embeds is None else inputs_embeds)


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
    with changed_input(model, double), pytest.raises(InputError, match="tensor"):
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
    with changed_input(model := nn.Identity(), lambda value: value), pytest.raises(UnsupportedError, match="tokens"):
        model(torch.tensor([1, 2]))


def test_logits_and_the_positions_that_count():
    logits, mask = torch.zeros(2, 3, 5), torch.ones(2, 3)
    assert logits_of(SimpleNamespace(logits=logits)) is logits_of(logits)
    with pytest.raises(InputError, match="logits"):
        logits_of((logits,))
    assert counting(logits, {"attention_mask": mask}) is mask
    assert counting(logits[:, 0], {"attention_mask": mask}) is None, "one of each record"
    assert counting(logits, {}) is None
