from __future__ import annotations

import pytest
import torch

from remanent.core.batch import collate
from remanent.core.reference import reference_nll
from remanent.core.update import Update
from remanent.errors import InputError
from remanent.unlearning.grad_ascent import GradAscent
from remanent.unlearning.grad_diff import GradDiff, GradDiffAtReference, method


def test_by_hand(answers, taken):
    forget, retain = answers([1.0, 2.0], [6.0]), answers([1.0], [2.0, 3.0, 4.0])
    losses = taken(GradDiff(), forget=forget, retain=retain)
    assert losses["forget"].item() == pytest.approx(-3.0)
    assert losses["retain"].item() == pytest.approx(2.5)


def test_its_forget_term_is_gradient_ascent(answers, taken):
    batch = answers([0.3, 2.0], [6.0], [0.1, 0.2, 0.3])
    assert taken(GradDiff(), forget=batch)["forget"] == taken(GradAscent(), forget=batch)["forget"]


def test_a_batch_that_is_not_there_gives_no_term(answers, taken):
    batch = answers([1.0])
    assert list(taken(GradDiff(), retain=batch)) == ["retain"]


def test_weights_reach_the_composition():
    assert method(forget_weight=0.5, retain_weight=2.0).weights == {"forget": 0.5, "retain": 2.0}


def test_at_the_reference_by_hand(answers, taken):
    """NLL 1 and 9 against a reference of 3 and 4, over 4 tokens; its forget term is gradient ascent."""
    forget, retain = answers([1.0, 2.0], [6.0]), answers([1.0], [2.0, 3.0, 4.0], reference=[3.0, 4.0])
    losses = taken(GradDiffAtReference(), forget=forget, retain=retain)
    assert losses["forget"].item() == pytest.approx(-3.0)
    assert losses["retain"].item() == pytest.approx((2 + 5) / 4)
    losses["retain"].backward()
    assert retain[1].nll.grad.tolist() == pytest.approx([-0.25, 0.25, 0.25, 0.25])
    with pytest.raises(InputError, match="reference"):
        taken(GradDiffAtReference(), retain=answers([1.0]))


def test_durableuns_forms_have_its_settings(tiny_llama, make_records):
    ga, diff = method("durableun-ga"), method("durableun-grad-diff")
    assert ga.objective == GradDiff()
    for chosen in (ga, diff):
        recipe = chosen.recipe
        assert (recipe.learning_rate, recipe.steps, recipe.batch_size) == (5e-5, 300, 4)
        assert (recipe.schedule, recipe.warmup) == ("cosine", 0.0)
    with pytest.raises(InputError, match="form"):
        method("ga")
    model, records = tiny_llama(), make_records(5)
    reference = reference_nll(model, records, pad_id=0) + torch.tensor([0.5, -0.5, 0.5, -0.5, 0.5])
    batches = {"forget": collate(records, [0, 1], 0), "retain": collate(records, range(5), 0).with_reference(reference)}
    found = []
    for micro_batch in (None, 1):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        losses = Update(model, diff, optimizer, steps=1, micro_batch=micro_batch)(batches)
        found.append((losses, model.model.layers[0].mlp.down_proj.weight.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)
    assert found[0][0]["retain@full"] == pytest.approx(2.5 / batches["retain"].units("token"), rel=1e-3)
