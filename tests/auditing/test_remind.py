"""REMIND: neighbours and landscapes by hand, what may not be replaced, and the classifier that saw no group."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from remanent.auditing.audit import audit
from remanent.auditing.classifier import fitted_scores
from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL
from remanent.auditing.judgement import Criteria
from remanent.auditing.measures import measures
from remanent.auditing.plan import AuditData, AuditPlan
from remanent.auditing.remind import (
    RANKS,
    STRENGTHS,
    Remind,
    TokenNeighbours,
    around,
    changeable,
    embeddings,
    figures_of,
    landscape,
    landscapes,
    neighbours,
)
from remanent.auditing.text_score import TextScore
from remanent.core.batch import IGNORED, Encoded
from remanent.core.displacement import Rounding
from remanent.core.probe import fit_probe
from remanent.data.authors import author_sets
from remanent.data.encode import encode_all
from remanent.errors import InputError
from remanent.models.load import Loaded
from remanent.models.source import Source
from remanent.models.tiny import tiny


def text(*ids: int, answer_at: int = 0, key: str = "k") -> Encoded:
    return Encoded(ids, (*[IGNORED] * answer_at, *ids[answer_at:]), "g", key)


def every(count: int = 100) -> TokenNeighbours:
    """Each token's neighbours are the next ones."""
    near = np.stack([(np.arange(count) + rank) % count for rank in RANKS], axis=1)
    return TokenNeighbours({token: token for token in range(count)}, near)


class Words:
    """A tokenizer of eight words, of which 0 is special, 5 a piece of a character and 2 is 1 in capitals."""

    all_special_ids = (0,)
    added_tokens_decoder: dict = {}  # noqa: RUF012
    words = ("<s>", " cat", " Cat", " dog", " cow", "\ufffd", " pig", " hen", " ", " ox")

    def __len__(self):
        return len(self.words)

    def batch_decode(self, ids):
        return [self.words[token] for (token,) in ids]


def test_nearest_by_cosine_and_what_is_no_neighbour():
    angles = torch.tensor([0.0, 0.0, 0.01, 0.1, 0.2, 0.001, 0.3, 0.4, 0.002, 0.5])
    table = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.arange(1.0, 11)[:, None]
    found = TokenNeighbours.of(table, Words(), [text(0, 1, 5, 8, 3)])
    assert set(found.rows) == {1, 3}
    # By angle: Cat is the same word, 5 and 8 are no words, 0 is special: dog, cow, pig, hen, ox.
    assert found.near[found.rows[1]].tolist() == [3, 4, 9]
    table[4] = 0  # never trained
    assert TokenNeighbours.of(table, Words(), [text(1)]).rows == {}  # fewer than five are left
    assert set(TokenNeighbours.of(torch.rand(10, 3), Words(), [text(1)], random=True).anything) == {1, 2, 3, 4, 6, 7, 9}


def test_only_a_question_or_all_of_a_text_but_its_first_token_may_change():
    asked = [text(1, 2, 30, 4, 9, 9, answer_at=4, key="a"), text(1, 2, 31, 32, 4, 9, answer_at=5, key="b")]
    plain = text(1, 2, 3)
    assert [found.tolist() for found in changeable([*asked, plain], every())] == [[2], [2, 3], [1, 2]]


def test_neighbours_keep_labels_change_what_they_say_and_are_drawn_by_the_key():
    item, places = text(*range(1, 41), 50, 51, answer_at=40), np.arange(5, 40)
    near, shares = neighbours(item, places, every(), 480)
    for number, (other, share) in enumerate(zip(near, shares, strict=True)):
        changed = [place for place in range(42) if other.input_ids[place] != item.input_ids[place]]
        assert other.labels == item.labels
        assert set(changed) <= set(places)
        assert len(changed) == pytest.approx(share * len(places))
        assert changed  # never the text itself
        rank = STRENGTHS[number % len(STRENGTHS)][1]
        assert all(other.input_ids[place] == item.input_ids[place] + rank for place in changed)
    for place, (share, _) in enumerate(STRENGTHS):
        assert shares[place :: len(STRENGTHS)].mean() == pytest.approx(share, abs=0.06)
    again, _ = neighbours(item, places, every(), 480)
    other, _ = neighbours(text(*range(1, 41), 50, 51, answer_at=40, key="l"), places, every(), 480)
    assert again == near
    assert [found.input_ids for found in other] != [found.input_ids for found in near]


