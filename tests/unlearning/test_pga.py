"""PGA: its loss by hand, its probes' directions, and when they are fitted again."""

from __future__ import annotations

import pytest
import torch

from remanent.core.activations import asked_states, states_of
from remanent.core.batch import collate
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.method import Method
from remanent.core.predict import Predict
from remanent.core.probe import fit_probe
from remanent.core.update import Update
from remanent.errors import InputError
from remanent.unlearning.pga import PGA, PGAMethod, method


class States:
    """In the place of a model: hidden states that are given."""

    def __init__(self, values):
        self.values = values

    def stream(self, batch, depths):
        return {depth: self.values[id(batch)][depth] for depth in depths}


def test_the_loss_by_hand(make_batch):
    forget, retain = make_batch(2, seed=1), make_batch(3, seed=2)
    given = {}
    for batch, first in ((forget, 1.0), (retain, 0.0)):
        shape = (*batch.input_ids.shape, 2)
        # Depth 1: apart by 1 along the first axis; depth 2: by 3 along the second, which w does not look along.
        given[id(batch)] = {
            1: torch.zeros(shape) + torch.tensor([first, 5.0]),
            2: torch.zeros(shape) + torch.tensor([4.0, 3 * first]),
        }
    objective = PGA((1, 2), {1: torch.tensor([0.6, 0.8]), 2: torch.tensor([1.0, 0.0])})
    loss = objective.align(forget, retain, States(given))
    assert loss.item() == pytest.approx(2 * 0.36 / 2)  # two pairs, mean over two depths; the third has no partner


@pytest.mark.parametrize("records", [(5, 3), (3, 5)])
def test_it_is_a_mean_over_pairs_where_one_role_has_more_records(records, tiny_llama, make_batch):
    model, batches = tiny_llama(), {"forget": make_batch(records[0], seed=1), "retain": make_batch(records[1], seed=2)}
    objective = PGA((1,), {1: torch.nn.functional.normalize(torch.ones(32), dim=0)})
    first = [batch.split(3)[0] for batch in batches.values()]
    pairs = float(objective.align(*first, Predict(model)).detach()) / 3
    for size in (None, 2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        losses = Update(model, Method(objective), optimizer, steps=1, micro_batch=size)(batches)
        assert losses["align@full"] == pytest.approx(pairs, rel=1e-5)


def test_gradients_flow_through_both_states_and_not_through_the_direction(tiny_llama, make_batch):
    model, forget, retain = tiny_llama(), make_batch(3, seed=1), make_batch(3, seed=2)
    direction = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(0)), dim=0)
    PGA((1,), {1: direction}).align(forget, retain, Predict(model)).backward()
    rows = model.model.embed_tokens.weight.grad.abs().sum(dim=1) > 0
    assert all(rows[batch.input_ids[:, 1]].all() for batch in (forget, retain))
    assert direction.grad is None


def test_the_first_directions_are_those_of_probes_on_the_model(tiny_llama, make_records):
    model, forget, retain = tiny_llama(), make_records(4, seed=1), make_records(8, seed=2)
    begun = method(depths=1).begin(model, Episode("one", "erase", {"forget": forget, "retain": retain}))
    assert begun.objective.depths == (2,)
    states = [states_of(model, records, (2,))[2] for records in (forget, retain[::2])]
    expected = fit_probe(torch.cat(states), torch.arange(8) < 4).direction
    torch.testing.assert_close(begun.objective.directions[2], expected.float())


def test_states_are_those_from_which_answers_begin(make_batch, make_records):
    batch = make_batch(3, seed=1)
    places = torch.arange(batch.input_ids.shape[1]).expand(3, -1)[..., None]
    assert asked_states(places, batch)[:, 0].tolist() == [2, 2, 2]  # prompts of three tokens
    text = collate(make_records(3, seed=1, prompt=0, longest=6), range(3), 0)
    lengths = text.attention_mask.sum(dim=1)
    assert asked_states(places, text)[:, 0].tolist() == (lengths - 2).clamp_min(0).tolist()


def test_probes_are_fitted_again_every_so_many_updates(tiny_llama, make_records, monkeypatch):
    fits = []
    fitted = PGAMethod.fitted
    monkeypatch.setattr(PGAMethod, "fitted", lambda self, model: (fits.append(1), fitted(self, model))[1])
    data = {"forget": make_records(4, seed=1), "retain": make_records(4, seed=2)}
    chosen = with_settings(method(refit=2), steps=5, batch_size=2)
    run_episode(tiny_llama(), chosen, Episode("one", "erase", data), Settings(0))
    assert len(fits) == 1 + 2


@pytest.mark.parametrize("given", [{"depths": -1}, {"refit": 0}, {"strength": 0.0}])
def test_what_is_wrong_is_named(given):
    with pytest.raises(InputError, match=next(iter(given))):
        method(**given)


def test_without_probes_there_is_no_loss(make_batch):
    with pytest.raises(InputError, match="directions"):
        PGA((1,)).align(make_batch(2), make_batch(2), None)
