"""Directions out of the stream: by hand, idempotent, removable, and for good where nothing writes them."""

from __future__ import annotations

import pytest
import torch

from remanent.core.activations import every_state, states_of
from remanent.core.displacement import Erasure, Subspace, UnwrittenDirections
from remanent.errors import InputError, UnsupportedError


def subspace(width=32, rank=2, seed=0, scale=None):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, rank, generator=generator)).Q
    return Subspace(basis, torch.randn(width, generator=generator), scale)


def test_by_hand():
    """Along the second axis every state becomes the mean's, in units of the scale or not."""
    states = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    plain = Subspace(torch.tensor([[0.0], [1.0]]), torch.tensor([9.0, 5.0]))
    assert plain.erase(states).tolist() == [[1.0, 5.0], [3.0, 5.0]]
    # (1, 1) / sqrt 2 in scaled space, scale (1, 2): x = (1, 2) is (1, 1) there, its part along U all of it.
    slanted = Subspace(torch.full((2, 1), 0.5**0.5), torch.zeros(2), torch.tensor([1.0, 2.0]))
    assert slanted.erase(states)[0].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    # (3, -4) is (3, -2) there, of which (1 / 2, 1 / 2) goes.
    assert slanted.erase(states)[1].tolist() == pytest.approx([2.5, -5.0])


@pytest.mark.parametrize("scale", [None, torch.linspace(0.5, 2, 32)], ids=["plain", "scaled"])
def test_erasing_twice_is_erasing_once(scale):
    item, states = subspace(scale=scale), torch.randn(5, 7, 32, generator=torch.Generator().manual_seed(1))
    once = item.erase(states)
    torch.testing.assert_close(item.erase(once), once, rtol=1e-5, atol=1e-5)
    assert item.erase(states.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("make", ["tiny_llama", "tiny_gpt2"])
def test_hooks_clear_their_depth_and_leave_no_trace(make, depth, request, make_records, snapshot, same_bits):
    model, records, item = request.getfixturevalue(make)(), make_records(5), subspace()
    before, logits = snapshot(model), model(input_ids=torch.tensor([[3, 4, 5]])).logits
    with Erasure({depth: item}).at(model):
        states = states_of(model, records, (depth,), every_state)[depth]
        torch.testing.assert_close(
            states @ item.basis, (item.mean @ item.basis).expand(len(states), 2), rtol=1e-4, atol=1e-4
        )
        inside = model(input_ids=torch.tensor([[3, 4, 5]])).logits
        answers = model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=2, do_sample=False)
    assert answers.shape == (1, 5)
    assert not torch.allclose(inside, logits)
    assert torch.equal(model(input_ids=torch.tensor([[3, 4, 5]])).logits, logits)
    assert same_bits(snapshot(model), before)
    with pytest.raises(UnsupportedError, match="cannot stay"):
        Erasure({depth: item}).apply(model)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("make", ["tiny_llama", "tiny_gpt2"])
def test_what_is_not_written_is_constant_at_every_depth(make, tied, request, make_records, snapshot, same_bits):
    model = request.getfixturevalue(make)(**({"tied": tied} if make == "tiny_llama" else {}))
    before, records, item = snapshot(model), make_records(5), subspace()
    undo = UnwrittenDirections(item, 2).apply(model)
    for states in states_of(model, records, (0, 1, 2), every_state).values():
        torch.testing.assert_close(
            states @ item.basis, (item.mean @ item.basis).expand(len(states), 2), rtol=1e-4, atol=1e-4
        )
    undo.undo()
    assert same_bits(snapshot(model), before)


def from_config(architecture, **sizes):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        architecture, vocab_size=48, initializer_range=0.2, bos_token_id=1, eos_token_id=2, **sizes
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


LLAMA = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
GPTJ = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "rotary_dim": 4}


@pytest.mark.parametrize(
    ("architecture", "sizes"),
    [
        ("gemma", {**LLAMA, "num_key_value_heads": 1, "head_dim": 16}),
        ("granite", {**LLAMA, "embedding_multiplier": 12.0, "residual_multiplier": 0.5}),
        ("gptj", GPTJ),
    ],
)
def test_embeddings_that_are_multiplied_and_a_matrix_called_fc_out(architecture, sizes, make_records):
    model, item = from_config(architecture, **sizes), subspace()
    UnwrittenDirections(item, 2).apply(model)
    for states in states_of(model, make_records(5), (0, 1, 2), every_state).values():
        torch.testing.assert_close(
            states @ item.basis, (item.mean @ item.basis).expand(len(states), 2), rtol=1e-4, atol=1e-4
        )


def test_layers_above_the_depth_keep_their_weights(tiny_llama, snapshot):
    model = tiny_llama(tied=False)
    before = snapshot(model)
    UnwrittenDirections(subspace(), 1).apply(model)
    changed = {name for name, value in snapshot(model).items() if not torch.equal(value, before[name])}
    block = "model.layers.0."
    assert changed == {"model.embed_tokens.weight", block + "self_attn.o_proj.weight", block + "mlp.down_proj.weight"}


def test_what_is_wrong_is_named(tiny_llama):
    with pytest.raises(InputError, match="orthonormal"):
        Subspace(torch.ones(4, 2), torch.zeros(4))
    with pytest.raises(InputError, match="above 0"):
        Subspace(torch.eye(4)[:, :1], torch.zeros(4), torch.zeros(4))
    with pytest.raises(InputError, match="depths"), Erasure({3: subspace()}).at(tiny_llama()):
        pass
    with pytest.raises(InputError, match="width 8"), Erasure({1: subspace(8, 1)}).at(tiny_llama()):
        pass
    with pytest.raises(InputError, match="orthogonal projection"):
        UnwrittenDirections(subspace(scale=torch.ones(32)), 1)