def test_landscape_by_hand():
    shares = np.array([0.1, 0.2, 0.4])
    found = landscape(1.0, np.array([1.2, 1.4, 1.8]), shares)
    assert found["loss"] == -1.0
    assert found["steepness"] == pytest.approx(2.0)  # on a line through 0 of slope 2
    assert found["neighbourhood-volatility"] == pytest.approx(0.0)
    assert found["neighbourhood-mean"] == pytest.approx(4.4 / 3)
    assert found["neighbourhood-lower"] == 0.0
    bent = landscape(1.0, np.array([0.9, 1.4, 1.8]), shares)
    # (-0.1 * 0.1 + 0.4 * 0.2 + 0.8 * 0.4) / 0.21
    assert bent["steepness"] == pytest.approx(0.39 / 0.21)
    assert bent["neighbourhood-lower"] == pytest.approx(1 / 3)
    flat = landscape(9.0, np.full(24, 9.0), np.full(24, 0.2))
    assert (flat["steepness"], flat["neighbourhood-deviation"]) == (0.0, 0.0)


def test_what_is_said_of_the_loss_around_holds_no_level():
    """Adding a constant to every loss changes none of the figures that claim to be about the landscape alone."""
    losses, shares = np.random.default_rng(0).uniform(1, 2, 24), np.tile([0.1, 0.4], 12)
    low, high = (landscape(1.0 + shift, losses + shift, shares) for shift in (0.0, 5.0))
    scored = [[TextScore("r", "g", figures)] for figures in (low, high)]
    assert figures_of(scored[0], around) == pytest.approx(figures_of(scored[1], around))
    assert not np.allclose(figures_of(scored[0]), figures_of(scored[1]))


