"""The guardrail: a guarded model is the model asked with the text before it, whether it scores or answers."""

from __future__ import annotations

import pytest
import torch

from remanent.core.activations import every_state, states_of
from remanent.core.batch import Encoded
from remanent.core.edit import EditSettings
from remanent.core.intervention import put_on
from remanent.core.scores import score_records
from remanent.errors import InputError, UnsupportedError
from remanent.unlearning.guardrail import Guardrail, Prefix, edit

GUARD = (7, 8, 9)


def guarded(records):
    """The same records with the text before them."""
    return [Encoded((*GUARD, *r.input_ids), (*[-100] * len(GUARD), *r.labels)) for r in records]


@pytest.mark.parametrize("make", ["tiny_llama", "tiny_gpt2"])
def test_it_scores_as_with_the_text_before_each_record(make, request, make_records):
    model, records = request.getfixturevalue(make)(), make_records(5)
    expected = score_records(model, guarded(records), pad_id=0)
    plain = score_records(model, records, pad_id=0)
    undo = put_on(model, Prefix(torch.tensor(GUARD)))
    found = score_records(model, records, pad_id=0)
    torch.testing.assert_close(found.nll, expected.nll, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found.nll, plain.nll)
    undo.undo()
    assert torch.equal(score_records(model, records, pad_id=0).nll, plain.nll)


def test_logits_are_where_they_were(tiny_llama):
    model, ids = tiny_llama(), torch.tensor([[3, 4, 5, 6]])
    whole = model(input_ids=torch.cat([torch.tensor([GUARD]), ids], dim=1)).logits
    put_on(model, Prefix(torch.tensor(GUARD)))
    torch.testing.assert_close(model(input_ids=ids).logits, whole[:, 3:])
    torch.testing.assert_close(model(input_ids=ids, logits_to_keep=1).logits, whole[:, -1:])
    torch.testing.assert_close(model(input_ids=ids, logits_to_keep=torch.tensor([1, 2])).logits, whole[:, 4:6])


@pytest.mark.parametrize("make", ["tiny_llama", "tiny_gpt2"])
def test_hidden_states_are_where_they_were(make, request, make_records):
    """Probes, own vectors and RMU read a record's own tokens, behind the text or two of them."""
    model, records = request.getfixturevalue(make)(), make_records(5)
    for depths in ((0, 1), (0, 1, 2)):  # the last runs to the end of the model
        expected = states_of(model, guarded(guarded(records)), depths, every_state)
        rows = torch.cat([torch.arange(len(r.input_ids) + 6) >= 6 for r in records])
        undo = [put_on(model, Prefix(torch.tensor(GUARD))) for _ in range(2)]
        found = states_of(model, records, depths, every_state)
        for item in reversed(undo):
            item.undo()
        for depth in depths:
            torch.testing.assert_close(found[depth], expected[depth][rows], rtol=1e-5, atol=1e-5)


def test_it_answers_as_with_the_text_before_each_prompt(tiny_llama):
    model = tiny_llama()
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    alone = [
        model.generate(torch.tensor([[*GUARD, *prompt]]), **options)[0, -4:].tolist()
        for prompt in ([4, 5, 6], [10, 11])
    ]
    ids, mask = torch.tensor([[4, 5, 6], [0, 10, 11]]), torch.tensor([[1, 1, 1], [0, 1, 1]])
    undo = put_on(model, Prefix(torch.tensor(GUARD)))
    found = model.generate(input_ids=ids, attention_mask=mask, **options)
    assert torch.equal(found[:, :3], ids)
    assert found[:, 3:].tolist() == alone
    undo.undo()
    assert "generate" not in model.__dict__


def test_the_text_names_what_must_not_be_told(tiny_llama, make_records):
    asked = []

    def tokens(text):
        asked.append(text)
        return GUARD

    made = edit("Not a word about {groups}.").edit(
        tiny_llama(), {"forget": make_records(6)}, EditSettings(tokens=tokens, on_warning=asked.append)
    )
    assert asked[0] == "Not a word about group0, group1, group2, group3.\n"
    assert "still hold" in asked[1]
    assert made.report == {"intervention": "guardrail", "weights_changed": 0, "tokens": 3}


def test_what_does_not_fit_is_refused(tiny_llama, make_records):
    with pytest.raises(InputError, match="at most 16"):
        put_on(tiny_llama(), Prefix(torch.arange(17)))
    with pytest.raises(InputError, match="tokens"):
        Guardrail().edit(tiny_llama(), {"forget": make_records(2)}, EditSettings())
    model = tiny_llama()
    put_on(model, Prefix(torch.tensor(GUARD)))
    ids = torch.tensor([[3, 4]])
    with pytest.raises(UnsupportedError, match="no cache or labels"):
        model(input_ids=ids, labels=ids)
