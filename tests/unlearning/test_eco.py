"""ECO: what is called forget, what is corrupted then, and that nothing else is."""

from __future__ import annotations

import pytest
import torch

from remanent.core.batch import IGNORED, Encoded
from remanent.core.edit import EditSettings
from remanent.core.intervention import named_arguments, put_on
from remanent.errors import InputError
from remanent.unlearning.eco import CorruptedPrompts, edit


def record(*ids, prompt=2):
    return Encoded(tuple(ids), (*[IGNORED] * prompt, *ids[prompt:]))


DATA = {
    "forget": [record(1, 7, 10, 11), record(1, 7, 12, 13), record(1, 7, 14, 11)],
    "retain": [record(1, 8, 10, 11), record(1, 9, 12, 13), record(1, 8, 14, 11)],
}


def given(**changes):
    """Forget where token 7 is and token 9 is not."""
    fields = {"bias": -1.0, "strength": 5.0, "dimensions": 0, "threshold": 0.5, "seed": 0, **changes}
    return CorruptedPrompts(torch.tensor([7, 9]), torch.tensor([2.0, -3.0]), **fields)


def test_what_is_called_forget_by_hand():
    ids = torch.tensor([[1, 7, 7, 3], [1, 7, 9, 3], [1, 3, 3, 3], [1, 7, 9, 9]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])
    assert given().found(ids).tolist() == [True, False, False, False]
    assert given().found(ids, mask).tolist() == [True, False, False, True]  # what fills a row is not read
    assert given(threshold=0.8).found(ids).tolist() == [False] * 4  # sigmoid(1) = .73


def test_the_classifier_tells_the_token_that_only_forget_has():
    made = edit().classifier(DATA["forget"], DATA["retain"])
    assert made.found(torch.tensor([[1, 7, 40], [1, 8, 40], [1, 9, 12]])).tolist() == [True, False, False]


@pytest.mark.parametrize("make", ["tiny_llama", "tiny_gpt2"])
def test_only_prompts_that_are_found_are_corrupted_and_never_their_last_token(make, request):
    model = request.getfixturevalue(make)()
    table = model.get_input_embeddings()
    seen = []
    put_on(model, given(dimensions=4))
    table.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    ids = torch.tensor([[1, 7, 5, 3], [1, 4, 5, 3]])
    with torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    moved = (seen[0] != table.weight[ids]).any(dim=-1)
    assert moved.tolist() == [[True, True, True, False], [False] * 4]
    assert not (seen[0] != table.weight[ids])[..., 4:].any()
    seen.clear()
    alone = torch.tensor([[1, 7, 5, 3]])
    with torch.no_grad():
        model(input_ids=alone)
    again = torch.tensor([[0, 1, 7, 5, 3]])  # filled on the left, as answers are generated
    with torch.no_grad():
        model(input_ids=again, attention_mask=torch.tensor([[0, 1, 1, 1, 1]]))
    torch.testing.assert_close(seen[1][:, 1:], seen[0])


@pytest.mark.parametrize("make", ["tiny_llama", "tiny_gemma"])
def test_noise_is_as_large_as_the_embeddings_that_it_is_added_to(make, request):
    """Gemma's layer gives the square root of the width times what its table holds."""
    model, ids, seen = request.getfixturevalue(make)(), torch.tensor([[7, *range(10, 48)]]), []
    embeddings = model.get_input_embeddings()
    plain = embeddings(ids).detach()
    put_on(model, given())
    embeddings.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    model(input_ids=ids)
    noise = (seen[0] - plain)[:, :-1]
    assert float(noise.std() / plain.std()) == pytest.approx(5.0, rel=0.1)


def test_what_it_writes_itself_is_not_corrupted(tiny_llama):
    model, steps = tiny_llama(), []
    put_on(model, given())
    table = model.get_input_embeddings()
    table.register_forward_hook(lambda m, inputs, out: steps.append(bool((out != m.weight[inputs[0]]).any())))
    model.generate(torch.tensor([[1, 7, 5, 3]]), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert steps == [True, False, False]


def test_without_a_cache_what_it_wrote_is_given_anew_and_corrupted_but_the_last(tiny_llama):
    model, steps = tiny_llama(), []
    put_on(model, given())
    table = model.get_input_embeddings()
    table.register_forward_hook(lambda m, inputs, out: steps.append((out != m.weight[inputs[0]]).any(-1)[0].tolist()))
    ids = torch.tensor([[1, 7, 5, 3]])
    model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False, use_cache=False)
    assert steps == [[True] * size + [False] for size in (3, 4, 5)]


def test_the_edit_moves_no_weight_and_says_so(tiny_llama, snapshot, same_bits):
    model, said = tiny_llama(), []
    before = snapshot(model)
    made = edit().edit(model, DATA, EditSettings(on_warning=said.append))
    assert made.report["weights_changed"] == 0
    assert (made.report["forget_called_forget"], made.report["retain_called_forget"]) == (1.0, 0.0)
    assert "still hold" in said[0]
    made.undo.undo()
    assert same_bits(snapshot(model), before)


@pytest.mark.parametrize("wrong", [{"strength": 0.0}, {"dimensions": -1}, {"threshold": 1.0}, {"penalty": 0.0}])
def test_what_is_wrong_is_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        edit(**wrong)


def test_more_coordinates_than_there_are(tiny_llama):
    with pytest.raises(InputError, match="at most 32"):
        put_on(tiny_llama(), given(dimensions=33))
    with pytest.raises(InputError, match="input_ids"):
        named_arguments((), {"inputs_embeds": torch.zeros(1)})