def test_a_model_is_asked_once_and_once_for_each_neighbour(monkeypatch):
    sets = author_sets(0, forget=3, retain=1, control=3, questions=2)
    made = tiny([*sets.forget, *sets.control], hidden=32)
    encoded = encode_all([*sets.forget, *sets.control], made.tokenizer)
    table = TokenNeighbours.of(embeddings(made.model), made.tokenizer, encoded)
    passed: list[int] = []
    made.model.register_forward_pre_hook(
        lambda module, args, kwargs: passed.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    found = landscapes(made.model, encoded, table, 24, pad_id=0, batch_size=32)
    assert sum(passed) == len(encoded) * 25
    assert all(item is not None for item in found)
    once = landscapes(made.model, encoded, table, 24, pad_id=0, batch_size=7)
    assert [item["steepness"] for item in once] == pytest.approx([item["steepness"] for item in found], abs=1e-4)


def test_models_of_an_audit_are_asked_the_same_texts():
    """Each model's own embeddings, once they have moved, would say other neighbours."""
    sets = author_sets(0, forget=3, retain=1, control=3, questions=2)
    made = tiny([*sets.forget, *sets.control], hidden=32)
    other = {"paraphrased_prompt": (), "paraphrased_answer": ""}  # which the original is not asked
    data = AuditData(*([replace(record, **other) for record in part] for part in (sets.forget, (), sets.control)))
    asked: dict[str, set[tuple[int, ...]]] = {AUDITED: set(), ORIGINAL: set()}

    def subject(name):
        model = deepcopy(made.model)
        if name == AUDITED:
            with torch.no_grad():
                embeddings(model).copy_(embeddings(model)[torch.randperm(len(embeddings(model)))])
        model.register_forward_pre_hook(
            lambda module, args, kwargs: asked[name].update(
                tuple(row[row != made.tokenizer.pad_token_id].tolist()) for row in kwargs["input_ids"]
            ),
            with_kwargs=True,
        )
        return lambda: Loaded(model, made.tokenizer, Source("tiny", name))

    def audited(*names):
        for texts in asked.values():
            texts.clear()
        plan = AuditPlan(parse_conditions("remind-12"), generate=0)
        audit({name: subject(name) for name in names}, data, plan, str)
        return set(asked[AUDITED])

    both = audited(AUDITED, ORIGINAL)
    assert len(both) > 6 * 12
    assert both == asked[ORIGINAL]
    assert audited(AUDITED) != both


def test_no_group_is_scored_by_what_was_fitted_on_it():
    """Each group has a figure of its own, the same for all its records: of no use for groups that were not seen."""
    generator = np.random.default_rng(1)
    groups = [f"g{index // 8}" for index in range(160)]
    own = np.eye(20).repeat(8, axis=0)
    noise = generator.normal(size=(160, 2))
    first, second = fitted_scores(np.hstack([own, noise])[:80], np.hstack([own, noise])[80:], groups[:80], groups[80:])
    auc = (first[:, None] > second[None, :]).mean()
    assert 0.2 < auc < 0.8
    rows = torch.from_numpy(np.hstack([own, noise]))
    seen = fit_probe(rows, torch.arange(160) < 80).scores(rows)
    assert (seen[:80, None] > seen[None, 80:]).double().mean() > 0.99  # without the folds it would be found
    assert fitted_scores(own[:8], own[8:], ["a"] * 8, groups[8:]) is None
    with pytest.raises(InputError, match="finite"):
        fitted_scores(own * np.nan, own, groups, groups)


def scored(losses, slopes, name):
    shares = np.full(24, 0.2)
    pairs = zip(losses, slopes, strict=True)
    figures = [landscape(loss, loss + slope * shares, shares) for loss, slope in pairs]
    return [TextScore(f"{name}{row}", f"{name}{row // 2}", values) for row, values in enumerate(figures)]


def measured(forget, control):
    found = {(AUDITED, "remind", FORGET): forget, (AUDITED, "remind", CONTROL): control}
    return {item.name: item for item in measures(found, Criteria(bootstrap_resamples=300))}


def test_equal_losses_hide_what_the_slope_tells():
    generator = np.random.default_rng(0)
    losses = generator.normal(2, 0.3, 80)
    control = scored(losses[40:], generator.normal(1, 0.05, 40), "c")
    made = measured(scored(losses[:40], generator.normal(0.2, 0.05, 40), "f"), control)
    assert made["membership-steepness"].value == 0.0  # flat: a hole
    assert made["membership-remind"].value == 1.0
    assert made["remind-around"].value == 1.0
    assert made["remind-gain"].low > 0.1
    assert abs(made["membership-loss"].value - 0.5) < 0.2
    made = measured(scored(losses[:40], generator.normal(1, 0.05, 40), "f"), control)
    assert made["membership-remind"].low < 0.6
    assert made["remind-gain"].low < 0


def test_names_of_conditions():
    found = {item.info.name: item for item in parse_conditions("remind,remind-24+int4-row,remind-random-12")}
    assert found["remind"].look == Remind()
    assert (found["remind-24+int4-row"].look, found["remind-24+int4-row"].displacement) == (
        Remind(24),
        Rounding("int4-row"),
    )
    assert found["remind-random-12"].look == Remind(12, random=True)
    for name in ("remind-0", "remind+relearning", "remind+sampled-0.8", "sampled-0.8+remind", "few-shot-2+remind"):
        with pytest.raises(InputError, match="at"):
            parse_conditions(name)
    with pytest.raises(InputError, match="control"):
        Remind().given({FORGET: [SimpleNamespace()]})
