from __future__ import annotations

import copy

import pytest
import torch

from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import AUDITED, CONTROL, FORGET
from remanent.auditing.gradient_norm import GradientNorm, gradient_norm
from remanent.auditing.judgement import Criteria
from remanent.auditing.measure import AuditSet, Measurer
from remanent.auditing.measures import measures
from remanent.core.batch import collate
from remanent.core.scores import answer_scores
from remanent.data.authors import author_sets
from remanent.data.encode import encode_all
from remanent.errors import InputError, UnsupportedError
from remanent.models.tiny import tiny

SETS = author_sets(0, forget=3, retain=1, control=3, questions=2)


@pytest.fixture(scope="module")
def made():
    return tiny([*SETS.forget, *SETS.control], hidden=32)


def test_it_is_the_mean_of_the_tensors_norms_and_leaves_no_trace(made):
    model = copy.deepcopy(made.model).train()
    batch = collate(encode_all(SETS.forget, made.tokenizer), [1], 0)
    kept = torch.ones_like(next(model.parameters()))
    next(model.parameters()).grad = kept
    found = gradient_norm(model, batch)
    assert next(model.parameters()).grad is kept
    assert all(weight.grad is None for weight in list(model.parameters())[1:])
    assert model.training
    model.eval().zero_grad()
    (-answer_scores(model, batch).log_probs.mean()).backward()
    norms = [weight.grad.norm() for weight in model.parameters() if weight.grad is not None]
    assert found == pytest.approx(float(torch.stack(norms).mean()), rel=1e-5)
    for weight in model.parameters():
        weight.requires_grad = False
    with pytest.raises(UnsupportedError, match="takes a gradient"):
        gradient_norm(model, batch)


def test_what_was_learnt_pulls_less(made):
    model = copy.deepcopy(made.model)
    encoded = encode_all(SETS.forget, made.tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        (-answer_scores(model, collate(encoded, range(len(encoded)), 0)).log_probs.mean()).backward()
        optimizer.step()
    named = {FORGET: SETS.forget, CONTROL: SETS.control}
    parts = {name: AuditSet.of(part, made.tokenizer, str) for name, part in named.items()}
    (_, condition) = parse_conditions("gradient-norm")
    found = condition.look.given(named)(Measurer(AUDITED, model, made.tokenizer, parts), condition, 0)
    made_of = measures({(AUDITED, "g", name): part for name, part in found.items()}, Criteria(bootstrap_resamples=300))
    told = {item.name: item.value for item in made_of}
    assert told["membership-gradient-norm"] > 0.9
    with pytest.raises(InputError, match="control"):
        GradientNorm().given({FORGET: SETS.forget})
