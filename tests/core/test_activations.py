import pytest
import torch

from remanent.core.activations import decoder_layers, hidden_states, labelled
from remanent.core.displacement import Erasure, Subspace
from remanent.core.scores import answer_scores
from remanent.errors import InputError, UnsupportedError


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_a_layer_is_read_as_the_model_gives_it(tiny_llama, make_batch, layer):
    model, batch = tiny_llama().eval(), make_batch(3, seed=1)
    found = hidden_states(model, batch, layer)
    index = layer % len(decoder_layers(model))
    seen = []
    handle = decoder_layers(model)[index].register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    handle.remove()
    expected = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert torch.equal(found, expected)


def test_what_lies_above_is_not_run_and_no_hook_stays(tiny_llama, make_batch):
    model, batch = tiny_llama(), make_batch(2, seed=1)
    ran = []
    handle = decoder_layers(model)[1].mlp.register_forward_hook(lambda *_: ran.append(True))
    hidden_states(model, batch, 0)
    handle.remove()
    assert not ran
    assert all(not layer._forward_hooks and not layer._forward_pre_hooks for layer in decoder_layers(model))


@pytest.mark.parametrize("layer", [0, 1])
def test_gradients_are_the_same_under_checkpointing(tiny_llama, make_batch, layer):
    found = []
    for checkpointing in (False, True):
        model, batch = tiny_llama().train(), make_batch(3, seed=1)
        if checkpointing:
            model.gradient_checkpointing_enable()
        hidden_states(model, batch, layer).square().mean().backward()
        found.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert not any(f".layers.{other}." in name for name in found[0] for other in range(layer + 1, 2))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_labelled_positions_and_their_rows(tiny_llama, make_batch):
    batch = make_batch(3, seed=1)
    values = torch.arange(batch.labels.numel()).view(*batch.labels.shape, 1)
    found, rows = labelled(values, batch)
    assert found[:, 0].tolist() == (batch.labels != -100).flatten().nonzero()[:, 0].tolist()
    assert rows.tolist() == (batch.labels != -100).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("adapted", [False, True])
def test_a_model_that_sees_images_too_is_read_where_it_reads_text(adapted, tiny_gemma3, lora, make_batch):
    plain, batch = tiny_gemma3(), make_batch(3, seed=1)
    text = plain.model.language_model
    model = lora(plain, target_modules=r".*language_model.*q_proj") if adapted else plain
    assert list(decoder_layers(model)) == list(text.layers)
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    expected = text(**given, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(hidden_states(model, batch, 0), expected)
    answer_scores(model, batch).nll.sum().backward()
    with (
        pytest.raises(InputError, match="the model's, 32"),
        Erasure({1: Subspace(torch.eye(16)[:, :1], torch.zeros(16))}).at(model),
    ):
        pass


def test_a_layer_that_is_not_there(tiny_llama, make_batch):
    with pytest.raises(InputError, match="layer from 0 to 1"):
        hidden_states(tiny_llama(), make_batch(2, seed=1), 2)
    with pytest.raises(UnsupportedError, match="decoder layers"):
        decoder_layers(torch.nn.Linear(2, 2))
