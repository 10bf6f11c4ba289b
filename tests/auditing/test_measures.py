"""Measures of sets by hand, the line that judges them, and the whole on small models that were taught or were not."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from remanent.auditing.audit import audit
from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import (
    AUDITED,
    CONTROL,
    FORGET,
    ORIGINAL,
    RETAIN,
    RETRAINED,
    ConditionInfo,
    Evidence,
    Measure,
)
from remanent.auditing.judge import judge
from remanent.auditing.judgement import NOT_ASSESSABLE, PASSED, WARNED, Criteria
from remanent.auditing.measures import measures
from remanent.auditing.membership_line import membership
from remanent.auditing.plan import AuditData, AuditPlan
from remanent.auditing.statement import build_statement
from remanent.auditing.text_scores import TextScore
from remanent.core.batch import collate
from remanent.core.scores import answer_scores
from remanent.data.authors import author_sets
from remanent.data.encode import encode_all, pad_id
from remanent.models.load import load
from remanent.models.save import save
from remanent.models.tiny import tiny

CRITERIA = Criteria(bootstrap_resamples=300)
FULL = ConditionInfo("full", "full", "As saved.")


def scored(levels, per_group=2, **more):
    return [
        TextScore(f"{index:016x}", f"{index // per_group:016x}", {"loss": level, "min-k": level, **more})
        for index, level in enumerate(levels)
    ]


def named(found, subject=AUDITED, condition="full"):
    return {(item.records, item.name): item for item in found if (item.subject, item.condition) == (subject, condition)}


def test_means_and_membership_by_hand():
    forget = scored([-1.0, -3.0], 1, **{"exact-memorization": 0.5, "extraction-strength": 0.25, "truth-ratio": 0.0})
    control = scored([-2.0, -4.0], 1, **{"exact-memorization": 0.1, "extraction-strength": 0.0, "truth-ratio": -1.0})
    found = named(measures({(AUDITED, "full", FORGET): forget, (AUDITED, "full", CONTROL): control}, CRITERIA))
    # -1 beats both, -3 beats one: 3 of 4.
    assert found[FORGET, "membership-loss"].value == 0.75
    assert found[FORGET, "membership-loss"].n == 4
    assert found[FORGET, "membership-loss-tpr"].value == 0.5
    assert found[CONTROL, "exact-memorization"].value == pytest.approx(0.1)
    assert found[FORGET, "truth-ratio"].value == 1.0
    assert found[CONTROL, "truth-ratio"].value == pytest.approx(math.exp(-1))
    assert not [name for _, name in found if "beyond" in name or "quality" in name or "reference" in name]


def test_a_retrained_model_is_the_yardstick():
    generator = np.random.default_rng(0)
    hard = generator.normal(-4, 1, 40)
    found = {
        (AUDITED, "full", FORGET): scored(hard[:20] + 1, **{"truth-ratio": -2.0}),
        (AUDITED, "full", CONTROL): scored(hard[20:]),
        (RETRAINED, "full", FORGET): scored(hard[:20], **{"truth-ratio": -0.1}),
        (RETRAINED, "full", CONTROL): scored(hard[20:]),
    }
    made = measures(found, CRITERIA)
    ours, theirs = named(made), named(made, RETRAINED)
    auc, other = ours[FORGET, "membership-loss"].value, theirs[FORGET, "membership-loss"].value
    assert ours[FORGET, "membership-loss-beyond"].value == pytest.approx(auc - other)
    # A = 1 - AUC, so the leak is 100 (other - auc) / (1 - other).
    assert ours[FORGET, "priv-leak"].value == pytest.approx(100 * (other - auc) / (1 - other))
    assert ours[FORGET, "forget-quality-distance"].value == 1.0
    assert ours[FORGET, "forget-quality"].value < -9
    # Calibrated, every forgotten record stands out by 1 and no control record does.
    assert ours[FORGET, "membership-reference"].value == 1.0
    assert (FORGET, "membership-reference") not in theirs
    assert (FORGET, "priv-leak") not in theirs


def test_what_is_not_finite_has_no_value_and_is_not_assessable():
    found = {(AUDITED, "full", FORGET): scored([math.nan, 1.0]), (AUDITED, "full", CONTROL): scored([0.0, 1.0])}
    made = measures(found, CRITERIA)
    assert named(made)[FORGET, "membership-loss"].value is None
    line = membership(Evidence((FULL,), (), measures=made), CRITERIA, "full")
    assert line is not None
    assert line.verdict == NOT_ASSESSABLE


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ((0.50, 0.40, 0.60), PASSED),
        ((0.75, 0.61, 0.90), WARNED),  # remembered
        ((0.75, 0.59, 0.90), PASSED),  # not shown
        ((0.25, 0.10, 0.39), WARNED),  # a hole marks the records too
        ((0.25, 0.10, 0.41), PASSED),
        ((1.00, None, None), PASSED),  # a single group bounds nothing
    ],
)
def test_membership_is_judged_on_both_sides(figures, verdict):
    made = (
        Measure(AUDITED, "full", FORGET, "membership-loss", 0.5, 0.45, 0.55, 40),
        Measure(AUDITED, "full", FORGET, "membership-zlib", *figures, 40),
        Measure(AUDITED, "full", FORGET, "membership-zlib-tpr", 1.0, 1.0, 1.0, 40),
        Measure(ORIGINAL, "full", FORGET, "membership-loss", 1.0, 1.0, 1.0, 40),
    )
    line = membership(Evidence((FULL,), (), measures=made), CRITERIA, "full")
    assert line is not None
    assert line.verdict == verdict
    assert verdict == PASSED or "zlib" in line.reason
    assert membership(Evidence((FULL,), (), measures=made), CRITERIA, "int8") is None


def test_where_retrained_models_tell_too_their_auc_is_chance():
    made = (
        Measure(AUDITED, "full", FORGET, "membership-loss", 0.9, 0.85, 0.95, 40),
        Measure(AUDITED, "full", FORGET, "membership-loss-beyond", 0.01, -0.02, 0.04, 40),
        Measure(RETRAINED, "full", FORGET, "membership-loss", 0.89, 0.84, 0.94, 40),
    )
    line = membership(Evidence((FULL,), (), measures=made), CRITERIA, "full")
    assert line is not None
    assert (line.verdict, line.interval.value) == (PASSED, 0.01)
    assert "0.890" in line.reason


def test_evidence_of_the_first_version_is_still_read():
    made = (Measure(AUDITED, "full", FORGET, "membership-loss", 0.5, None, 0.6, 4),)
    evidence = Evidence((FULL,), (), measures=made)
    plain = json.loads(json.dumps(evidence.to_dict()))
    assert Evidence.from_dict(plain) == evidence
    del plain["measures"]
    assert Evidence.from_dict({**plain, "schema": "remanent/evidence/v1"}) == replace(evidence, measures=())
    with pytest.raises(TypeError, match="v3"):
        Evidence.from_dict({**plain, "schema": "remanent/evidence/v3"})


def taught(records, vocabulary, place, steps):
    made = tiny(vocabulary, hidden=64, seed=0)
    encoded = encode_all(records, made.tokenizer)
    optimizer = torch.optim.AdamW(made.model.parameters(), lr=3e-3)
    for step in range(steps):
        rows = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(step))[:24].tolist()
        loss = -answer_scores(made.model, collate(encoded, rows, pad_id(made.tokenizer))).log_probs.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save(made.model, made.tokenizer, place)
    return lambda: load(place)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("taught")
    sets = author_sets(5, forget=8, retain=8, control=8, questions=2)
    everything = [*sets.forget, *sets.retain, *sets.control]
    knows = taught([*sets.forget, *sets.retain], everything, place / "original", 120)
    never_saw = taught(sets.retain, everything, place / "retrained", 120)
    return AuditData(sets.forget, sets.retain, sets.control), knows, never_saw


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]  # the same in every process, unlike hash()


@pytest.fixture(scope="module")
def evidence(world, tmp_path_factory):
    """The taught model, passed off as an unlearned one, beside a model that never saw the forget set."""
    data, knows, never_saw = world
    plan = AuditPlan(
        parse_conditions("few-shot-2,sampled-1.0-3"), settings={"bootstrap_resamples": 300, "epsilon": 0.25}, generate=6
    )
    folder = tmp_path_factory.mktemp("store")
    subjects = {AUDITED: knows, ORIGINAL: knows, RETRAINED: never_saw}
    first = audit(subjects, data, plan, hashed, folder=folder)
    assert audit(subjects, data, plan, hashed, folder=folder) == first  # from the store, and the draws are seeded
    return first


def test_a_taught_model_is_told_and_a_retrained_one_is_not(evidence):
    for attack in ("loss", "zlib", "min-k", "min-k++"):
        ours = evidence.measure(AUDITED, "full", FORGET, f"membership-{attack}")
        theirs = evidence.measure(RETRAINED, "full", FORGET, f"membership-{attack}")
        assert ours.value > 0.97
        # 90% of intervals hold 0.5, not all: what must never happen to a model that never saw them is to be told.
        assert theirs.low < 0.5 + CRITERIA.membership_margin
        assert theirs.high > 0.5 - CRITERIA.membership_margin
        assert abs(theirs.value - 0.5) < 0.2
        assert evidence.measure(AUDITED, "full", FORGET, f"membership-{attack}-beyond").low > 0.1
    assert evidence.measure(AUDITED, "full", FORGET, "membership-reference").value > 0.97
    assert evidence.measure(AUDITED, "full", FORGET, "priv-leak").value < -80
    strength = {
        (subject, records): evidence.measure(subject, "full", records, "extraction-strength").value
        for subject in (AUDITED, RETRAINED)
        for records in (FORGET, CONTROL)
    }
    assert strength[AUDITED, FORGET] > 0.8
    assert max(value for key, value in strength.items() if key != (AUDITED, FORGET)) < 0.5
    assert evidence.measure(AUDITED, "full", FORGET, "forget-quality").value < math.log10(0.05)
    assert evidence.measure(RETRAINED, "full", FORGET, "forget-quality") is None


def test_the_verdict_has_a_line_on_membership(evidence):
    lines = {line.condition: line for line in judge(evidence).lines if line.name == "membership"}
    assert lines["full"].verdict == WARNED
    assert "trained on" in lines["full"].reason
    swapped = {AUDITED: RETRAINED, RETRAINED: AUDITED}
    clean = replace(
        evidence,
        measures=tuple(
            replace(item, subject=swapped.get(item.subject, item.subject))
            for item in evidence.measures
            if not item.name.endswith("-beyond")
        ),
    )
    assert {line.verdict for line in judge(clean).lines if line.name == "membership"} == {PASSED}


def test_sampled_answers_are_measured_and_no_scores_are_claimed_for_them(evidence):
    sampled = {item.name for item in evidence.measures if item.condition == "sampled-1.0-3"}
    assert sampled == {"answers", "membership-answers", "membership-answers-beyond"}
    ours = evidence.measure(AUDITED, "sampled-1.0-3", FORGET, "answers").value
    assert ours > evidence.measure(RETRAINED, "sampled-1.0-3", FORGET, "answers").value + 0.2
    assert evidence.measure(AUDITED, "sampled-1.0-3", RETAIN, "answers").n == 6
    assert {line.name for line in judge(evidence).lines if line.condition == "sampled-1.0-3"} == {"membership"}
    assert not [item for item in evidence.measurements if item.condition == "sampled-1.0-3"]


def test_few_shot_prompts_are_scored_and_judged(evidence):
    full, asked = (evidence.find(AUDITED, name, FORGET) for name in ("full", "few-shot-2"))
    assert [score.tokens for score in asked.scores] == [score.tokens for score in full.scores]
    assert [score.nll for score in asked.scores] != [score.nll for score in full.scores]
    assert {"forgotten-relative", "forgotten-absolute"} <= {
        line.name for line in judge(evidence).lines if line.condition == "few-shot-2"
    }


def test_a_certificate_holds_every_measure(evidence):
    files = dict(evidence.subjects[AUDITED])
    found = build_statement(evidence, judge(evidence), files)["predicate"]["measures"]
    assert len(found) == len(evidence.measures)
    assert {"subject", "condition", "records", "name", "value", "low", "high", "n"} == set(found[0])


def test_a_model_whose_logits_are_no_numbers_has_no_measure(tmp_path):
    sets = author_sets(3, forget=4, retain=3, control=4, questions=2)
    wrong = [replace(record, wrong_answers=("Nobody knows.", "In the north.")) for record in sets.forget]
    made = tiny([*sets.forget, *sets.retain, *sets.control], hidden=32, seed=0)
    with torch.no_grad():
        made.model.model.norm.weight.fill_(float("nan"))
    asked = "full,sampled-1,extraction,exposure,muse,fluency,blur,utility"
    limits = ("exact-memorization<=0.9", "extraction-likelihood<=0.9", "knowledge<=0.9", "leaked<=0.9", "exposure<=9")
    plan = AuditPlan(
        parse_conditions(asked), generate=2, settings={"require": list(limits), "bootstrap_resamples": 200}
    )
    for _ in range(2):  # the second goes on from what the first kept
        data = AuditData(wrong, sets.retain, sets.control, [])
        found = audit(
            {AUDITED: lambda: made}, data, plan, lambda text: hashlib.sha256(text.encode()).hexdigest(), folder=tmp_path
        )
        assert {item.name for item in found.measures if item.value is not None} == set()
        lines = [line for line in judge(found).lines if line.name in limits]
        assert {line.verdict for line in lines} == {NOT_ASSESSABLE}
        assert {line.name for line in lines} == set(limits)
        assert any("At muse the audited model's logits are not finite" in note for note in found.notes)
