"""What an objective may ask of the model as it was before training, records that belong together, and masks."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional

from remanent.core.displacement import Here, Rounding
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode
from remanent.core.method import At, Method, Objective, Recipe, Term
from remanent.core.scores import answer_scores
from remanent.core.update import Update
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.unlearning import scrub
from remanent.unlearning.scrub import Scrub


@dataclass(frozen=True)
class ToReference(Objective):
    terms: ClassVar = {"retain": Term("token", ("retain",))}

    def at_reference(self, batches, predict):
        return {"retain": predict(batches["retain"]).distribution}

    def losses(self, batches, predict):
        batch = batches["retain"]
        return {"retain": functional.kl_div(predict(batch).distribution, batch.live, log_target=True, reduction="sum")}


def updates(model, method, batches, count, **options):
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    update = Update(model, method, optimizer, steps=count, **options)
    return [update(batches) for _ in range(count)], update


def test_the_reference_is_the_model_before_training(tiny_llama, make_batch):
    model, batches = tiny_llama(), {"retain": make_batch(5, seed=1)}
    before = answer_scores(model.eval(), batches["retain"]).distribution.detach()
    method = Method(ToReference(), points=[Here(), Rounding("int2-row")])
    losses, _ = updates(model, method, batches, 3)
    assert losses[0]["retain@full"] == 0.0 < losses[0]["retain@int2-row"]
    assert losses[1]["retain@full"] > 0
    # The third loss is the divergence that the second update left behind.
    again = tiny_llama()
    updates(again, method, batches, 2)
    now = answer_scores(again.eval(), batches["retain"]).distribution.detach()
    expected = functional.kl_div(now, before, log_target=True, reduction="sum") / batches["retain"].units("token")
    assert losses[2]["retain@full"] == pytest.approx(float(expected), rel=1e-4)


def test_micro_batches_change_nothing(tiny_llama, make_batch):
    batches = {"retain": make_batch(5, seed=1)}
    found = []
    for micro_batch in (None, 2):
        model = tiny_llama()
        # At a rounded point, since here the first gradient is zero, and AdamW makes steps of its rounding errors.
        method = Method(ToReference(), points=[Rounding("int2-row")])
        losses, _ = updates(model, method, batches, 3, micro_batch=micro_batch)
        found.append(losses[-1]["retain@int2-row"])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@dataclass(frozen=True)
class Counted(Scrub):
    """Notes for which roles the reference is passed through, and which are learned from."""

    asked: list = field(default_factory=list)

    def at_reference(self, batches, predict):
        self.asked.append(tuple(batches))
        return super().at_reference(batches, predict)


def test_the_reference_is_asked_for_the_roles_whose_turn_it_is(tiny_llama, make_batch, snapshot, same_bits):
    """SCRUB takes turns: min steps ask it for retain, max steps for forget. The update is what it was."""
    batches = {"forget": make_batch(5, seed=1), "retain": make_batch(3, seed=2)}
    chosen = scrub.method(max_share=1.0)
    asked, model = [], tiny_llama()
    updates(model, replace(chosen, objective=Counted(asked=asked)), batches, 4)
    assert asked == [("retain",), ("forget",)] * 2
    # With micro-batches the shorter role runs out: the reference is not passed through for nothing.
    del asked[:]
    updates(tiny_llama(), replace(chosen, objective=Counted(asked=asked)), batches, 2, micro_batch=2)
    assert asked == [("retain",)] * 2 + [("forget",)] * 3
    # As against a copy that is asked every time.
    other = tiny_llama()
    updates(other, replace(chosen, objective=AgainstACopy(copy=tiny_llama())), batches, 4)
    assert same_bits(snapshot(other), snapshot(model))


@dataclass(frozen=True)
class AgainstACopy(Scrub):
    """Needs no reference: it has a second model."""

    copy: nn.Module | None = None
    at_reference = Objective.at_reference

    def losses(self, batches, predict):
        with torch.no_grad():
            live = {role: answer_scores(self.copy, batch).distribution for role, batch in batches.items()}
        return super().losses({role: replace(batch, live=live[role]) for role, batch in batches.items()}, predict)


@dataclass(frozen=True)
class Pairs(Objective):
    seen: list
    terms: ClassVar = {"pair": Term("record", ("forget", "other"))}
    paired: ClassVar = {"other": "forget"}

    def losses(self, batches, predict):
        self.seen.append([batches[role].records.tolist() for role in ("forget", "other")])
        return {"pair": predict(batches["forget"]).nll.sum() + predict(batches["other"]).nll.sum()}


def test_paired_records_come_together(tiny_llama, make_records):
    seen = []
    records = make_records(7, seed=3)
    episode = Episode("pairs", "erase", {"forget": records, "other": records[::-1]})
    method = Method(Pairs(seen), recipe=Recipe(steps=5, batch_size=3))
    run_episode(tiny_llama(), method, episode, Settings(pad_id=0))
    assert len(seen) == 5
    assert all(first == second for first, second in seen)
    short = Episode("pairs", "erase", {"forget": records, "other": records[:-1]})
    with pytest.raises(InputError, match="one record for each of the 7"):
        run_episode(tiny_llama(), method, short, Settings(pad_id=0))


def test_masked_entries_stay_bit_for_bit(tiny_llama, make_batch):
    model, batches = tiny_llama(), {"retain": make_batch(5, seed=1)}
    generator = torch.Generator().manual_seed(0)
    before = {name: weight.detach().clone() for name, weight in Weights.of(model).items()}
    mask = {name: torch.rand(weight.shape, generator=generator) < 0.5 for name, weight in before.items()}
    method = replace(Method(ToReference(), points=[At(Rounding("int2-row"))]), mask=mask)
    updates(model, method, batches, 3)
    changed = 0
    for name, weight in Weights.of(model).items():
        assert torch.equal(weight[~mask[name]], before[name][~mask[name]]), name
        changed += int((weight[mask[name]] != before[name][mask[name]]).sum())
    assert changed > 0.5 * sum(int(part.sum()) for part in mask.values())
